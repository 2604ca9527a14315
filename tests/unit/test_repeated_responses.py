"""A head that an app gave before is spelled from memory: nothing but the time it takes may tell."""

from typing import Any

import pytest

from forkserve.protocol.types import HEAD_ONLY, HTTP11, KEEP_ALIVE
from forkserve.wsgi.clock import clock
from forkserve.wsgi.response import Response, respond

PLAIN = [("Content-Type", "text/plain"), ("Content-Length", "2")]


class Wire:
    """What is sent."""

    def __init__(self) -> None:
        self.data = b""

    def send(self, data: bytes) -> None:
        self.data += data

    send_last = send

    def send_both(self, head: bytes, data: bytes) -> None:
        self.data += head + data

    def guard_end(self) -> None:
        raise AssertionError("its framing tells its end")

    def release_end(self) -> None:
        pass

    def flush_meanwhile(self) -> None:
        pass

    def restart_clock(self) -> None:
        pass

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> None:
        raise AssertionError("no files here")


def answer(
    headers: Any,
    body: list[bytes],
    *,
    status: str = "200 OK",
    flags: int = HTTP11 | KEEP_ALIVE,
    keep_alive: bool = True,
    after: Any = lambda: None,
) -> bytes:
    """What a client gets of an app that answers like this."""
    clock.refresh(0.0)
    wire = Wire()
    environ: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, headers)
        after()
        return body

    respond(app, environ, Response.of((environ, b"GET /", flags), wire, keep_alive))
    return wire.data.replace(clock.both, b"")


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, b"\r\nok"),
        ({"keep_alive": False}, b"Connection: close\r\n\r\nok"),
        ({"flags": KEEP_ALIVE}, b"Connection: keep-alive\r\n\r\nok"),
        ({"flags": 0, "keep_alive": False}, b"Connection: close\r\n\r\nok"),
        ({"flags": HTTP11 | KEEP_ALIVE | HEAD_ONLY}, b"\r\n"),
    ],
)
def test_second_time_looks_like_the_first(options: dict[str, Any], ending: bytes) -> None:
    expected = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n" + ending
    for _ in range(3):
        assert answer(list(PLAIN), [b"ok"], **options) == expected


def test_list_that_the_app_changes_afterwards_is_read_anew() -> None:
    headers = list(PLAIN)
    for _ in range(2):
        answer(headers, [b"ok"], after=lambda: headers.append(("X-Late", "1")))
        assert b"X-Late" not in answer(list(PLAIN), [b"ok"])
    assert b"X-Late: 1\r\nX-Late: 1\r\n" in answer(headers, [b"ok"])


def test_body_that_does_not_fit_is_treated_as_ever() -> None:
    for _ in range(2):
        assert answer(list(PLAIN), [b"okay"]).endswith(b"\r\n\r\nok")
        assert answer(list(PLAIN), [b"o"]).endswith(b"\r\n\r\no")
        assert answer(list(PLAIN), [b"o", b"k"]).endswith(b"\r\n\r\nok")


def test_other_kind_of_list_is_refused_though_its_content_was_seen() -> None:
    class Headers(list[tuple[str, str]]):
        pass

    assert answer(list(PLAIN), [b"ok"]).endswith(b"ok")
    for headers in (Headers(PLAIN), tuple(PLAIN)):
        assert answer(headers, [b"ok"]).startswith(b"HTTP/1.1 500")


def test_status_without_a_body_has_none_the_second_time_either() -> None:
    for _ in range(2):
        assert answer(list(PLAIN), [b"ok"], status="204 No Content") == (
            b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n"
        )


def test_date_of_the_app_stays_the_only_one() -> None:
    dated = [*PLAIN, ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")]
    for _ in range(2):
        answer(list(PLAIN), [b"ok"])
        assert answer(dated, [b"ok"]).count(b"Date:") == 1
