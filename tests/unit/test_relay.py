"""The relay's queue, over a real pair: each connection comes out once, in order, or stays with its giver."""

import errno
import os
import resource
import socket
import threading
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.typed import replaced
from forkserve.unix.relay import _CODEC, MOST_BYTES, Moved, Relay
from forkserve.unix.spool import Spool

PLAIN = Moved("127.0.0.1:8000", socket.AF_INET, ("10.0.0.7", 4711), False, 4.5, b"", {})
EVERY_BYTE = bytes(range(256))


@pytest.fixture
def relay() -> Iterator[Relay]:
    with closing(Relay()) as relay:
        yield relay


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and the server's end of its connection."""
    client, ours = socket.socketpair()
    with client, ours:
        yield client, ours


@contextmanager
def no_descriptor_free() -> Iterator[list[int]]:
    """Take every descriptor that this process may have; close one of the list to free one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 8
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def raw_ends(relay: Relay) -> tuple[socket.socket, socket.socket]:
    """The end that messages go into and the one that they come out of."""
    return relay._out, relay._in


def has_ended(client: socket.socket) -> bool:
    """Whether nobody holds the other end any more."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_very_connection_comes_out_and_what_goes_with_it(relay: Relay) -> None:
    with connection() as (client, ours):
        told = identity(ours.fileno())
        moved = replaced(PLAIN, received=EVERY_BYTE * 10, fresh=True, facts={"REMOTE_ADDR": "\xff\0 é", "": ""})
        assert relay.put(ours.fileno(), moved)
        ours.close()
        assert not has_ended(client), "the queue holds it"
        taken = relay.take()
        assert taken is not None
        fd, found = taken
        with socket.socket(fileno=fd) as again:
            assert (identity(fd), found) == (told, moved)
            assert os.get_inheritable(fd) is False
            again.send(b"hello")
            assert client.recv(5) == b"hello"
        assert has_ended(client), "no copy is left anywhere"
    assert relay.take() is None


@given(
    st.builds(
        Moved,
        door=st.text(st.characters(codec="utf-8")),
        family=st.sampled_from([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]).map(int),
        peer=st.none() | st.tuples(st.ip_addresses().map(str), st.integers(0, 65535)),
        fresh=st.booleans(),
        left_s=st.floats(allow_nan=False),
        received=st.binary(max_size=MOST_BYTES),
        facts=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
    )
)
def test_what_is_known_of_a_connection_arrives_as_it_left(moved: Moved) -> None:
    with closing(Relay()) as relay, connection() as (_, ours):
        assert relay.put(ours.fileno(), moved)
        taken = relay.take()
        assert taken is not None
        os.close(taken[0])
        assert taken[1] == moved


@pytest.mark.parametrize(
    "moved",
    [
        replaced(PLAIN, received=b"x" * 65536),
        replaced(PLAIN, facts={"SSL_CLIENT_CERT": "x" * 70_000}),
        replaced(PLAIN, door="unix:/run/\udcff.sock"),  # a path that is no UTF-8
    ],
    ids=["a head too large", "facts too large", "an address without UTF-8"],
)
def test_what_cannot_be_told_stays_with_its_giver(relay: Relay, moved: Moved) -> None:
    with connection() as (client, ours):
        assert relay.put(ours.fileno(), moved) is False
        assert relay.take() is None
        assert relay.put(ours.fileno(), PLAIN), "the next one goes"
        ours.close()
        assert not has_ended(client)


def test_the_largest_head_that_may_go_goes(relay: Relay) -> None:
    with connection() as (_, ours):
        moved = replaced(PLAIN, received=b"x" * MOST_BYTES)
        assert relay.put(ours.fileno(), moved)
        taken = relay.take()
        assert taken is not None
        os.close(taken[0])
        assert taken[1] == moved


def test_a_full_queue_says_so_and_loses_nothing(relay: Relay) -> None:
    with connection() as (client, ours):
        count = 0
        while relay.put(ours.fileno(), replaced(PLAIN, left_s=float(count))):
            count += 1
        assert count >= 100
        ours.close()
        for number in range(count):
            taken = relay.take()
            assert taken is not None
            assert taken[1].left_s == number
            assert not has_ended(client)
            os.close(taken[0])
        assert relay.take() is None
        assert has_ended(client)


def test_a_taker_without_a_descriptor_takes_what_its_reserve_allows_and_leaves_the_rest(relay: Relay) -> None:
    with connection() as (first, ours), connection() as (second, theirs):
        assert relay.put(ours.fileno(), PLAIN)
        assert relay.put(theirs.fileno(), PLAIN)
        ours.close()
        theirs.close()
        relay.reserve()
        with no_descriptor_free() as held:
            taken = relay.take()
            assert taken is not None
            for _ in range(3):
                with pytest.raises(OSError) as caught:
                    relay.take()
                assert caught.value.errno == errno.EMFILE
            assert not has_ended(first)
            assert not has_ended(second)
            os.close(held.pop())
            another = relay.take()
            assert another is not None
            os.close(another[0])
            assert has_ended(second)
        os.close(taken[0])
        assert has_ended(first)


