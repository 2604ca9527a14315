"""The app's thread and the flusher write one connection by turns: every byte once, in order, however they meet."""

import _socket
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from forkserve.unix.spool import Spool
from forkserve.worker.flusher import Flusher
from forkserve.worker.outlet import Outlet
from forkserve.worker.room import Room
from forkserve.worker.state import RUNNING
from forkserve.wsgi.out import PeerGone
from tests.harness import PATIENCE_S, read_to_end, wait_until


class Way(Outlet):
    """The way out of a running response that is never complete."""

    def __init__(self, sock: _socket.socket, spool: Spool, limit: int, send_timeout_s: float) -> None:
        self.fd = sock.fileno()
        self.sock = sock
        self.state = RUNNING
        self.peer = ""
        self._send = sock.send
        self._backlog = None
        self._loop: Any = SimpleNamespace(
            spool=spool, spool_limit=limit, flusher=Flusher(send_timeout_s), send_timeout_s=send_timeout_s
        )
        self.is_lost = False

    @property
    def response(self) -> Any:
        return SimpleNamespace(is_complete=False)

    def pause_clock(self) -> float:
        return 0.0

    def resume_clock(self, deadline: float, waited_s: float) -> None:
        pass

    def lose(self) -> None:
        self.is_lost = True


@contextmanager
def way(limit: int = 1 << 30, send_timeout_s: float = PATIENCE_S) -> Iterator[tuple[Way, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        out = Way(_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach()), Room(), limit, send_timeout_s)
        try:
            yield out, theirs
        finally:
            out.take_back()
            out.sock.close()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places between nearly any two steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("limit", [0, 1 << 20, 1 << 30])
def test_every_byte_arrives_once_and_in_order_beside_a_reader_with_moods(limit: int, restless: None) -> None:
    dice = random.Random(limit)
    with way(limit) as (out, theirs):
        received = bytearray()

        def read() -> None:
            while data := theirs.recv(dice.choice([100, 4096, 1 << 20])):
                received.extend(data)
                if dice.random() < 0.02:
                    time.sleep(0.001)  # it is this client that is slow

        reader = threading.Thread(target=read)
        reader.start()
        sent = bytearray()
        for number in range(30_000):
            piece = number.to_bytes(4) * dice.choice([1, 2, 50, 1000])
            sent += piece
            if number % 3:
                out.send(piece)
            else:
                out.send_both(piece[:4], piece[4:] or b"x")
                sent += b"" if piece[4:] else b"x"
        wait_until(out.write_kept, "the end of what is kept")
        out.sock.shutdown(socket.SHUT_WR)
        reader.join(PATIENCE_S)
        assert received == sent


def test_what_is_kept_leaves_while_the_app_is_silent() -> None:
    with way() as (out, theirs):
        body = bytes(range(256)) * 40_000
        out.send(body)
        theirs.settimeout(PATIENCE_S)
        received = bytearray()
        while len(received) < len(body):
            received += theirs.recv(1 << 16)
        assert received == body
        wait_until(lambda: out._backlog is None, "the flusher to have let go")


def test_a_client_that_leaves_is_forgotten_at_once_and_the_app_learns_it_with_its_next_piece() -> None:
    with way() as (out, theirs):
        out.send(bytes(5_000_000))
        theirs.close()
        wait_until(lambda: out._backlog is not None and out._backlog.size == 0, "what was kept to be forgotten")
        with pytest.raises(PeerGone):
            out.send(b"more")
        assert out.is_lost
        assert out.unsent > 4_000_000


def test_a_client_that_takes_nothing_is_given_up_while_the_app_is_silent() -> None:
    with way(send_timeout_s=0.1) as (out, theirs):
        out.send(bytes(5_000_000))
        wait_until(lambda: out._backlog is not None and out._backlog.error is not None, "the client to be given up")
        with pytest.raises(PeerGone):
            out.send(b"more")
        assert len(read_some(theirs)) > 0


def read_some(sock: socket.socket) -> bytes:
    """What has arrived so far."""
    sock.settimeout(PATIENCE_S)
    return sock.recv(1 << 20)


def test_a_whole_answer_is_an_end() -> None:
    with way() as (out, theirs):
        out.guard_end()
        out.send(b"all")
        out.release_end()
        out.sock.close()
        assert read_to_end(theirs) == b"all"
