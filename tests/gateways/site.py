"""The app behind the web servers: what tests/process/gateway_site.py answers, and some that watch their client."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.process import gateway_site

Environ = dict[str, Any]


class _Endless:
    """A body that ends when its client leaves, and then writes that down."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._left = 4000

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._left -= 1
        if not self._left:
            raise StopIteration
        return b"x" * 65536

    def close(self) -> None:
        with open(self._path, "w") as file:
            file.write(str(self._left))


def _two_parts(fifo: str) -> Iterator[bytes]:
    yield b"first\n"
    with open(fifo, "rb") as gate:
        gate.read()
    yield b"second\n"


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer by the path's first word."""
    word = environ["PATH_INFO"].strip("/").partition("/")[0]
    query = environ["QUERY_STRING"]
    # Asks nginx not to gather the response first; nobody else minds.
    headers = [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")]
    match word:
        case "endless":
            start_response("200 OK", headers)
            return _Endless(query)
        case "two":
            start_response("200 OK", headers)
            return _two_parts(query)
        case "digest":
            digest, size = hashlib.md5(), 0
            while piece := environ["wsgi.input"].read(1 << 18):
                digest.update(piece)
                size += len(piece)
            start_response("200 OK", headers)
            return [f"{size} {digest.hexdigest()}".encode()]
        case "generation":
            start_response("200 OK", headers)
            return [f"{environ['forkserve.generation']} {os.getpid()}".encode()]
    return gateway_site.app(environ, start_response)
