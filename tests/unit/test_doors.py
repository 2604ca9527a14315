"""The set of listeners on real sockets: what keeps a place, what is bound beside another, who moves when one ends."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.errors import SettingsError
from forkserve.master.doors import Doors
from forkserve.net.address import Address, parse
from forkserve.net.listener import Listener, bind_all
from forkserve.unix.notify import Notifier
from forkserve.unix.relay import Relay


class Workers:
    """What the doors need of them: a queue, and somebody who is told to look."""

    def __init__(self) -> None:
        self.relay = Relay()
        self.looks = 0

    def tell_all_to_look(self) -> None:
        self.looks += 1


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.relay.close()


def prepare(doors: Doors, *texts: str) -> tuple[Listener, ...]:
    return doors.prepare([parse(text) for text in texts], 16)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def names(doors: Doors) -> list[str]:
    return [one.name for one in doors.all]


def joins(host: str, port: int) -> bool:
    """Whether another process of ours, which shares the port with whoever does, could listen there too."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            other.bind((host, port))
            other.listen()
        except OSError:
            return False
    return True


def test_place_is_called_anew_and_its_socket_stays(doors: Doors, workers: Workers) -> None:
    port = free_port()
    [old] = prepare(doors, f"127.0.0.1:{port}")
    [new] = prepare(doors, f"scgi://localhost:{port}")
    assert new.socket is old.socket
    assert (old.name, new.name) == (f"127.0.0.1:{port}", f"scgi://127.0.0.1:{port}")
    assert names(doors) == [old.name, new.name]
    doors.settle([new], workers)
    assert names(doors) == [new.name]
    assert workers.looks == 0


def test_reload_that_failed_leaves_the_old_name(doors: Doors, workers: Workers) -> None:
    port = free_port()
    old = prepare(doors, f"127.0.0.1:{port}")
    prepare(doors, f"scgi://127.0.0.1:{port}")
    doors.settle(old, workers)
    assert doors.all == old
    assert prepare(doors, f"127.0.0.1:{port}") == old


