"""One wake-up sends a bounded part of what a client takes, however fast it is: others wait for the worker too."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest

from forkserve.unix.spool import Spool
from forkserve.worker.backlog import BURST_BYTES, MEMORY_BYTES, Backlog, Region
from forkserve.worker.flusher import Flusher
from forkserve.worker.outlet import Outlet
from forkserve.worker.state import WRITING
from tests.harness import read_to_end

MIB = 1 << 20
BODY = bytes(range(256)) * (8 * MIB // 256)


class Taker:
    """A client that takes whatever it is given."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def send(self, data: bytes | memoryview) -> int:
        """Take all of it."""
        self.taken += data
        return len(data)


@contextmanager
def file_of(data: bytes) -> Iterator[int]:
    """A file that holds ``data``."""
    fd = os.memfd_create("body")
    os.write(fd, data)
    yield fd
    os.close(fd)


def bursts(backlog: Backlog, taker: Taker) -> list[int]:
    """Write until nothing is left; how much left each time."""
    found = []
    before = 0
    while backlog:
        try:
            backlog.write(taker.send, -1)
        except BlockingIOError:
            assert backlog, "all has left, and it was said that it has not"
        found.append(len(taker.taken) - before)
        before = len(taker.taken)
    return found


def test_kernel_sends_no_more_of_a_file_than_a_burst_to_a_client_that_takes_all() -> None:
    received: list[bytes] = []
    ours, theirs = socket.socketpair()  # waiting, so that the kernel sends as much as it is told to
    reader = threading.Thread(target=lambda: received.append(read_to_end(theirs)))
    with theirs, file_of(BODY) as fd:
        reader.start()
        region = Region(fd, 0, len(BODY), owned=False)
        backlog = Backlog(Spool(), 0)
        backlog.keep_region(region)
        left = [region.count]
        with ours:
            while backlog:
                try:
                    backlog.write(lambda data: 0, ours.fileno())
                except BlockingIOError:
                    pass
                left.append(region.count)
        reader.join()
    assert max(before - after for before, after in pairwise(left)) <= BURST_BYTES
    assert received == [BODY]


def test_file_whose_bytes_pass_through_us_leaves_in_bursts() -> None:
    taker = Taker()
    with file_of(BODY) as fd:
        backlog = Backlog(Spool(), 0)
        backlog.keep_region(Region(fd, 0, len(BODY), owned=False))
        assert bursts(backlog, taker) == [BURST_BYTES] * 8
    assert taker.taken == BODY


@pytest.mark.parametrize("piece", [1000, 64 * 1024, MIB - 1, 3 * MIB])
@pytest.mark.parametrize("spool", [0, 2 * MIB, 100 * MIB])
def test_what_was_kept_in_memory_and_on_disk_leaves_in_bursts_and_in_order(piece: int, spool: int) -> None:
    taker = Taker()
    backlog = Backlog(Spool(), spool)
    for at in range(0, len(BODY), piece):
        backlog.keep(memoryview(BODY)[at : at + piece])
    found = bursts(backlog, taker)
    assert taker.taken == BODY
    assert max(found) < BURST_BYTES + max(piece, MEMORY_BYTES), "the piece that fills a burst leaves whole"
    assert len(found) >= 2


class Way(Outlet):
    """The way to a taker, which the kernel cannot send files to, as with TLS."""

    def __init__(self, taker: Taker) -> None:
        self.fd = 0
        self.state = WRITING  # the app has ended
        self.sock = taker  # type: ignore[assignment]
        self._send = lambda data, flags: taker.send(data)
        self._backlog = None
        self._loop = SimpleNamespace(spool=Spool(), spool_limit=0, flusher=Flusher(30))  # type: ignore[assignment]


def test_response_that_is_a_file_begins_with_a_burst_and_the_rest_is_kept() -> None:
    taker = Taker()
    way = Way(taker)
    with file_of(BODY) as fd:
        way.send_file(b"head", fd, 0, len(BODY))
    assert len(taker.taken) == len(b"head") + BURST_BYTES
    calls = 1
    while not way.write_kept():
        calls += 1
    assert calls == 7
    assert taker.taken == b"head" + BODY


def test_file_of_one_burst_leaves_at_once() -> None:
    taker = Taker()
    way = Way(taker)
    with file_of(BODY) as fd:
        way.send_file(b"", fd, 0, BURST_BYTES)
    assert taker.taken == BODY[:BURST_BYTES]
    assert way.write_kept()
