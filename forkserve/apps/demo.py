"""The demo inspector: a WSGI app that shows its request, and pages that are slow, large or broken on purpose.

Runs in a worker, or under any other WSGI server (PEP 3333); knows nothing of ours but two keys of the environ,
``forkserve.generation`` and ``forkserve.slot``. Standard library only. Every path but the few named in ``_PAGES``
is the inspector, imported at the first request for it, so that importing this module costs next to nothing.
It tells a stranger everything about the request and holds a worker for as long as asked: not for the open internet.
"""

import os
import time
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

STREAM_LINES_MAX = 3600
SLEEP_S_MAX = 3600.0
CHUNKS_BEFORE_BOOM_MAX = 1000
BIG_KIB_MAX = 1 << 20  # 1 GiB
BIG_CHUNK_KIB = 64

_TEXT = "text/plain; charset=utf-8"
# nosniff lets a browser show the first line of a stream at once; X-Accel-Buffering lets nginx pass it on at once.
_PLAIN_HEADERS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("X-Accel-Buffering", "no")]
_FILLER = (b" The quick brown fox jumps over the lazy dog." * 23)[: 1024 - 13] + b"\n"
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0e7c66"/>'
    b'<path d="M16 27V17M16 17C16 11 9 13 9 6M16 17C16 11 23 13 23 6M16 17V6" fill="none" stroke="#fff"'
    b' stroke-width="3" stroke-linecap="round"/></svg>'
)


class _RefusedError(Exception):
    """The query asks for something out of range; the message is the one line of the answer."""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the page that the path names, else with the inspector."""
    page = _PAGES.get(environ.get("PATH_INFO", ""))
    if page is None:
        return _inspect(environ, start_response)
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _answer(
            environ, start_response, "405 Method Not Allowed", b"only GET and HEAD here\n", [("Allow", "GET, HEAD")]
        )
    try:
        return page(environ, start_response)
    except _RefusedError as refused:
        return _answer(environ, start_response, "400 Bad Request", f"{refused}\n".encode())


def _inspect(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    from forkserve.apps import _inspector  # with html, json, hashlib: not at the server's start-up

    status, headers, body = _inspector.answer(environ)
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/stream?n=10``: n lines, one a second, the first at once."""
    lines = int(_number(environ, "n", 10, 1, STREAM_LINES_MAX, whole=True))
    start_response("200 OK", [("Content-Type", _TEXT), *_PLAIN_HEADERS])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else _seconds(lines, _who(environ))


def _seconds(lines: int, who: str) -> Iterator[bytes]:
    for line in range(1, lines + 1):
        if line > 1:
            time.sleep(1)
        yield f"{line} of {lines} from {who}\n".encode()


def _sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/sleep?s=1``: nothing for s seconds, then one line."""
    seconds = _number(environ, "s", 1, 0, SLEEP_S_MAX)
    time.sleep(seconds)
    return _answer(environ, start_response, "200 OK", f"slept {seconds:g} s in {_who(environ)}\n".encode())


def _boom(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/boom``: raise before start_response is called; ``/boom?after=1``: after the first chunk of the body."""
    chunks = int(_number(environ, "after", 0, 0, CHUNKS_BEFORE_BOOM_MAX, whole=True))
    if chunks == 0:
        raise RuntimeError("boom, as asked")
    start_response("200 OK", [("Content-Type", _TEXT), *_PLAIN_HEADERS])
    return _chunks_then_boom(chunks)


def _chunks_then_boom(chunks: int) -> Iterator[bytes]:
    for chunk in range(1, chunks + 1):
        yield f"chunk {chunk}, boom follows chunk {chunks}\n".encode()
    raise RuntimeError(f"boom after chunk {chunks}, as asked")


def _big(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/big?kib=1024``: that many lines of 1 KiB, each beginning with its number, in chunks of 64 KiB."""
    kib = int(_number(environ, "kib", 1024, 0, BIG_KIB_MAX, whole=True))
    headers = [("Content-Type", _TEXT), ("Content-Length", str(kib * 1024)), *_PLAIN_HEADERS]
    start_response("200 OK", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else _numbered(kib)


def _numbered(kib: int) -> Iterator[bytes]:
    for first in range(0, kib, BIG_CHUNK_KIB):
        # Numbered, so that a lost, doubled or misplaced piece of a response can be told from its text alone.
        yield b"".join([b"%012d" % line + _FILLER for line in range(first, min(first + BIG_CHUNK_KIB, kib))])


def _icon(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    headers = [
        ("Content-Type", "image/svg+xml"),
        ("Content-Length", str(len(_ICON))),
        ("Cache-Control", "max-age=86400"),
    ]
    start_response("200 OK", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [_ICON]


_PAGES = {"/stream": _stream, "/sleep": _sleep, "/boom": _boom, "/big": _big, "/favicon.ico": _icon}


def _who(environ: WSGIEnvironment) -> str:
    return f"worker {os.getpid()}, generation {environ.get('forkserve.generation', '-')}"


def _number(
    environ: WSGIEnvironment, name: str, default: float, least: float, most: float, whole: bool = False
) -> float:
    """Return the last ``name`` of the query, or the default where it is absent or empty; raise _RefusedError."""
    from urllib.parse import parse_qs

    written = parse_qs(environ.get("QUERY_STRING", "")).get(name, [""])[-1]
    if not written:
        return default
    try:
        number = int(written) if whole else float(written)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:  # also true for nan
        kind = "whole number" if whole else "number"
        raise _RefusedError(f"{name} must be a {kind} from {least:g} to {most:g}, not {written[:40]!a}")
    return number


def _answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: str,
    body: bytes,
    headers: list[tuple[str, str]] | None = None,
) -> Iterable[bytes]:
    """Answer with a short text."""
    length = ("Content-Length", str(len(body)))
    start_response(status, [("Content-Type", _TEXT), length, *_PLAIN_HEADERS, *(headers or [])])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