def test_unix_path_is_known_with_its_folder_resolved(
    doors: Doors, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("one")
    [old] = prepare(doors, "unix:link/s")
    for same in ("unix:one/s", f"scgi://unix:{tmp_path}/one/s", "unix:link/../one/s", "unix:link/s"):
        [again] = prepare(doors, same)
        assert (again.socket, again.name) == (old.socket, same)
        doors.settle([again], workers)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    [new] = prepare(doors, "unix:link/s")
    assert new.socket is not old.socket
    doors.settle([new], workers)
    assert not (tmp_path / "one/s").exists(), "found although its name leads elsewhere"
    assert (tmp_path / "two/s").exists()


def test_port_that_the_kernel_picked_stays_under_its_own_number_too(doors: Doors, workers: Workers) -> None:
    first = prepare(doors, "127.0.0.1:0", "scgi://127.0.0.1:0")
    assert prepare(doors, "127.0.0.1:0", "scgi://127.0.0.1:0") == first
    again = prepare(doors, first[0].name, "uwsgi://127.0.0.1:0")
    assert [one.socket for one in again] == [one.socket for one in first]


@pytest.mark.parametrize(
    "hosts", [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("[::1]", "[::]"), ("[::]", "[::1]")]
)
def test_queue_of_a_listener_that_is_overlapped_moves_when_it_ends(
    doors: Doors, workers: Workers, hosts: tuple[str, str]
) -> None:
    [old] = prepare(doors, f"{hosts[0]}:0")
    port = old.place.port
    new, stand_in = prepare(doors, f"scgi://{hosts[1]}:{port}")
    assert stand_in.stands_in and stand_in.socket is old.socket and stand_in.name == new.name
    assert not new.listens
    local = ("::1" if ":" in hosts[0] else "127.0.0.1", port)
    with socket.create_connection(local) as early, socket.create_connection(local) as too:
        doors.settle([new, stand_in], workers)
        assert not old.is_open and new.listens and workers.looks == 1
        assert names(doors) == [new.name]
        for client in (early, too):
            taken = workers.relay.take()
            assert taken is not None
            fd, moved = taken
            assert (moved.door, moved.unopened, moved.peer) == (new.name, True, client.getsockname()[:2])
            with socket.socket(fileno=fd) as accepted:
                accepted.sendall(b"served")
            assert client.recv(100) == b"served"
        assert workers.relay.take() is None
    with socket.create_connection(local) as late:
        accepted, peer = new.socket.accept()
        accepted.close()
        assert peer[:2] == late.getsockname()[:2]


def test_listener_ends_for_all_who_have_a_copy(doors: Doors, workers: Workers) -> None:
    [old] = prepare(doors, "127.0.0.1:0")
    with old.socket.dup() as copy:
        port = old.place.port
        doors.settle(prepare(doors, f"0.0.0.0:{port}"), workers)
        assert not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        back = prepare(doors, f"127.0.0.1:{port}")
        doors.settle(back, workers)
        assert names(doors) == [f"127.0.0.1:{port}"]
        socket.create_connection(("127.0.0.1", port)).close()


def test_overlapped_listener_is_as_before_when_the_reload_fails(doors: Doors, workers: Workers) -> None:
    old = prepare(doors, "127.0.0.1:0")
    port = old[0].place.port
    prepare(doors, f"0.0.0.0:{port}")
    doors.settle(old, workers)
    assert doors.all == old
    with socket.create_connection(("127.0.0.1", port)):
        old[0].socket.accept()[0].close()


def test_nobody_else_can_join_a_port_that_was_shared_for_a_moment(doors: Doors, workers: Workers) -> None:
    [old] = prepare(doors, "127.0.0.1:0")
    port = old.place.port
    both = prepare(doors, f"0.0.0.0:{port}")
    assert not joins("127.0.0.1", port) and not joins("0.0.0.0", port)
    doors.settle(both, workers)
    assert not joins("127.0.0.1", port) and not joins("0.0.0.0", port)


@pytest.mark.parametrize(
    "texts",
    [
        ("127.0.0.1:{}", "scgi://127.0.0.1:{}"),
        ("localhost:{}", "127.0.0.1:{}"),
        ("0.0.0.0:{}", "127.0.0.1:{}"),
        ("[::1]:{}", "[::]:{}"),
        ("unix:/tmp/{}", "unix:/tmp/../tmp/{}"),
    ],
)
def test_two_names_of_one_place_are_refused_and_nothing_is_bound(doors: Doors, texts: tuple[str, str]) -> None:
    port = free_port()
    bind = [text.format(port) for text in texts]
    with pytest.raises(SettingsError, match="leave one of them out") as refused:
        prepare(doors, *bind)
    assert all(repr(one) in str(refused.value) for one in bind)
    assert doors.all == ()


def test_listeners_come_through_an_upgrade_as_they_are_called(doors: Doors, workers: Workers, tmp_path: Path) -> None:
    port = free_port()
    prepare(doors, f"localhost:{port}", f"unix:{tmp_path}/s")
    doors.settle(prepare(doors, f"scgi://127.0.0.1:{port}", f"scgi://unix:{tmp_path}/s"), workers)
    after = Doors()
    written = doors.hand_over()
    for door in written:
        door.fd = os.dup(door.fd)
    after.resume(written, Notifier(""))
    assert names(after) == names(doors) == [f"scgi://127.0.0.1:{port}", f"scgi://unix:{tmp_path}/s"]
    assert [one.name for one in after.named([f"127.0.0.1:{port}", "127.0.0.1:1"])] == [f"127.0.0.1:{port}"]
    assert [one.address for one in prepare(after, f"127.0.0.1:{port}")] == [parse(f"127.0.0.1:{port}")]
    for one in after.all:
        one.close()


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "127.0.0.1:80", False),  # ours take IPv6 alone
        ("0.0.0.0:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "0.0.0.0:80", False),
        ("unix:a", "unix:b", False),
    ],
)
def test_places_overlap_where_one_has_every_interface(one: str, other: str, overlap: bool) -> None:
    assert parse(one).overlaps(parse(other)) is parse(other).overlaps(parse(one)) is overlap


def test_place_of_a_listener_has_neither_name_nor_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    abstract = f"unix:@forkserve-unit-{os.getpid()}"
    listeners = bind_all([parse(f"scgi://{text}") for text in ("localhost:0", "[::1]:0", "unix:s", abstract)], 16)
    ports: list[Address] = [one.place for one in listeners]
    assert [str(one.place) for one in listeners] == [
        f"127.0.0.1:{ports[0].port}", f"[::1]:{ports[1].port}", f"unix:{tmp_path}/s", abstract
    ]  # fmt: skip
    for one in listeners:
        one.close(unlink=True)
