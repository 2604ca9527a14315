"""Bodies that the app reads while they arrive, and that never become whole: that is no fault of the app."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

# Whatever the app does about the error that its read meets: nothing, an error of its own, an answer of its own.
APP = """
from pathlib import Path

class Unreadable(Exception):
    pass

def app(environ, start_response):
    what, body = environ["PATH_INFO"][1:], environ["wsgi.input"]
    if what == "writing":
        return writing(body, start_response)
    Path("began").touch()
    try:
        body.read()
    except OSError as error:
        Path("failed").write_text(type(error).__name__)
        if what == "wrapping":
            raise Unreadable("the form") from error
        if what == "cleaning":
            raise KeyError("upload")
        if what == "catching":
            start_response("500 Internal Server Error", [("Content-Type", "text/html")])
            return [b"a page of the framework's"]
        raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"whole"]

def writing(body, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    Path("began").touch()
    yield body.read()
"""

HEAD = "POST /{} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
ENDS = {"too much": "413", "silence": "408", "bad framing": "400"}


@pytest.fixture(scope="module", params=[1, 3], ids=["sync", "threads"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(
        app="streaming:app", threads=request.param, stream_request_body="true", body_timeout="1s",
        limit_request_body="100KB", accesslog="access.log", access_log_format="%(m)s %(U)s %(s)s %(B)s",
    )  # fmt: skip
    server.write_app(APP, "streaming")
    with server:
        yield server


@pytest.fixture(autouse=True)
def _forget(server: Server) -> None:
    for name in ("began", "failed"):
        (server.folder / name).unlink(missing_ok=True)


def begin(server: Server, client: Client, what: str) -> None:
    client.send(HEAD.format(what).encode())
    wait_until((server.folder / "began").exists, "the app to read")


def cut(client: Client, end: str) -> None:
    if end == "too much":
        client.send(b"1D4C0\r\n" + b"x" * 120_000 + b"\r\n0\r\n\r\n")
    elif end == "bad framing":
        client.send(b"zz\r\n")


def said_since(server: Server, line: int) -> list[str]:
    said = [line for line in server.log_from(line).splitlines() if "[debug]" not in line]
    return [re.sub(r"^.*?\[(?=[a-z])", "[", line) for line in said]


@pytest.mark.parametrize("what", ["plain", "wrapping", "catching", "cleaning"])
@pytest.mark.parametrize("end", ENDS)
def test_client_at_fault_gets_the_answer_of_a_gathered_body_and_one_line(server: Server, end: str, what: str) -> None:
    before = len(server.log().splitlines())
    with Client(server) as client:
        begin(server, client, what)
        cut(client, end)
        reply = client.reply()
        assert (str(reply.code), reply.values("Connection")) == (ENDS[end], ["close"])
        assert reply.body.startswith(ENDS[end].encode())
        assert client.rest() == b""
    wait_until((server.folder / "failed").exists, "the read to fail")
    said = server.wait_line("request refused", count=len(server.lines("request refused")))
    assert f'status="{ENDS[end]} ' in said
    faults = [line for line in said_since(server, before) if not line.startswith("[info] request refused")]
    if what == "cleaning":  # it comes of that too: raised while it was handled
        assert not any("KeyError" in line for line in faults)
    assert faults == []


@pytest.mark.parametrize("what", ["plain", "wrapping", "catching"])
@pytest.mark.parametrize("how", ["plain end", "reset"])
def test_nobody_is_answered_who_has_left_and_one_line_tells_it(server: Server, how: str, what: str) -> None:
    before = len(server.log().splitlines())
    with Client(server) as client:
        begin(server, client, what)
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until((server.folder / "failed").exists, "the read to fail")
    wait_until(lambda: len(said_since(server, before)) >= 1, "the line")
    with Client(server) as client:  # whatever else would be said has been said by then
        client.send(b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert client.reply().body == b"whole"
    [line] = said_since(server, before)
    assert line.startswith("[info] request broken off reason=")


def test_response_that_has_begun_breaks_off_without_a_traceback(server: Server) -> None:
    before = len(server.log().splitlines())
    with Client(server) as client:
        begin(server, client, "writing")
        cut(client, "too much")
        with pytest.raises((ConnectionResetError, AssertionError, EOFError)):
            client.reply()
    wait_until(lambda: said_since(server, before), "the line")
    [line] = said_since(server, before)
    assert line.startswith("[info] request refused status=")


def test_access_log_tells_what_the_client_got(server: Server) -> None:
    with Client(server) as client:
        begin(server, client, "catching")
        cut(client, "too much")
        assert client.reply().code == 413
    access = server.folder / "access.log"
    wait_until(lambda: access.read_text().splitlines()[-1:] == ["POST /catching 413 22"], "the line")


def test_continue_is_neither_sent_before_the_app_reads_nor_after_it_has_answered(server: Server) -> None:
    head = "POST /{} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n{}\r\n"
    with Client(server) as client:
        client.send(head.format("plain", "Expect: 100-continue\r\n").encode())
        assert client.reply().code == 100
        client.send(b"abc")
        assert client.reply().body == b"whole"
    with Client(server) as client:
        client.send(head.format("plain", "").encode() + b"abc")
        assert client.reply().code == 200, "it did not ask"
    with Client(server) as client:
        client.send(head.format("writing", "Expect: 100-continue\r\n").encode())
        wait_until((server.folder / "began").exists, "the app to read")
        client.send(b"abc")
        reply = client.reply()
        assert (reply.code, reply.body) == (200, b"begunabc")
