"""LISTEN_FDS and LISTEN_PID as sd_listen_fds(3) has them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from forkserve.errors import BindError
from forkserve.net import inherit
from forkserve.net.address import parse
from forkserve.net.inherit import Handed
from forkserve.net.listener import bind_all
from tests.harness import ROOT


def handed_in(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[Handed, ...]:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = inherit.handed_in()
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(os.environ), "children would believe them too"
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "0", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "two", "LISTEN_PID": "ours"},
        {"LISTEN_FDS": "²", "LISTEN_PID": "ours"},
    ],
)
def test_what_is_meant_for_another_process_or_makes_no_sense_is_ignored(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    ours = str(os.getpid())
    assert handed_in(monkeypatch, **{k: ours if v == "ours" else v for k, v in variables.items()}) == ()


def test_descriptors_begin_with_3_and_keep_their_names() -> None:
    """In a process of its own: only there are 3 and 4 what is handed in."""
    code = (
        "import os; from forkserve.net import inherit; os.environ['LISTEN_PID'] = str(os.getpid());"
        "print([(one.fd, one.name, one.where) for one in inherit.handed_in()])"
    )
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket() as mute:
        first, second = tcp.fileno(), mute.fileno()
        shell = f'exec 3<&{first} 4<&{second}; exec "$@"'
        ran = subprocess.run(
            ["bash", "-c", shell, "launch", sys.executable, "-c", code],
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:other:none"},
            pass_fds=(first, second), capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        where = f"127.0.0.1:{tcp.getsockname()[1]}"
    # 5 is not open, or is one of Python's own; neither was handed in.
    assert ran.stdout == f"[(3, 'web', '{where}'), (4, 'other', '')]\n"


WEB = Handed(3, "web", "127.0.0.1:8000")
WEB_TOO = Handed(4, "web", "unix:/run/web.sock")
ADMIN = Handed(5, "admin", "[::]:80", also_ipv4=True)


@pytest.mark.parametrize(
    ("bind", "chosen"),
    [
        ("fd://web", ["fd://3", "fd://4"]),
        ("fd://admin", ["fd://5"]),
        ("fd://4", ["fd://4"]),
        ("127.0.0.1:8000", ["fd://3"]),
        ("localhost:8000", ["fd://3"]),
        ("unix:/run/web.sock", ["fd://4"]),
        ("[::]:80", ["fd://5"]),
        ("0.0.0.0:80", ["fd://5"]),
        ("127.0.0.1:80", ["127.0.0.1:80"]),
        ("127.0.0.1:0", ["127.0.0.1:0"]),
        ("uwsgi://127.0.0.1:8000", ["uwsgi://fd://3"]),
    ],
)
def test_bind_means_a_socket_handed_in_by_number_name_or_address(bind: str, chosen: list[str]) -> None:
    found = inherit.choose([parse(bind)], [WEB, WEB_TOO, ADMIN])
    assert [str(place) for place in found] == chosen


def test_name_that_nothing_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(BindError, match="no socket of that name was handed in, but admin, web"):
        inherit.choose([parse("fd://wbe")], [WEB, ADMIN])


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:a|b: é%7c.sock", "unix:@forkserve-store-{pid}"])
def test_listener_comes_back_from_the_store_as_what_it_was(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [listener] = bind_all([parse(text.format(pid=os.getpid()))], backlog=16)
    name = inherit.name_in_store(listener)
    assert name.isascii() and name.isprintable() and ":" not in name
    where = listener.name if listener.inode is None else "unix:.temporary"
    theirs, ours, useless = inherit.from_store([Handed(os.dup(listener.socket.fileno()), name, where), WEB])
    assert (theirs, useless) == ((WEB,), [])
    assert [(one.address, one.name, one.inode) for one in ours] == [(listener.address, listener.name, listener.inode)]
    assert not ours[0].socket.get_inheritable()
    ours[0].close()
    listener.close(unlink=True)


def test_stored_socket_whose_path_leads_elsewhere_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [listener] = bind_all([parse("unix:s")], backlog=16)
    copy = os.dup(listener.socket.fileno())
    name = inherit.name_in_store(listener)
    os.rename("s", "elsewhere")
    assert inherit.from_store([Handed(copy, name, "unix:s")]) == ((), [], [name])
    with pytest.raises(OSError):
        os.fstat(copy)
    listener.close()


@pytest.mark.parametrize("name", ["forkserve|", "forkserve|0|0|nonsense://", "forkserve|x|0|127.0.0.1|80"])
def test_stored_name_that_makes_no_sense_is_of_no_use(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert inherit.from_store([Handed(os.dup(sock.fileno()), name, "127.0.0.1:1")]) == ((), [], [name])


def test_unwanted_sockets_are_closed_and_nothing_else() -> None:
    wanted, unwanted, internal = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
    gone = socket.socket()
    never_open = gone.detach()
    os.close(never_open)
    for handed in (wanted, unwanted):
        handed.set_inheritable(True)  # as after exec
    handed_in = [Handed(fd) for fd in (wanted.fileno(), unwanted.fileno(), internal.fileno(), never_open)]
    assert inherit.close_unwanted(handed_in, [handed_in[0].address]) == (handed_in[1],)
    assert os.get_inheritable(wanted.fileno())
    with pytest.raises(OSError):
        os.fstat(unwanted.fileno())
    os.fstat(internal.fileno())  # LISTEN_FDS counted too many: this one is our own
    unwanted.detach()
    wanted.close()
    internal.close()
