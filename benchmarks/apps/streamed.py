"""Events that carry the moment at which they were made, and at /download 100 MB, for benchmarks/streams.py.

The query of /events: `first` is how many bytes go before the first event, `seconds` how long it goes on.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

DOWNLOAD_BYTES = 100_000_000
_PIECE = b"x" * 100_000
_EVERY_S = 0.02


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer."""
    if environ["PATH_INFO"] == "/events":
        asked = dict(parse_qsl(environ["QUERY_STRING"]))
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        return _events(int(asked["first"]), float(asked["seconds"]))
    if environ["PATH_INFO"] == "/download":
        start_response(
            "200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(DOWNLOAD_BYTES))]
        )
        return (_PIECE for _ in range(DOWNLOAD_BYTES // len(_PIECE)))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


def _events(first: int, seconds: float) -> Iterator[bytes]:
    if first:
        yield b":" + b" " * (first - 3) + b"\n\n"  # one comment, in one piece
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield b"data: %d\n\n" % time.monotonic_ns()
        time.sleep(_EVERY_S)
