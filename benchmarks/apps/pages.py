"""The heavier apps that are compared: a large request, large responses from memory and from a file, a stream.

Runs inside the workers of forkserve and of its peers.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Start = Callable[[str, list[tuple[str, str]]], object]

BIG = b"x" * 1024 * 1024
CHUNKS = 100
CHUNK = b"y" * 1024

_file = tempfile.TemporaryFile()
_file.write(BIG)
_file.flush()
_PATH = f"/proc/self/fd/{_file.fileno()}"  # opened anew for each request, as a site opens its files


def post(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    """Read the whole request body and answer with its length."""
    page = b"%d\n" % len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [page]


def big(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    """Answer with 1 MiB from memory."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BIG)))])
    return [BIG]


def file(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Answer with a file of 1 MiB, by what the server offers for files, else piece by piece."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BIG)))])
    source = open(_PATH, "rb")
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:
        return _pieces(source)
    wrapped: Iterable[bytes] = wrapper(source, 64 * 1024)
    return wrapped


def stream(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
    """Answer with 100 chunks of 1 KiB whose sum nobody tells."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(CHUNKS):
        yield CHUNK


def _pieces(source: Any) -> Iterator[bytes]:
    with source:
        while piece := source.read(64 * 1024):
            yield piece
