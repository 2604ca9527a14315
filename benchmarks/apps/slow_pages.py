"""A small page for honest clients, and at /stream 4 MiB in pieces of their own, at /large 512 KiB at once."""

from collections.abc import Callable, Iterable
from typing import Any

_PIECE_BYTES = 64 * 1024
_PIECES = 64
_LARGE = b"x" * (512 << 10)  # what waits in kernel and worker for a client that does not read


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer."""
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(_PIECES * _PIECE_BYTES))])
        return (bytes((number,)) * _PIECE_BYTES for number in range(_PIECES))
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(_LARGE)))])
        return [_LARGE]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
