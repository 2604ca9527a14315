"""forkserve/wsgi/response.py: one request through the app, what it sends, and how faults of the app end."""

import asyncio
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forkserve.log import log
from forkserve.protocol.types import HEAD_ONLY, HTTP11, KEEP_ALIVE
from forkserve.wsgi.clock import clock, date_line
from forkserve.wsgi.out import PeerGone
from forkserve.wsgi.response import Response, plain_answer, respond

Start = Callable[..., Callable[[bytes], None]]
PLAIN = [("Content-Type", "text/plain")]


class Wire:
    """Where the bytes go; ``sends`` keeps each call apart. The client leaves after ``room`` calls."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.sends: list[bytes] = []
        self.last = b""  # what was sent as the last
        self.is_guarded = False  # its end must look like a cut until all has left
        self.restarts = 0  # of the clock
        self._room = room

    def send(self, data: bytes, /) -> None:
        if len(self.sends) >= self._room:
            raise PeerGone("the client has left")
        assert not self.last, "nothing comes after it"
        self.sends.append(data)

    def send_last(self, data: bytes, /) -> None:
        self.send(data)
        self.last = data

    def send_both(self, head: bytes, data: bytes, /) -> None:
        self.send(head + data)

    def guard_end(self) -> None:
        self.is_guarded = True

    def release_end(self) -> None:
        pass

    def flush_meanwhile(self) -> None:
        pass

    def restart_clock(self) -> None:
        self.restarts += 1

    def send_file(self, head: bytes, fd: int, offset: int, count: int, /) -> None:
        self.send(head + os.pread(fd, count, offset))

    @property
    def head(self) -> list[str]:
        """The status line and the fields, without Date and Server."""
        lines = b"".join(self.sends).partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        return [line for line in lines if not line.startswith(("Date: ", "Server: forkserve/"))]

    @property
    def body(self) -> bytes:
        return b"".join(self.sends).partition(b"\r\n\r\n")[2]


@pytest.fixture
def said() -> Iterator[io.FileIO]:
    """The error log, in a file of the test's."""
    with os.fdopen(os.memfd_create("log"), "w+b", buffering=0) as file:
        before, log.file.fd = log.file.fd, file.fileno()
        yield file
        log.file.fd = before


def text_of(file: io.FileIO) -> str:
    file.seek(0)
    return file.read().decode()


def run(app: Any, flags: int = KEEP_ALIVE | HTTP11, room: int = 1_000_000) -> tuple[Response, Wire]:
    """Run one request through ``app``."""
    wire = Wire(room)
    clock.refresh(0.0)
    response = Response.of(({}, b"GET /", flags), wire, flags & KEEP_ALIVE != 0)
    respond(app, {}, response)
    return response, wire


def says(*chunks: bytes, status: str = "200 OK", headers: list[tuple[str, str]] | None = None) -> Any:
    """An app that answers with a list of ``chunks``."""

    def app(environ: Any, start_response: Start) -> list[bytes]:
        start_response(status, PLAIN if headers is None else headers)
        return list(chunks)

    return app


def yields(*chunks: bytes, status: str = "200 OK", headers: list[tuple[str, str]] | None = None) -> Any:
    """The same app as a generator."""

    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response(status, PLAIN if headers is None else headers)
        yield from chunks

    return app


def with_length(length: int) -> list[tuple[str, str]]:
    return [("Content-Length", str(length))]


# framing

