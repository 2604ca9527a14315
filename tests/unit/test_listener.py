"""Listeners on real sockets: what binding, adopting and closing leave behind. Servers: process/test_addresses.py."""

import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path

import pytest

from forkserve.errors import BindError
from forkserve.net import address
from forkserve.net.address import Address, Family
from forkserve.net.listener import Listener, Owner, bind_all


def bind(*texts: str) -> list[Listener]:
    return bind_all([address.parse(text) for text in texts], backlog=16)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_listener_is_non_blocking_and_close_on_exec(here: Path) -> None:
    handed = socket.create_server(("127.0.0.1", 0))
    os.set_inheritable(handed.fileno(), True)
    listeners = bind("127.0.0.1:0", "[::1]:0", "unix:s", f"unix:@forkserve-unit-{os.getpid()}")
    listeners += bind_all([Address(Family.FD, fd=handed.detach())], backlog=16)
    for listener in listeners:
        assert not listener.socket.getblocking()
        assert not listener.socket.get_inheritable()
        assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        listener.close(unlink=True)
    assert os.listdir(here) == []


def test_name_says_where_it_really_listens(here: Path) -> None:
    [tcp, v6, unix, abstract] = bind("127.0.0.1:0", "[::1]:0", "unix:./s", f"unix:@forkserve-unit-{os.getpid()}")
    assert tcp.name == f"127.0.0.1:{tcp.socket.getsockname()[1]}"
    assert v6.name == f"[::1]:{v6.socket.getsockname()[1]}"
    assert unix.name == "unix:s"
    assert abstract.name == f"unix:@forkserve-unit-{os.getpid()}"
    for listener in (tcp, v6, unix, abstract):
        assert str(address.parse(listener.name)) == listener.name
        listener.close(unlink=True)


def test_wildcard_of_ipv6_leaves_ipv4_to_a_listener_of_ours_with_that_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    [v6] = bind_all([address.parse(f"[::]:{port}")], 16, ipv4_ports={port})
    [v4] = bind(f"0.0.0.0:{port}")
    v4.close()
    v6.close()


def test_address_can_be_bound_again_while_old_connections_linger() -> None:
    [first] = bind("127.0.0.1:0")
    place = first.socket.getsockname()
    client = socket.create_connection(place)
    first.socket.setblocking(True)
    accepted, _ = first.socket.accept()
    accepted.close()  # this side closes first: TIME_WAIT is ours
    client.close()
    first.close()
    [second] = bind(f"127.0.0.1:{place[1]}")
    second.close()


def test_one_that_fails_undoes_all(here: Path) -> None:
    Path("file").write_text("precious")
    with pytest.raises(BindError, match=r"bind = 'unix:file': a file that is no socket stands there"):
        bind("unix:a", "unix:b", "unix:file")
    assert os.listdir(here) == ["file"]
    assert Path("file").read_text() == "precious"


def test_same_unix_path_twice_is_refused(here: Path) -> None:
    with pytest.raises(BindError, match="in use"):
        bind("unix:a", "unix:./a")
    assert os.listdir(here) == []


