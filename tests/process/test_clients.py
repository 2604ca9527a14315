"""Clients that are slow, pipeline, leave early or close half: what they get, and that the others are not hurt."""

import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.tools import open_files

APP = '''
import os, sys, time
from pathlib import Path

COUNT = Path("count")

def stream(start_response, size):
    """Yield until the end or until the client has left; what was yielded is counted in a file."""
    start_response("200 OK", [("Content-Length", str(size))])
    fd = os.open(COUNT, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        for number in range(size // 100_000):
            os.pwrite(fd, b"%d" % number, 0)
            yield b"x" * 100_000
    finally:
        os.pwrite(fd, b"ended at %d" % number, 0)
        os.close(fd)

def swallow(start_response):
    """Write to a client that leaves, and take no notice."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(200):
        try:
            write(b"x" * 100_000)
        except Exception:
            pass
    COUNT.write_text("swallowed")
    return []

def half_way(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"half"
    raise LookupError("half-way")

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/stream":
        return stream(start_response, int(query))
    if path == "/swallow":
        return swallow(start_response)
    if path == "/half_way":
        return half_way(start_response)
    if path == "/exit":
        sys.exit("app has had enough")
    if path == "/gate":
        with open(query, "rb") as fifo:
            fifo.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/large":
        return [b"x" * int(query)]
    return [f"{os.getpid()} {path} ".encode("latin-1") + environ["wsgi.input"].read()]
'''


def make_server(**settings: object) -> Server:
    server = Server(app="slow_app:app", **settings)  # type: ignore[arg-type]  # settings, not the harness's own
    server.write_app(APP, "slow_app")
    return server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = make_server(keepalive=60, timeout=2, send_timeout=20)
    server.expect = ["app raised"]
    with server:
        yield server


@pytest.fixture
def pid(server: Server) -> Iterator[int]:
    """The worker's pid, which is the same after the test."""
    [pid] = server.workers()
    yield pid
    assert server.get("/after").text.split()[0] == str(pid)


def count(server: Server) -> str:
    path = server.folder / "count"
    return path.read_text() if path.exists() else ""


# slow


def test_a_request_may_come_byte_by_byte_and_holds_nobody(server: Server, pid: int) -> None:
    raw = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with Client(server) as client:
        for at in range(len(raw)):
            client.send(raw[at : at + 1])
            if at % 20 == 0:
                assert server.get("/other").status == 200
        assert client.reply().body.endswith(b"/slow abc")


def test_a_slow_reader_holds_nobody_once_the_app_is_done(server: Server, pid: int) -> None:
    with unread(server) as client:
        assert server.get("/other").status == 200
        assert [len(client.reply().body) for _ in range(10)] == [900_000] * 10
        assert client.get("/next").reply().code == 200


def unread(server: Server) -> Client:
    """A client that has asked for more than the kernel takes, in pieces that the worker keeps; none is read yet."""
    return small_window(server).send(b"GET /large?900000 HTTP/1.1\r\nHost: x\r\n\r\n" * 10)


def test_a_slow_reader_of_a_stream_costs_disk_and_neither_the_worker_nor_its_memory(server: Server, pid: int) -> None:
    process = psutil.Process(pid)
    before = process.memory_info().rss
    with small_window(server) as client:
        client.get("/stream?100000000").read_head()
        wait_until(lambda: count(server) == "ended at 999", "the app to be done before its client reads")
        assert server.get("/other").status == 200
        assert process.memory_info().rss - before < 20_000_000
        assert len(client.rest_of(100_000_000)) == 100_000_000
    wait_until(lambda: not spools(pid), "the end of the file")


def spools(pid: int) -> list[str]:
    """The unlinked files that a worker holds."""
    return [target for target in open_files(pid) if target.startswith("/tmp/#")]


def test_a_slow_reader_makes_a_streaming_app_wait_when_the_spool_is_full() -> None:
    with make_server(limit_response_spool="10MB") as server:
        [pid] = server.workers()
        process = psutil.Process(pid)
        before = process.memory_info().rss
        with small_window(server) as client:
            client.get("/stream?100000000").read_head()
            said = wait_until(lambda: stands_still(server), "the app to wait for its client")
            assert 100 <= int(said) < 200  # of 1000: what the kernel and we keep
            assert process.memory_info().rss - before < 20_000_000
            assert len(client.rest_of(100_000_000)) == 100_000_000
        wait_until(lambda: count(server).startswith("ended"), "the end of the app")


def stands_still(server: Server) -> str:
    """What the app has counted, if it has not counted on for a moment."""
    first = count(server)
    time.sleep(0.3)  # a pause to compare by: there is no event for something that does not happen
    return first if first == count(server) else ""


def small_window(server: Server) -> Client:
    """A client for which the kernel keeps little."""
    return Client(server, window=1 << 18)


def test_waiting_for_a_client_is_not_on_the_app_s_time() -> None:
    with make_server(timeout=2, limit_response_spool=0) as server, small_window(server) as client:
        began = time.monotonic()
        client.get("/stream?20000000").read_head()
        size = 0
        while time.monotonic() - began < 4:  # twice the app's time-out
            size += len(client.sock.recv(10_000))
            time.sleep(0.01)  # it is this client that is slow
        size += len(client.rest_of(20_000_000 - size))
        assert size == 20_000_000