TYPE = "Content-Type: text/plain"
CHUNKED = "Transfer-Encoding: chunked"
CLOSE = "Connection: close"
V11, V10 = KEEP_ALIVE | HTTP11, KEEP_ALIVE
FRAMING: dict[str, tuple[Any, int, list[str], bytes, bool]] = {
    # the app, flags -> fields after the status line, what follows them, whether the connection stays
    "one chunk in a list": (says(b"abc"), V11, [TYPE, "Content-Length: 3"], b"abc", True),
    "an empty list": (says(), V11, [TYPE, "Content-Length: 0"], b"", True),
    "an empty chunk": (says(b""), V11, [TYPE, "Content-Length: 0"], b"", True),
    "two chunks": (says(b"a", b"bc"), V11, [TYPE, CHUNKED], b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", True),
    "a generator": (yields(b"abc"), V11, [TYPE, CHUNKED], b"3\r\nabc\r\n0\r\n\r\n", True),
    "empty chunks among others": (yields(b"", b"a", b"", b"b"), V11, [TYPE, CHUNKED],
                                  b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", True),
    "a generator of nothing": (yields(), V11, [TYPE, "Content-Length: 0"], b"", True),
    "the app's own length": (yields(b"a", b"bc", headers=with_length(3)), V11, ["Content-Length: 3"], b"abc", True),
    "a large chunk": (says(b"x" * 50_000), V11, [TYPE, "Content-Length: 50000"], b"x" * 50_000, True),
    "last of the client": (says(b"a"), HTTP11, [TYPE, "Content-Length: 1", CLOSE], b"a", False),
    "HTTP/1.0": (says(b"a"), 0, [TYPE, "Content-Length: 1", CLOSE], b"a", False),
    "HTTP/1.0, unknown length": (yields(b"a", b"b"), 0, [TYPE, CLOSE], b"ab", False),
    "HTTP/1.0 keep-alive": (says(b"a"), V10, [TYPE, "Content-Length: 1", "Connection: keep-alive"], b"a", True),
    "HTTP/1.0 keep-alive, unknown length": (yields(b"a"), V10, [TYPE, CLOSE], b"a", False),
    "HEAD": (says(b"abc"), V11 | HEAD_ONLY, [TYPE, "Content-Length: 3"], b"", True),
    "HEAD of a generator": (yields(b"abc"), V11 | HEAD_ONLY, [TYPE, CHUNKED], b"", True),
    "HEAD with the app's length": (says(headers=with_length(9)), V11 | HEAD_ONLY, ["Content-Length: 9"], b"", True),
    "HEAD, body removed by the app": (says(b""), V11 | HEAD_ONLY, [TYPE, CHUNKED], b"", True),
    "204": (says(status="204 No Content", headers=[]), V11, [], b"", True),
    "204 with a body": (yields(b"abc", status="204 No Content", headers=[]), V11, [], b"", True),
    "204 with a length": (says(b"", status="204 No Content", headers=[("content-length", "0")]), V11, [], b"", True),
    "205 with a body": (says(b"abc", status="205 Reset Content", headers=with_length(3)), V11,
                        ["Content-Length: 0"], b"", True),
    "304 with a length": (says(status="304 Not Modified", headers=with_length(9)), V11,
                          ["Content-Length: 9"], b"", True),
    "304 with a body": (says(b"abc", status="304 Not Modified", headers=[]), V11, [], b"", True),
    "the app closes": (says(b"a", headers=[("Connection", "close")]), V11, ["Content-Length: 1", CLOSE], b"a", False),
    "hop-by-hop fields": (
        says(b"a", headers=[("Transfer-Encoding", "chunked"), ("Keep-Alive", "9"), ("Connection", "keep-alive")]), V11,
        ["Content-Length: 1"], b"a", True,
    ),
}  # fmt: skip


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("name", FRAMING)
def test_framing(name: str) -> None:
    app, flags, fields, body, stays = FRAMING[name]
    response, wire = run(app, flags)
    assert wire.head[1:] == fields
    assert wire.body == body
    assert response.keep_alive is stays
    assert not response.aborted


def test_head_and_first_chunk_leave_at_once_and_every_later_chunk_by_itself() -> None:
    _, wire = run(yields(b"a", b"b", headers=with_length(2)))
    assert [send[-1:] for send in wire.sends] == [b"a", b"b"]


def test_the_head_does_not_leave_before_the_first_bytes() -> None:
    seen: list[int] = []
    wire = Wire()
    response = Response.of(({}, b"GET /", V11), wire, True)

    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        seen.append(len(wire.sends))
        yield b"a"
        seen.append(len(wire.sends))

    respond(app, {}, response)
    assert seen == [0, 1]


def test_date_and_server_are_added_unless_the_app_has_them() -> None:
    _, wire = run(says(b"a"))
    lines = b"".join(wire.sends).split(b"\r\n")
    assert (
        len([line for line in lines if re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", line)]) == 1
    )
    assert len([line for line in lines if line.startswith(b"Server: forkserve/")]) == 1
    own = [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("SERVER", "app")]
    _, wire = run(says(b"a", headers=own))
    assert b"".join(wire.sends).lower().count(b"date:") == 1
    assert b"".join(wire.sends).lower().count(b"server:") == 1
    _, wire = run(says(b"a", headers=own[:1]))
    assert b"Server: forkserve/" in wire.sends[0]


def test_a_date_is_spelled_as_rfc_9110_has_it() -> None:
    assert date_line(784111777) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


# what the app does wrong about lengths


def test_more_than_the_length_is_cut_and_the_rest_not_asked_for(said: io.FileIO) -> None:
    asked: list[int] = []

    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", with_length(3))
        for number in range(5):
            asked.append(number)
            yield b"ab"

    response, wire = run(app)
    assert (wire.body, asked, response.keep_alive) == (b"aba", [0, 1], True)
    assert "more than its Content-Length" in text_of(said)


def test_less_than_the_length_closes_the_connection(said: io.FileIO) -> None:
    response, wire = run(says(b"ab", headers=with_length(3)))
    assert (wire.body, response.keep_alive) == (b"ab", False)
    assert "less than its Content-Length" in text_of(said)


# write()


def test_written_bytes_precede_those_of_the_iterable() -> None:
    def app(environ: Any, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c"]

    _, wire = run(app)
    assert wire.body == b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"


def test_writing_no_bytes_does_not_send_the_head(said: io.FileIO) -> None:
    def app(environ: Any, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"")
        raise LookupError

    _, wire = run(app)
    assert wire.head[0] == "HTTP/1.1 500 Internal Server Error"


# start_response


def refused_by_start_response(*arguments: Any) -> BaseException:
    """What start_response raises, as the app sees it."""
    seen: list[BaseException] = []

    def app(environ: Any, start_response: Start) -> list[bytes]:
        try:
            start_response(*arguments)
        except Exception as error:
            seen.append(error)
        start_response("200 OK", [])
        return [b"fine"]

    _, wire = run(app)
    assert wire.body == b"fine"  # and the app may still answer
    return seen[0]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ValueError, ("200", [])),
        (ValueError, ("20 OK", [])),
        (ValueError, ("200 OK\r\nA: b", [])),
        (ValueError, ("200 \u20ac", [])),
        (ValueError, ("100 Continue", [])),
        (ValueError, ("2\u0660\u0660 OK", [])),
        (TypeError, (b"200 OK", [])),
        (TypeError, (200, [])),
        (TypeError, ("200 OK", (("A", "b"),))),
        (TypeError, ("200 OK", {"A": "b"})),
        (TypeError, ("200 OK", [["A", "b"]])),
        (TypeError, ("200 OK", [("A", "b", "c")])),
        (TypeError, ("200 OK", [("A", 1)])),
        (TypeError, ("200 OK", [(b"A", "b")])),
        (ValueError, ("200 OK", [("", "b")])),
        (ValueError, ("200 OK", [("A B", "b")])),
        (ValueError, ("200 OK", [("A:", "b")])),
        (ValueError, ("200 OK", [("A\n", "b")])),
        (ValueError, ("200 OK", [("A", "b\r\nC: d")])),
        (ValueError, ("200 OK", [("A", "b\n")])),
        (ValueError, ("200 OK", [("A", "\0")])),
        (ValueError, ("200 OK", [("A", "\u20ac")])),
        (ValueError, ("200 OK", [("Content-Length", "-1")])),
        (ValueError, ("200 OK", [("Content-Length", "1, 1")])),
        (ValueError, ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")])),
    ],
)
def test_start_response_refuses_at_once(kind: type[Exception], arguments: tuple[Any, ...]) -> None:
    assert type(refused_by_start_response(*arguments)) is kind


def test_a_second_start_response_needs_exc_info() -> None:
    seen: list[BaseException] = []

    def app(environ: Any, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        try:
            start_response("201 Created", [])
        except AssertionError as error:
            seen.append(error)
        return [b"a"]

    _, wire = run(app)
    assert len(seen) == 1
    assert wire.head[0] == "HTTP/1.1 200 OK"


def test_exc_info_before_the_head_replaces_status_and_every_header() -> None:
    def app(environ: Any, start_response: Start) -> list[bytes]:
        start_response("200 OK", [("Date", "now"), ("X-A", "b"), *with_length(999)])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oops", [("X-C", "d")], sys.exc_info())
        return [b"sorry"]

    _, wire = run(app)
    assert wire.head == ["HTTP/1.1 500 Oops", "X-C: d", "Content-Length: 5"]
    assert wire.sends[0].count(b"\r\nDate: ") == 1


def test_exc_info_after_the_head_is_raised_again(said: io.FileIO) -> None:
    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        try:
            raise LookupError("half-way")
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"never"

    response, wire = run(app)
    assert (wire.body, response.aborted) == (b"1\r\na\r\n", True)
    assert "LookupError: half-way" in text_of(said)


def test_headers_of_the_app_may_change_until_they_are_sent() -> None:
    headers = [("X-A", "b")]
    first, _ = run(says(b"a", headers=headers))
    assert first.headers is headers  # kept, not copied and not changed
    assert headers == [("X-A", "b")]


# faults


def fails_in_call(environ: Any, start_response: Start) -> list[bytes]:
    raise LookupError("in the call")


def fails_before_bytes(environ: Any, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", with_length(5))
    yield b""
    raise LookupError("before the bytes")


def never_starts(environ: Any, start_response: Start) -> list[bytes]:
    return [b"a"]


def returns_none(environ: Any, start_response: Start) -> None:
    start_response("200 OK", [])


def returns_text(environ: Any, start_response: Start) -> list[str]:
    start_response("200 OK", [])
    return ["text"]


def returns_bytearrays(environ: Any, start_response: Start) -> list[bytearray]:
    start_response("200 OK", [])
    return [bytearray(b"a"), bytearray(b"b")]


@pytest.mark.parametrize(
    "app", [fails_in_call, fails_before_bytes, never_starts, returns_none, returns_text, returns_bytearrays]
)
def test_a_fault_before_the_head_is_a_500_that_tells_the_client_nothing(app: Any, said: io.FileIO) -> None:
    response, wire = run(app)
    assert wire.head[0] == "HTTP/1.1 500 Internal Server Error"
    assert CLOSE in wire.head
    assert wire.body == b"500 Internal Server Error\n"
    assert (response.code, response.keep_alive, response.aborted) == (500, False, False)
    assert "Traceback" in text_of(said)


def test_a_fault_after_the_head_breaks_off_without_the_final_chunk(said: io.FileIO) -> None:
    def app(environ: Any, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"abc"
        raise LookupError("half-way")

    response, wire = run(app)
    assert wire.body == b"3\r\nabc\r\n"
    assert (response.keep_alive, response.aborted) == (False, True)
    assert "half-way" in text_of(said)


def test_a_fault_in_head_has_no_body(said: io.FileIO) -> None:
    response, wire = run(fails_in_call, V11 | HEAD_ONLY)
    assert wire.head[0].startswith("HTTP/1.1 500 ")
    assert (wire.body, response.body_bytes) == (b"", 0)


class Panic(BaseException):
    """As pyo3, gevent and func_timeout have them."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Panic])
def test_whatever_a_request_raises_is_a_500_and_a_traceback(kind: type[BaseException], said: io.FileIO) -> None:
    def app(environ: Any, start_response: Start) -> list[bytes]:
        raise kind("out of a request")

    _, wire = run(app)
    assert wire.head[0].startswith("HTTP/1.1 500 ")
    assert "out of a request" in text_of(said)


# the end of the iterable


class Body:
    """An iterable with a close() that counts."""

    def __init__(self, chunks: list[bytes], error: BaseException | None = None, late: BaseException | None = None):
        self.closed = 0
        self._chunks = chunks
        self._error = error
        self._late = late

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1
        if self._late is not None:
            raise self._late


ENDINGS: dict[str, tuple[Body, str, int, int]] = {
    # the body, the status, flags, after how many sends the client leaves
    "in peace": (Body([b"a"]), "200 OK", V11, 99),
    "empty": (Body([]), "200 OK", V11, 99),
    "HEAD": (Body([b"a", b"b"]), "200 OK", V11 | HEAD_ONLY, 99),
    "204": (Body([b"a", b"b"]), "204 No Content", V11, 99),
    "a fault": (Body([b"a"], LookupError()), "200 OK", V11, 99),
    "a fault before the head": (Body([], LookupError()), "200 OK", V11, 99),
    "an exit": (Body([b"a"], SystemExit()), "200 OK", V11, 99),
    "a bad status": (Body([b"a"]), "200", V11, 99),
    "the client left": (Body([b"a", b"b", b"c"]), "200 OK", V11, 2),
    "the client left at once": (Body([b"a", b"b", b"c"]), "200 OK", V11, 0),
    "close() raises": (Body([b"a"], None, LookupError()), "200 OK", V11, 99),
}  # fmt: skip


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("name", ENDINGS)
def test_close_is_called_once_however_the_response_ends(name: str) -> None:
    body, status, flags, room = ENDINGS[name]
    body.closed = 0

    def app(environ: Any, start_response: Start) -> Body:
        try:
            start_response(status, [])
        except ValueError:
            pass
        return body

    run(app, flags, room)
    assert body.closed == 1


def test_a_client_that_left_is_no_fault_of_the_app(said: io.FileIO) -> None:
    response, _ = run(yields(b"a", b"b"), room=1)
    assert (response.keep_alive, response.aborted, response.code) == (False, False, 200)
    assert text_of(said) == ""


def test_close_that_raises_is_logged_and_the_response_stands(said: io.FileIO) -> None:
    body = Body([b"a"], None, LookupError("late"))

    def app(environ: Any, start_response: Start) -> Body:
        start_response("200 OK", with_length(1))
        return body

    response, wire = run(app)
    assert (wire.body, response.code) == (b"a", 200)
    assert "LookupError: late" in text_of(said)


class Odd:
    """An iterable that dislikes to be asked for anything else."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a"])

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)


def test_an_iterable_that_raises_when_asked_for_close_harms_nobody(said: io.FileIO) -> None:
    def app(environ: Any, start_response: Start) -> Odd:
        start_response("200 OK", with_length(1))
        return Odd()

    _, wire = run(app)
    assert wire.body == b"a"
    assert "LookupError: close" in text_of(said)


def test_our_own_answer_is_complete_and_says_close() -> None:
    raw = plain_answer("400 Bad Request")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert b"Connection: close" in head
    assert b"Date: " in head


@pytest.mark.parametrize("headers", [None, with_length(3)])
@pytest.mark.parametrize("flags", [HTTP11, 0])
def test_the_end_goes_along_with_a_whole_response_that_is_the_last(headers: Any, flags: int) -> None:
    for app in (says(b"abc", headers=headers), lambda *both: tuple(says(b"abc", headers=headers)(*both))):
        _, wire = run(app, flags)
        assert [wire.last] == wire.sends
    assert not run(says(b"abc", headers=headers), flags | KEEP_ALIVE)[1].last


@pytest.mark.parametrize("app", [yields(b"abc"), yields(b"abc", headers=with_length(3)), says(b"a", b"bc")])
def test_the_end_does_not_wait_for_what_an_app_still_does(app: Any) -> None:
    assert not run(app, HTTP11)[1].last
