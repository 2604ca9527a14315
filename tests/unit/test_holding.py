"""A unix socket whose end is told from a cut: real socket pairs, and what the peer reads."""

import os
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.worker.holding import HoldingSocket
from tests.harness import read_to_end

NOW = socket.MSG_DONTWAIT


def pair() -> tuple[HoldingSocket, socket.socket]:
    ours, theirs = socket.socketpair()
    return HoldingSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach()), theirs


def read(held: HoldingSocket, nbytes: int, *, into: bool) -> bytes:
    """Read once, in either way."""
    if not into:
        return held.recv(nbytes, NOW)
    buffer = bytearray(nbytes)
    return bytes(buffer[: held.recv_into(buffer, 0, NOW)])


def test_closing_with_an_unfinished_answer_is_a_reset_and_a_whole_one_is_an_end() -> None:
    for is_whole in (False, True):
        held, theirs = pair()
        with theirs:
            theirs.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert held.recv(1000, NOW) == b"GET / HTTP/1.0\r\n\r\n"
            held.send(b"answer")
            if is_whole:
                held.release()
            held.close()
            assert theirs.recv(1000) == b"answer"
            if is_whole:
                assert theirs.recv(1000) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    theirs.recv(1000)


def test_a_process_that_is_killed_resets_it_too() -> None:
    held, theirs = pair()
    with theirs:
        child = os.fork()
        if child == 0:
            theirs.close()
            held.recv(1000)
            held.send(b"part")
            signal.pause()
            os._exit(1)
        held.close()
        theirs.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert theirs.recv(1000) == b"part"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with pytest.raises(ConnectionResetError):
            theirs.recv(1000)


def test_who_speaks_http_1_1_is_read_as_from_any_socket() -> None:
    held, theirs = pair()
    with theirs:
        theirs.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        held.recv(1000, NOW)
        held.close()
        assert read_to_end(theirs) == b""


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 30), st.booleans()), max_size=20))
def test_every_byte_is_read_once_and_the_end_after_them(steps: list[tuple[bytes, int, bool]]) -> None:
    held, theirs = pair()
    sent = got = b""
    with theirs:
        for data, nbytes, into in steps:
            theirs.sendall(data)
            sent += data
            try:
                got += read(held, nbytes, into=into)
            except BlockingIOError:
                raise AssertionError("there was something") from None
        theirs.shutdown(socket.SHUT_WR)
        while piece := read(held, 7, into=len(got) % 2 == 0):
            got += piece
    held.close()
    assert got == sent


def test_nothing_new_is_nothing_to_read() -> None:
    held, theirs = pair()
    with theirs:
        theirs.sendall(b"x")
        assert held.recv(10, NOW) == b"x"
        for into in (False, True):
            with pytest.raises(BlockingIOError):
                read(held, 10, into=into)
    held.close()
