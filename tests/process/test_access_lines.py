"""One access line for each answer, whoever gave it, with what the client took of it."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.probes import status

SITE = """
import os, time

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/hang":
        while True:
            time.sleep(0.1)
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream()
    if path == "/read":
        environ["wsgi.input"].read()
    body = bytes(int(query)) if path == "/large" else b"ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

def stream():
    yield b"x" * 1000
    while True:
        time.sleep(0.1)
"""
LARGE = 30_000_000
MODES = pytest.mark.parametrize("threads", [1, 4])


def serving(threads: int, **more: Any) -> Server:
    server = Server(
        app="lines_app:app",
        threads=threads,
        accesslog="access.log",
        **more,
        access_log_format='%(h)s "%(r)s" %(s)s %(B)s',
    )
    server.write_app(SITE, "lines_app")
    return server


def lines(server: Server) -> list[str]:
    path = Path(server.folder / "access.log")
    return path.read_text().splitlines() if path.exists() else []


def wait_lines(server: Server, count: int) -> list[str]:
    wait_until(lambda: len(lines(server)) >= count, f"{count} access lines")
    return lines(server)


REFUSED = [
    (b"GARBAGE\r\n\r\n", "400", ""),
    (b"GET / HTTP/1.1\r\n\r\n", "400", "GET / HTTP/1.1"),
    (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", "505", "GET / HTTP/1.2"),
    (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "414", None),
    (b"GET /f HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", "431", "GET /f HTTP/1.1"),
    (b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n", "413", None),
    (b"GET /slow HTTP/1.1\r\nHost: x\r\n", "408", "GET /slow HTTP/1.1"),
]


@MODES
@pytest.mark.parametrize(("raw", "status", "line"), REFUSED, ids=[status for _, status, _ in REFUSED])
def test_what_is_refused_has_a_line(threads: int, raw: bytes, status: str, line: str | None) -> None:
    with serving(threads, limit_request_body=1000, header_timeout="1s") as server:
        answer = server.exchange(raw)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        body = len(answer.partition(b"\r\n\r\n")[2])
        [found] = wait_lines(server, 1)
        match = re.fullmatch(r'127\.0\.0\.1 "(.*)" (\d+) (\d+)', found)
        assert match is not None, found
        assert match.group(2, 3) == (status, str(body))
        assert line is None or match[1] == (line or "-")
        assert server.get("/").status == 200
        assert len(wait_lines(server, 2)) == 2


@MODES
def test_what_a_gateway_sends_wrong_has_a_line(threads: int) -> None:
    with serving(threads, bind=["scgi://127.0.0.1:0"]) as server:
        with server.connect(server.addresses[0]) as sock:
            sock.sendall(b"24:CONTENT_LENGTH\x00x\x00SCGI\x001\x00,")
            assert b"400 Bad Request" in sock.recv(1000)
        assert wait_lines(server, 1)[0].startswith('127.0.0.1 "-" 400 ')


@MODES
@pytest.mark.parametrize("path", ["/hang", "/stream"])
def test_an_overdue_request_has_a_line(threads: int, path: str) -> None:
    expect = ["was asked for its stacks", "overdue", "worker ended", "died", "request"]
    with serving(threads, timeout="1s", expect=expect) as server:
        with Client(server) as client:
            client.get(path)
            if path == "/hang":
                assert client.reply().code == 504
            else:
                assert client.read_head().code == 200
        expected = "504 20" if path == "/hang" else "200 1000"
        assert wait_lines(server, 1) == [f'127.0.0.1 "GET {path} HTTP/1.1" {expected}']
        assert server.get("/").status == 200
        assert len(wait_lines(server, 2)) == 2


@MODES
@pytest.mark.parametrize("way", ["/large", "/static"])
def test_a_client_that_resets_is_logged_with_what_it_took(threads: int, way: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(bytes(LARGE))
    with serving(threads, static=f"/static={tmp_path}") as server:
        with Client(server, window=4096) as client:
            client.get(f"/large?{LARGE}" if way == "/large" else "/static/file.bin")
            assert client.read_head().code == 200
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        [line] = wait_lines(server, 1)
        status, took = line.split()[-2:]
        assert status == "200"
        assert 0 < int(took) < LARGE


@MODES
def test_a_slow_reader_has_its_line_when_it_has_taken_all(threads: int) -> None:
    with serving(threads) as server, Client(server, window=4096) as client:
        client.get(f"/large?{LARGE}")
        assert client.read_head().code == 200
        assert server.get("/").status == 200
        [line] = wait_lines(server, 1)  # of the second request; lines are written in order
        assert line.endswith('"GET / HTTP/1.1" 200 2')
        client.rest_of(LARGE)
        assert wait_lines(server, 2)[1].endswith(f" 200 {LARGE}")


@MODES
def test_a_request_that_waits_for_its_client_is_shown_as_running(threads: int) -> None:
    with serving(threads, stream_request_body="true") as server, Client(server) as client:
        client.send(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        wait_until(lambda: running(server) == ["POST /read"], "the request in the status")
        client.send(b"67890")
        assert client.reply().code == 200
        wait_until(lambda: running(server) == [], "the end of the request in the status")


def running(server: Server) -> list[str]:
    """The requests that the status shows."""
    return [worker["request"] for worker in status(server)["workers"] if worker["request"]]
