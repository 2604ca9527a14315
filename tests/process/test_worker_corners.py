"""Corners of a worker's work: time that begins with the answer, bodies that arrive late, clients that leave early."""

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.tools import Gate, one_request, open_files, wait_retiring

SITE = "tests.process.site:app"
APP = """
from pathlib import Path

def early(environ, start_response):
    start_response("200 OK", [("Content-Length", "11")] if environ["QUERY_STRING"] else [])
    yield b"first\\n"
    environ["wsgi.input"].read()
    yield b"last\\n"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/early":
        return early(environ, start_response)
    fields = [("Connection", "close")] if environ["QUERY_STRING"] == "close" else []
    start_response("200 OK", fields)
    return [environ["wsgi.input"].read()]
"""
WRITER = """
from pathlib import Path

def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/":
        return [b"well"]
    write(b"begun")
    failures = []
    while len(failures) < 100:
        try:
            write(b"x" * 65536)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}\\n")
    with open("failures.new", "w") as file:
        file.writelines(sorted(set(failures)))
    Path("failures.new").rename("failures")
    return []
"""


# the time that a connection may be idle


def _hold(s: Server, client: Client, seconds: float) -> None:
    """Have a request of this client take so long, and read its answer."""
    with Gate(s) as gate:
        client.get(gate.path)
        gate.wait_entered()
        time.sleep(seconds)  # the length of this request
        gate.open()
        assert client.reply().body == b'"through"'


def test_keep_alive_time_begins_when_the_answer_has_left() -> None:
    with Server(app=SITE, keepalive=1) as s, Client(s) as client:
        _hold(s, client, 1.3)
        assert s.get("/pid").status == 200, "the round of the loop in which that request ended is over"
        assert client.get("/pid").reply().code == 200


def test_connection_whose_slow_request_has_just_ended_is_not_cut_by_a_stop() -> None:
    with Server(app=SITE, keepalive=60) as s, Client(s) as client:
        [pid] = s.workers()
        _hold(s, client, 1.1)
        s.signal(signal.SIGTERM)
        wait_retiring(pid)
        reply = client.get("/pid").reply()
        assert (reply.code, reply.values("Connection")) == (200, ["close"])


# bodies that the app reads while they arrive


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def streaming(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(app="streaming:app", stream_request_body="true", threads=request.param)
    server.write_app(APP, "streaming")
    with server:
        yield server


@pytest.mark.parametrize("query", ["", "length"])
def test_no_interim_response_is_sent_amid_the_response(streaming: Server, query: str) -> None:
    with Client(streaming) as client:
        client.send(_post("/early?" + query, "Expect: 100-continue"))
        assert client.read_head().code == 200
        assert (client.rest_of(6) if query else client.read_chunk()) == b"first\n"
        client.send(b"hello")
        assert client.rest() == (b"last\n" if query else b"5\r\nlast\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("query", ["close", ""])
def test_app_that_closes_the_connection_does_so_after_a_body_that_came_late(streaming: Server, query: str) -> None:
    with Client(streaming) as client:
        client.send(_post("/?" + query, "Expect: 100-continue"))
        assert client.reply().code == 100, "the app reads"
        reply = client.send(b"hello").reply()
        assert (reply.body, reply.values("Connection")) == (b"hello", [query] if query else [])
        if query:
            assert client.rest() == b""
        else:
            assert client.post("/", b"more").reply().body == b"more"


def _post(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", "Content-Length: 5", *fields, "", "")).encode()


# clients that leave, and apps that do not notice


def test_app_that_writes_on_for_a_client_that_has_left_fills_no_disk() -> None:
    server = Server(app="writer:app", limit_response_spool="1MiB")
    server.write_app(WRITER, "writer")
    with server as s:
        [pid] = s.workers()
        before = _nameless_files(pid)
        with Client(s, window=4096) as client:
            client.get("/writer")
            assert client.read_head().code == 200
            wait_until(lambda: _nameless_files(pid) != before, "the file of what the client does not take")
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave with a reset
        failures = s.folder / "failures"
        wait_until(failures.exists, "the app to give up")
        assert {line.partition(":")[0] for line in failures.read_text().splitlines()} == {"PeerGone"}
        assert s.get("/").body == b"well"
        assert _nameless_files(pid) == before
        assert s.workers() == [pid]


def _nameless_files(pid: int) -> list[str]:
    """The files that a process holds and that have no name any more."""
    return sorted(target for target in open_files(pid) if target.endswith(" (deleted)"))


# the access log


def test_requests_before_one_that_is_overdue_are_in_the_access_log() -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
    settings: dict[str, Any] = {"accesslog": "access", "access_log_format": "%(U)s %(s)s", "timeout": "1s"}
    with Server(app=SITE, expect=expect, **settings) as s, Client(s) as client:
        client.send(one_request("/pid", close=False) + one_request("/sleep?3600"))
        assert [client.reply().code, client.reply().code] == [200, 504]
        s.wait_line("worker exited")
        assert (s.folder / "access").read_text() == "/pid 200\n/sleep 504\n"
        s.wait_line("worker ready", count=2)