def test_a_thread_that_opens_files_meanwhile_takes_the_room_of_no_connection(relay: Relay) -> None:
    spool, is_over = Spool(), threading.Event()

    def open_files() -> None:
        while not is_over.is_set():
            fd = spool.open()
            if fd is not None:
                os.close(fd)
            spool._retry_at = 0.0

    openers = [threading.Thread(target=open_files) for _ in range(4)]
    relay.reserve()
    with connection() as (client, ours), no_descriptor_free():
        for opener in openers:
            opener.start()
        try:
            for _ in range(1000):
                assert relay.put(ours.fileno(), PLAIN)
                taken = None
                while taken is None:
                    try:
                        taken = relay.take()
                    except OSError as error:
                        assert error.strerror == "Too many open files", "the connection is lost"
                os.close(taken[0])
        finally:
            is_over.set()
            for opener in openers:
                opener.join()
        ours.close()
        assert has_ended(client)


def test_waiting_for_nobody_costs_no_descriptor(relay: Relay) -> None:
    relay.reserve()
    before = os.listdir("/proc/self/fd")
    for _ in range(50):
        assert relay.take() is None
    assert os.listdir("/proc/self/fd") == before


NO_TEXT = _CODEC.encode(replaced(PLAIN, door="abc")).replace(b"abc", b"\xff\xfe\xfd")


@pytest.mark.parametrize("message", [b"\xc1 no record", NO_TEXT], ids=["no record", "no text"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_message_that_is_none_is_skipped_and_its_descriptors_are_closed(
    relay: Relay, count: int, message: bytes
) -> None:
    into, _ = raw_ends(relay)
    relay.reserve()
    before = len(os.listdir("/proc/self/fd"))
    with connection() as (client, ours), connection() as (_, good):
        fds = array("i", [ours.fileno()] * count)
        into.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if count else [])
        assert relay.put(good.fileno(), PLAIN)
        taken = relay.take()
        assert taken is not None
        os.close(taken[0])
        ours.close()
        assert has_ended(client)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_descriptor_that_found_no_room_is_told_so_that_no_more_are_lost(relay: Relay) -> None:
    into, out = raw_ends(relay)
    with connection() as (_, ours):
        assert relay.put(ours.fileno(), PLAIN)
        message = out.recv(65536)  # as it arrives without room: what is known of a connection, and no connection
        into.send(message)
        assert relay.put(ours.fileno(), PLAIN)
        with pytest.raises(OSError, match="lost") as caught:
            relay.take()
        assert caught.value.errno == errno.EMFILE
        taken = relay.take()
        assert taken is not None
        os.close(taken[0])


def test_a_queue_whose_far_end_is_gone_is_empty_or_full_and_nothing_worse(relay: Relay) -> None:
    into, out = raw_ends(relay)
    with connection() as (_, ours):
        into.close()
        assert relay.take() is None
        out.close()
        assert relay.put(ours.fileno(), PLAIN) is False
    with closing(Relay()) as other, connection() as (_, ours):
        raw_ends(other)[1].close()
        assert other.put(ours.fileno(), PLAIN) is False


def test_what_is_queued_survives_its_giver_and_ends_with_the_last_holder() -> None:
    relay = Relay()
    with connection() as (client, ours):
        giver = os.fork()
        if giver == 0:
            os._exit(0 if relay.put(ours.fileno(), PLAIN) else 1)
        assert os.waitpid(giver, 0)[1] == 0
        ours.close()
        assert not has_ended(client)
        relay.close()
        assert has_ended(client)


@given(st.lists(st.sampled_from(["put", "put", "take"]), max_size=60))
def test_each_connection_comes_out_once_and_in_order(steps: list[str]) -> None:
    with closing(Relay()) as relay:
        queued: deque[tuple[tuple[int, int], float, socket.socket]] = deque()
        for number, step in enumerate([*steps, *["take"] * (len(steps) + 1)]):
            if step == "put":
                client, ours = socket.socketpair()
                assert relay.put(ours.fileno(), replaced(PLAIN, left_s=float(number)))
                queued.append((identity(ours.fileno()), float(number), client))
                ours.close()
                continue
            taken = relay.take()
            if not queued:
                assert taken is None
                continue
            told, left_s, client = queued.popleft()
            with client:
                assert taken is not None
                assert (identity(taken[0]), taken[1].left_s) == (told, left_s)
                os.close(taken[0])
                assert has_ended(client)
