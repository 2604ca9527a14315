"""forkserve/wsgi/headers.py: what is remembered of statuses and headers, and how much."""

import io
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.log import log
from forkserve.wsgi import headers
from forkserve.wsgi.headers import CLOSE, DATE, DROPPED, LINES, PLAIN, SERVER, STATUSES, line_entry, status_entry


@pytest.fixture
def said() -> Iterator[io.FileIO]:
    """The error log, in a file of the test's."""
    with os.fdopen(os.memfd_create("log"), "w+b", buffering=0) as file:
        before, log.file.fd = log.file.fd, file.fileno()
        yield file
        log.file.fd = before


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize(
    ("name", "value", "line", "kind"),
    [
        ("X-A", "b", b"X-A: b\r\n", PLAIN),
        ("X-A", "", b"X-A: \r\n", PLAIN),
        ("X-A", "\ta\xff", b"X-A: \ta\xff\r\n", PLAIN),
        ("date", "x", b"date: x\r\n", DATE),
        ("Server", "x", b"Server: x\r\n", SERVER),
        ("Content-LENGTH", "042", b"Content-LENGTH: 042\r\n", 42),
        ("Content-Length", "0", b"Content-Length: 0\r\n", 0),
        ("Connection", "Close", b"", CLOSE),
        ("Connection", "keep-alive", b"", DROPPED),
        ("Keep-Alive", "timeout=5", b"", DROPPED),
        ("Proxy-Authenticate", "Basic", b"", DROPPED),
        ("Proxy-Authorization", "Basic", b"", DROPPED),
        ("TE", "trailers", b"", DROPPED),
        ("Trailer", "X", b"", DROPPED),
        ("Transfer-Encoding", "chunked", b"", DROPPED),
        ("Upgrade", "websocket", b"", DROPPED),
    ],
)
def test_a_header_has_a_line_and_a_meaning(name: str, value: str, line: bytes, kind: int) -> None:
    assert line_entry((name, value)) == (line, kind)


def test_a_dropped_header_is_said_once_and_close_is_not_said_at_all(said: io.FileIO) -> None:
    headers._said.discard("upgrade")
    line_entry(("Upgrade", "a"))
    line_entry(("Upgrade", "b"))
    line_entry(("Connection", "close"))
    said.seek(0)
    assert said.read().count(b"\n") == 1


def test_a_status_has_a_line_and_a_code() -> None:
    assert status_entry("404 Not Found") == (b"HTTP/1.1 404 Not Found\r\n", 404)
    assert status_entry("599 ") == (b"HTTP/1.1 599 \r\n", 599)
    assert status_entry("200 \xe4\t") == (b"HTTP/1.1 200 \xe4\t\r\n", 200)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_forges_a_line(name: str, value: str) -> None:
    try:
        line, _ = line_entry((name, value))
    except ValueError:
        return
    assert line == b"" or (line.endswith(b"\r\n") and not set(line[:-2]) & set(b"\r\n\0"))
    assert line == b"" or line.index(b":") == len(name)


@given(st.text(max_size=20))
def test_no_status_forges_a_line(status: str) -> None:
    try:
        line, code = status_entry(status)
    except ValueError:
        return
    assert not set(line[:-2]) & set(b"\r\n\0")
    assert 200 <= code <= 999


def test_ever_new_values_are_not_remembered_for_ever() -> None:
    for number in range(5000):
        line_entry(("X-Number", f"{number} of many"))
        status_entry(f"200 {number} of many")
    line_entry(("X-Long", "x" * 10_000))
    assert len(LINES) <= 2048
    assert len(STATUSES) <= 2048
    assert not any(len(value) > 9999 for _, value in LINES)
