"""Bodies that the app reads while they arrive: stream_request_body."""

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

APP = """
import hashlib
from pathlib import Path

def app(environ, start_response):
    path, body = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/lines":
        with open("lines", "wb", buffering=0) as seen:
            for line in body:
                seen.write(line)
        said = "lines"
    elif path == "/ignored":
        said = "ignored"
    elif path == "/failing":
        Path("began").touch()
        try:
            body.read()
            said = "whole"
        except OSError as error:
            Path("failed").write_text(str(error))
            raise
    else:
        digest, size = hashlib.sha256(), 0
        while piece := body.read(70_001):
            digest.update(piece)
            size += len(piece)
        said = f"{size} {digest.hexdigest()} {body.read()!r}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
"""


CHUNKED = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app="streaming:app", stream_request_body="true", body_timeout=2, limit_request_body="300MB")
    server.write_app(APP, "streaming")
    with server:
        yield server


def post(path: str, length: int, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def test_app_reads_a_line_before_the_next_one_is_sent(server: Server) -> None:
    seen = server.folder / "lines"
    with Client(server) as client:
        client.send(post("/lines", 12))
        for number in range(1, 4):
            client.send(b"abc\n")
            wait_until(lambda n=number: seen.exists() and seen.read_bytes() == b"abc\n" * n, "the line")  # type: ignore[misc]
        assert client.reply().body == b"lines"
        assert client.get("/ignored").reply().body == b"ignored", "the connection is kept after a whole body"


def test_large_body_is_read_whole_and_the_next_request_is_served(server: Server) -> None:
    import hashlib

    body = bytes(range(256)) * 40_000
    with Client(server) as client:
        client.send(post("/", len(body))).send(body)
        assert client.reply().body.decode() == f"{len(body)} {hashlib.sha256(body).hexdigest()} b''"
        client.send(CHUNKED % b"/" + b"3\r\nabc\r\n").send(b"2\r\nde\r\n0\r\n\r\n")
        assert client.reply().body.decode() == f"5 {hashlib.sha256(b'abcde').hexdigest()} b''"


def test_continue_is_sent_when_the_app_reads_and_not_before(server: Server) -> None:
    with Client(server) as client:
        client.send(post("/ignored", 5, "Expect: 100-continue\r\n"))
        assert client.reply().code == 200, "no interim response came before it"
    with Client(server) as client:
        client.send(post("/", 5, "Expect: 100-continue\r\n"))
        assert client.reply().code == 100
        client.send(b"abcde")
        assert client.reply().body.startswith(b"5 ")


def test_unread_body_ends_the_connection_without_a_reset(server: Server) -> None:
    with Client(server) as client:
        client.send(post("/ignored", 1_000_000)).send(b"x" * 500_000)
        reply = client.reply()
        assert (reply.code, reply.values("Connection")) == (200, ["close"])
        client.send(b"x" * 500_000)
        assert client.rest() == b""


@pytest.mark.parametrize("end", ["leave", "silence", "bad framing"])
def test_body_that_is_cut_short_makes_the_read_fail(server: Server, end: str) -> None:
    failed = server.folder / "failed"
    began = server.folder / "began"
    for file in (failed, began):
        file.unlink(missing_ok=True)
    with Client(server) as client:
        if end == "bad framing":
            client.send(CHUNKED % b"/failing" + b"3\r\nabc\r\n")
            wait_until(began.exists, "the app to read")
            client.send(b"zz\r\n")
        else:
            client.send(post("/failing", 100)).send(b"abc")
            wait_until(began.exists, "the app to read")
        if end != "leave":
            wait_until(failed.exists, "the read to fail")
            assert client.reply().code == (400 if end == "bad framing" else 408)
    wait_until(failed.exists, "the read to fail")


@pytest.mark.parametrize("after", [b"\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", post("/", 300_000_001)])
def test_what_follows_a_whole_body_does_not_fail_its_request(server: Server, after: bytes) -> None:
    began = server.folder / "began"
    began.unlink(missing_ok=True)
    with Client(server) as client:
        client.send(post("/failing", 10)).send(b"01234")
        wait_until(began.exists, "the app to read")
        client.send(b"56789" + after)
        reply = client.reply()
        assert (reply.code, reply.body) == (200, b"whole")
        assert client.reply().code in (400, 413, 505), "what follows is another matter"
        assert client.rest() == b""


def test_body_beyond_the_limit_is_refused(server: Server) -> None:
    with Client(server) as client:
        client.send(post("/", 300_000_001))
        assert client.reply().code == 413
