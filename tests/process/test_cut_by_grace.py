"""The end of the grace says in the log whom it cuts off: the client, the request and what was waited for."""

import signal

import pytest

from tests.harness import Server, wait_until
from tests.process.streams import SMALL_WINDOW, fifo_of, port_of, serve
from tests.process.tools import Gate, lives, one_request
from tests.process.wires import dial

EXPECT = ["worker overdue", "worker was asked for its stacks"]
with_threads = pytest.mark.parametrize("threads", [1, 4])


def cut_off(s: Server) -> str:
    """Wait for the one line about a request; its fields but the peer's port."""
    line = s.wait_line("request was cut off")
    assert len(s.lines("request was cut off")) == 1
    return line.partition("request was cut off ")[2]


@with_threads
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_slow_reader_is_named_with_its_request(threads: int, number: signal.Signals) -> None:
    with serve(threads=threads, graceful_timeout=1, expect=EXPECT) as s:
        [worker] = s.workers()
        with dial(("127.0.0.1", port_of(s)), window=SMALL_WINDOW) as sock:
            port = sock.getsockname()[1]
            sock.sendall(one_request("/pieces?size=20000000&piece=200000"))
            assert sock.recv(1000)
            s.signal(number)
            line = cut_off(s)
            wait_until(lambda: not lives(worker), "its end")
        assert line.startswith(f'peer=127.0.0.1:{port} request="GET /pieces?size=20000000&piece=200000')
        assert 'waited_for="the client to take the rest" untaken_bytes=' in line
        assert "forkserve/worker/loop.py" not in s.log(), "frames of our loop tell nothing"


@with_threads
def test_a_slow_sender_is_named_with_its_request(threads: int) -> None:
    with serve(threads=threads, graceful_timeout=1, expect=EXPECT) as s:
        [worker] = s.workers()
        with dial(("127.0.0.1", port_of(s))) as sock:
            sock.sendall(b"POST /digest?of=this HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
            s.get_at(s.addresses[0], "/free")  # the half was read before
            s.signal(signal.SIGHUP)
            line = cut_off(s)
            wait_until(lambda: not lives(worker), "its end")
        assert 'request="POST /digest?of=this" waited_for="the client to send the rest"' in line
        assert "forkserve/worker/loop.py" not in s.log()


@with_threads
def test_a_request_in_the_app_is_named_and_so_are_its_stacks(threads: int) -> None:
    with serve(threads=threads, graceful_timeout=1, expect=EXPECT) as s, Gate(s) as gate:
        [worker] = s.workers()
        with dial(("127.0.0.1", port_of(s))) as sock:
            sock.sendall(one_request(f"/slow?gate={fifo_of(gate)}"))
            gate.wait_entered()
            s.signal(signal.SIGHUP)
            line = cut_off(s)
            wait_until(lambda: not lives(worker), "its end")
            assert sock.recv(1000).startswith(b"HTTP/1.1 504 ")
        assert 'request="GET /slow?gate=' in line
        assert 'waited_for="the app" answered=504' in line
        assert "stream_site.py" in s.log()


def test_many_are_counted_and_the_first_named() -> None:
    with serve(threads=1, graceful_timeout=1, expect=EXPECT) as s:
        socks = [dial(("127.0.0.1", port_of(s))) for _ in range(25)]
        for sock in socks:
            sock.sendall(b"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        s.get_at(s.addresses[0], "/free")
        s.signal(signal.SIGHUP)
        assert s.wait_line("more requests were cut off").endswith("count=15")
        assert len(s.lines("request was cut off peer=")) == 10
        for sock in socks:
            sock.close()
