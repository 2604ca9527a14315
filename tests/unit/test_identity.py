"""Users, groups and modes as settings spell them; what it takes to become somebody needs root, see test_privileges."""

import os
import stat
from pathlib import Path

import pytest

from forkserve.errors import SettingsError
from forkserve.unix import identity
from forkserve.unix.identity import Identity, give_file

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def test_nobody_is_asked_for_where_nothing_is_wanted() -> None:
    assert identity.find("", "") == Identity()
    assert identity.find(str(os.geteuid()), "", "027") == Identity(umask=0o027)


@ROOT_ONLY
def test_user_brings_its_group_and_its_groups() -> None:
    nobody = identity.find("nobody", "")
    assert (nobody.uid, nobody.gid) == (65534, 65534)
    assert 0 not in nobody.groups
    assert identity.find("65534", "daemon").gid == identity.find_group("daemon")


@ROOT_ONLY
def test_number_without_an_entry_needs_a_group() -> None:
    with pytest.raises(SettingsError, match="give group too"):
        identity.find("54321", "")
    assert identity.find("54321", "54322") == Identity(54321, 54322, (54322,))


@pytest.mark.parametrize(
    ("user", "group", "why"), [("nosuchuser", "", "no such user"), ("", "nosuch", "no such group")]
)
def test_unknown_names_are_refused(user: str, group: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        identity.find(user, group)


@pytest.mark.parametrize("number", ["4294967295", "4294967296", "99999999999", "1" + "0" * 5000, "٣"])
def test_number_that_no_kernel_takes_for_an_id_is_refused(number: str) -> None:
    for user, group, setting in ((number, "1", "user"), ("1", number, "group")):
        with pytest.raises(
            SettingsError, match=rf"{setting} = .*: is no id of a user or group; the highest is 4294967294"
        ):
            identity.find(user, group)
    with pytest.raises(SettingsError, match=r"socket_user = .*: is no id"):
        identity.find_user(number, "socket_user")
    assert identity.find_user("4294967294") == identity.find_group("4294967294") == 4294967294


@pytest.mark.parametrize(("text", "bits"), [("", -1), ("022", 0o022), ("0o27", 0o027), ("660", 0o660), ("0", 0)])
def test_modes_are_octal(text: str, bits: int) -> None:
    assert identity.mode("umask", text) == bits


@pytest.mark.parametrize("text", ["9", "rw", "1777", "-1", "0x1f"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="must be permission bits in octal"):
        identity.mode("umask", text)


def _give(path: Path | str, who: Identity) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        give_file(fd, who)
    finally:
        os.close(fd)


@ROOT_ONLY
def test_log_file_is_given_but_no_file_of_two_names_and_no_device(tmp_path: Path) -> None:
    who = Identity(65534, 65534)
    _give(tmp_path / "log", who)
    assert (tmp_path / "log").stat().st_uid == 65534
    (tmp_path / "secret").write_text("")
    os.link(tmp_path / "secret", tmp_path / "second-name")
    _give(tmp_path / "second-name", who)
    assert (tmp_path / "secret").stat().st_uid == 0
    _give(os.devnull, who)
    assert os.stat(os.devnull).st_uid == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
