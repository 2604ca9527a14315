"""Where it listens: every kind of address, and all or nothing with one clear line where one cannot be had."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server
from tests.process.tools import answers

SITE = "tests.process.site:app"
ABSTRACT = f"unix:@forkserve-test-{os.getpid()}"


@pytest.mark.parametrize(
    ("bind", "name", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", None),
        ("[::1]:0", "[::1]", None),  # RFC 3875 section 4.1.14: in brackets
        ("localhost:0", "127.0.0.1", None),
        ("0.0.0.0:0", socket.gethostname(), None),
        ("unix:here.sock", "localhost", "80"),
        pytest.param(ABSTRACT, "localhost", "80", id="abstract"),
    ],
)
def test_address_is_served_and_named(bind: str, name: str, port: str | None) -> None:
    with Server(app=SITE, bind=[bind]) as s:
        [address] = s.addresses
        environ = s.get_at(address, "/environ").json
        assert environ["SERVER_NAME"] == name
        assert environ["SERVER_PORT"] == (port or address.rpartition(":")[2])


def test_several_addresses_are_served_by_the_same_workers() -> None:
    with Server(app=SITE, bind=["127.0.0.1:0", "[::1]:0", "unix:a.sock", "unix:b.sock", ABSTRACT]) as s:
        assert len(s.addresses) == 5
        assert len({s.get_at(address, "/pid").json[0] for address in s.addresses}) == 1


def test_sockets_that_are_handed_in_are_the_default() -> None:
    with Server(app=SITE) as s:
        assert s.addresses == [f"127.0.0.1:{s.port}"]
        assert s.get("/environ").json["SERVER_PORT"] == str(s.port)


def test_socket_that_is_handed_in_can_be_named() -> None:
    with Server(app=SITE, flags=["--bind", "fd://3", "--bind", "unix:too.sock"]) as s:
        assert s.addresses == [f"127.0.0.1:{s.port}", "unix:too.sock"]
        assert {s.get_at(address, "/pid").status for address in s.addresses} == {200}


def test_socket_that_is_handed_in_but_not_wanted_is_closed_and_said() -> None:
    with Server(app=SITE, flags=["--bind", "unix:only.sock"], expect=["handed in"]) as s:
        assert s.addresses == ["unix:only.sock"]
        with pytest.raises(ConnectionRefusedError):
            s.get()
        s.wait_line("socket handed in is not used; closed")


def test_unix_path_is_taken_from_a_dead_server_and_given_back_at_the_end() -> None:
    s = Server(app=SITE, bind=["unix:here.sock"])
    path = s.folder / "here.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    stale = path.lstat().st_ino
    with s:
        assert path.lstat().st_ino != stale
        assert s.get_at("unix:here.sock", "/pid").status == 200
        assert [entry for entry in os.listdir(s.folder) if entry.startswith(".here")] == []
        assert s.stop() == 0
        assert not path.exists()


def test_unix_path_that_belongs_to_somebody_else_by_now_is_left_alone() -> None:
    with Server(app=SITE, bind=["unix:here.sock"]) as s:
        path = s.folder / "here.sock"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            assert s.stop() == 0
            assert stat.S_ISSOCK(path.lstat().st_mode)


def test_unix_socket_has_the_mode_that_the_umask_leaves() -> None:
    with Server(app=SITE, bind=["unix:here.sock"], launcher=["bash", "-c", 'umask 0117; exec "$@"', "umask"]) as s:
        assert stat.S_IMODE((s.folder / "here.sock").lstat().st_mode) == 0o660


def test_relative_unix_path_is_unlinked_though_workers_changed_folder() -> None:
    s = Server(app="fresh_app", bind=["unix:here.sock"], chdir="sub")
    (s.folder / "sub").mkdir()
    s.write_app(answers("hello"), "sub/fresh_app")
    with s:
        assert s.get_at("unix:here.sock").text == "hello 1 0"
        assert s.stop() == 0
        assert not (s.folder / "here.sock").exists()


def _a_living_socket(folder: Path) -> tuple[str, socket.socket]:
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(folder / "it"))
    living.listen()
    return "unix:it", living


def _a_used_port(folder: Path) -> tuple[str, socket.socket]:
    used = socket.create_server(("127.0.0.1", 0))
    return f"127.0.0.1:{used.getsockname()[1]}", used


def _a_file(folder: Path) -> tuple[str, None]:
    (folder / "it").write_text("precious")
    return "unix:it", None


def _a_folder(folder: Path) -> tuple[str, None]:
    (folder / "it").mkdir()
    return "unix:it", None


def _a_closed_folder(folder: Path) -> tuple[str, None]:
    (folder / "closed").mkdir(mode=0o500)
    return "unix:closed/it", None


# Takes from root what other users do not have either.
_UNPRIVILEGED = (
    ["setpriv", "--inh-caps=-net_bind_service,-dac_override", "--bounding-set=-net_bind_service,-dac_override"]
    if os.getuid() == 0
    else []
)


@pytest.mark.parametrize(
    ("bind", "why"),
    [
        (_a_used_port, "the address is in use"),
        (_a_living_socket, "the address is in use"),
        (_a_file, "a file that is no socket stands there"),
        (_a_folder, "a file that is no socket stands there"),
        (_a_closed_folder, "permission denied"),
        ("unix:no/such/folder", "the folder does not exist"),
        ("127.0.0.1:1", "permission denied"),
        ("192.0.2.1:0", "this machine has no such address"),
        ("fd://97", "no such descriptor is open"),
        ("fd://0", "it is not a socket"),
    ],
)
def test_address_that_cannot_be_had_is_one_line_and_leaves_nothing(
    bind: str | Callable[[Path], tuple[str, socket.socket | None]], why: str
) -> None:
    s = Server(
        app=SITE, bind=["unix:good.sock", ABSTRACT], launcher=_UNPRIVILEGED, await_ready=False, expect=["waiting for"]
    )
    wanted, holder = (bind, None) if isinstance(bind, str) else bind(s.folder)
    s.command[-1:-1] = ["--bind", wanted]
    before = {entry.name for entry in s.folder.rglob("*")}
    with s:
        assert s.wait_exit() == 1
        [line] = s.said().splitlines()
        assert line.startswith(f"forkserve: error: bind = '{wanted}': {why}")
        assert not s.heard("STATUS")
        left = {entry.name for entry in s.folder.rglob("*")} - before
        assert left <= {"output", "error.log"}
        if holder is not None:
            with holder, socket.socket(holder.family) as client:
                client.connect(f"{s.folder}/it" if holder.family == socket.AF_UNIX else holder.getsockname())


@pytest.mark.parametrize("reuses", [True, False])
def test_reuse_port_lets_a_second_service_bind_the_same_port(reuses: bool) -> None:
    spelled = str(reuses).lower()
    with Server(app=SITE, bind=["127.0.0.1:0"], reuse_port=spelled) as first:
        [address] = first.addresses
        second = Server(app=SITE, bind=[address], reuse_port=spelled, await_ready=reuses, expect=["address is in use"])
        with second:
            if reuses:
                assert second.addresses == [address]
                assert {s.get_at(address, "/pid").status for s in (first, second)} == {200}
            else:
                assert second.wait_exit() == 1
                assert "the address is in use" in second.said()


@pytest.mark.parametrize("mode", ["0600", "0755", "0660", "0666"])
def test_log_shows_who_may_connect_to_a_unix_socket(mode: str) -> None:
    with Server(app="tests.process.site:app", workers=1, bind=["unix:here.sock"], socket_mode=mode) as s:
        [line] = s.lines("listening address=unix:here.sock")
        assert f" mode={mode} owner=" in line
        assert ("its owner alone can connect" in line) == (mode in ("0600", "0755"))