def test_a_client_that_takes_nothing_is_closed_after_the_send_timeout() -> None:
    with make_server(send_timeout=1, keepalive=60, limit_response_spool=0) as server:
        [pid] = server.workers()
        with unread(server), small_window(server) as streaming:  # the loop waits for the one
            streaming.get("/stream?100000000").read_head()  # and the app for the other
            wait_until(lambda: count(server).startswith("ended"), "the end of the app")
            wait_until(lambda: connections(server, pid) == 0, "the end of both connections")
        server.wait_line("client takes nothing; connection closed")


# pipelining


def test_pipelined_requests_are_answered_in_order_though_the_client_is_slow(server: Server, pid: int) -> None:
    with small_window(server) as client:
        client.send(b"".join(b"GET /large?%d HTTP/1.1\r\nHost: x\r\n\r\n" % (3_000_000 + n) for n in range(8)))
        assert [len(client.reply().body) for _ in range(8)] == [3_000_000 + n for n in range(8)]


def test_what_follows_the_last_request_is_ignored(server: Server, pid: int) -> None:
    answer = server.exchange(
        b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n\0"
    )
    assert answer.count(b"HTTP/1.1 ") == 1


# half-closed and gone


@pytest.mark.parametrize("target", ["/a", "/large?5000000"])
def test_a_client_that_closed_half_gets_its_answer(server: Server, pid: int, target: str) -> None:
    with Client(server) as client:
        reply = client.get(target).half_close().reply()
        assert reply.code == 200
        assert client.rest() == b""


def test_pipelined_requests_of_a_half_closed_client_are_all_answered(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.get("/1").get("/2").get("/3").half_close()
        assert [client.reply().body.split()[1] for _ in range(3)] == [b"/1", b"/2", b"/3"]
        assert client.rest() == b""


def test_a_request_that_is_cut_never_reaches_the_app(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.send(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").half_close()
        assert client.rest() == b""


def connections(server: Server, pid: int) -> int:
    return len([c for c in psutil.Process(pid).net_connections("tcp") if c.status != psutil.CONN_LISTEN])


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\0", b"GET", b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
        b"GET /large?30000000 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /swallow HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_leaves_leaves_nothing_behind(server: Server, pid: int, raw: bytes, is_reset: bool) -> None:
    for _ in range(3):
        with Client(server) as client:
            client.send(raw)
            if is_reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: connections(server, pid) == 0, "the end of every connection")


def test_an_app_that_takes_no_notice_of_a_client_that_left_ends_in_peace(server: Server, pid: int) -> None:
    (server.folder / "count").unlink(missing_ok=True)
    with small_window(server) as client:
        client.get("/swallow").read_head()
    wait_until(lambda: count(server) == "swallowed", "the end of the app")
    assert server.get("/next").status == 200


# the app breaks off


def test_a_body_that_is_not_whole_is_reset(server: Server, pid: int) -> None:
    for version in ("1.0", "1.1"):
        with Client(server) as client:
            client.send(f"GET /half_way HTTP/{version}\r\nHost: x\r\n\r\n".encode()).read_head()
            with pytest.raises(ConnectionResetError):
                client.rest()


def test_an_app_that_exits_is_500_and_its_worker_stays() -> None:
    server = make_server(keepalive=60)
    server.expect = ["app raised"]
    with server, Client(server) as idle, Client(server) as half, Client(server) as exiting:
        old = idle.get("/idle").reply().body.split()[0]
        half.send(b"POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
        idle.get("/idle").reply()  # the half has arrived before it
        reply = exiting.get("/exit").reply()
        assert (reply.code, exiting.rest()) == (500, b"")
        server.wait_line("app raised")
        reply = half.send(b"lf").reply()
        assert (reply.code, reply.body.split()[::2]) == (200, [old, b"half"])
        for client in (idle, half):
            reply = client.get("/idle").reply()
            assert (reply.code, reply.body.split()[0], reply.values("Connection")) == (200, old, [])
        assert server.workers() == [int(old)]


# idle


def test_an_idle_connection_is_closed_after_its_time_and_no_earlier() -> None:
    with make_server(keepalive=1) as server, Client(server) as client:
        client.get("/a").reply()
        began = time.monotonic()
        assert client.rest() == b""
        assert 0.9 < time.monotonic() - began < 10


def test_without_keep_alive_every_response_closes() -> None:
    with make_server(keepalive=0) as server, Client(server) as client:
        assert client.get("/a").reply().values("Connection") == ["close"]
        assert client.rest() == b""


def test_hundreds_of_half_sent_requests_are_held(server: Server, pid: int) -> None:
    clients = []
    try:
        for number in range(400):
            clients.append(Client(server))
            clients[-1].send(b"GET /%d HTTP/1.1\r\n" % number)
        for client in clients:
            client.send(b"Host: x\r\n\r\n")
        assert [client.reply().code for client in clients] == [200] * 400
    finally:
        for client in clients:
            client.sock.close()