def test_living_socket_whose_queue_is_full_is_refused_too(here: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind("it")
        living.listen(0)
        waiting = []
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect("it")
            except BlockingIOError:
                break
        with pytest.raises(BindError, match="in use"):
            bind("unix:it")
        for client in waiting:
            client.close()


def test_clients_find_the_old_socket_or_the_new_one_and_never_a_gap(here: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("it")
        dead.listen()
    before = os.lstat("it").st_ino
    [listener] = bind("unix:it")
    assert os.lstat("it").st_ino != before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("it")
    listener.close()
    assert os.path.exists("it"), "a worker's close leaves the path to the master"


def test_longest_path_can_be_bound_though_the_temporary_name_is_another(here: Path) -> None:
    name = "n" * 90
    [listener] = bind(f"unix:{name}")
    assert os.listdir(here) == [name]
    listener.close(unlink=True)


@pytest.mark.parametrize("length", [99, 100, address.LONGEST_PATH_BYTES])
@pytest.mark.parametrize("name", ["s", "n" * 40])
def test_longest_path_can_be_bound_wherever_its_folder_ends(length: int, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fs-") as short:
        folder = short + "/" + "f" * (length - len(short) - len(name) - 2)
        os.mkdir(folder)
        path = f"{folder}/{name}"
        assert len(path) == length
        [listener] = bind_all([address.parse(f"unix:{path}")], 16, Owner(mode=0o600))
        assert os.listdir(folder) == [name]
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert listener.name == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        listener.close(unlink=True)
        assert os.listdir(folder) == []


def test_two_different_sockets_of_one_long_beginning_do_not_meet(here: Path) -> None:
    first, second = "n" * 80 + "1", "n" * 80 + "2"
    listeners = bind(f"unix:{first}", f"unix:{second}")
    assert sorted(os.listdir(here)) == [first, second]
    for listener in listeners:
        listener.close(unlink=True)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "does not listen"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "does not listen"),
        (lambda: open(os.devnull), "not a socket"),
    ],
)
def test_descriptor_that_is_no_listening_socket_is_refused_and_left_open(make: object, why: str) -> None:
    assert callable(make)
    with make() as thing:
        count = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BindError, match=why):
            bind(f"fd://{thing.fileno()}")
        fcntl.fcntl(thing.fileno(), fcntl.F_GETFD)
        assert len(os.listdir("/proc/self/fd")) == count


def test_number_that_was_used_again_for_a_socket_of_ours_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        count = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BindError, match="no such descriptor was handed in"):
            bind(f"fd://{ours.fileno()}")
        assert len(os.listdir("/proc/self/fd")) == count


def test_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(BindError, match="no such descriptor is open"):
        bind("fd://12345")


def test_shut_tcp_listener_keeps_who_is_queued_and_lets_nobody_new_in() -> None:
    for place in ("127.0.0.1:0", "[::1]:0"):
        [listener] = bind(place)
        where = listener.socket.getsockname()[:2]
        with socket.create_connection(where) as queued, socket.socket(listener.socket.family) as late:
            listener.shut()
            late.setblocking(False)
            assert late.connect_ex(where) == errno.EINPROGRESS
            accepted, _ = listener.socket.accept()
            accepted.sendall(b"served")
            assert queued.recv(100) == b"served"
            with pytest.raises(BlockingIOError):
                listener.socket.accept()
            accepted.close()
            listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)


def test_shut_unix_listener_keeps_who_is_queued_and_its_path_goes(here: Path) -> None:
    [listener] = bind("unix:it")
    with socket.socket(socket.AF_UNIX) as queued:
        queued.connect("it")
        listener.shut()
        assert os.listdir(here) == []
        listener.socket.accept()[0].close()
        assert queued.recv(100) == b""
    Path("it").touch()  # somebody else's by now
    listener.close(unlink=True)
    assert os.listdir(here) == ["it"]


def test_shut_leaves_a_socket_that_was_handed_in_open_to_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as givers:
        handed = os.dup(givers.fileno())
        os.set_inheritable(handed, True)  # as after exec
        [listener] = bind(f"fd://{handed}")
        listener.shut()
        with socket.create_connection(givers.getsockname(), timeout=5):
            givers.accept()[0].close()
        listener.close(unlink=True)


def test_a_link_that_is_put_in_place_of_a_socket_is_not_followed(tmp_path: Path) -> None:
    victim, place = tmp_path / "victim", tmp_path / "sock"
    victim.touch(0o600)
    with socket.socket(socket.AF_UNIX) as sock:

        def bind() -> None:
            sock.bind(str(place))
            place.unlink()  # somebody who may write in the folder is faster than what follows
            place.symlink_to(victim)

        with pytest.raises(OSError, match="somebody else has put something in its place"):
            Owner(mode=0o666).make(bind, str(place))
    assert victim.stat().st_mode & 0o777 == 0o600
