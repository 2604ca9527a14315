"""Takes a body of any size and tells its length; at /file gives the file that BIG_FILE names, by wsgi.file_wrapper."""

import os
from collections.abc import Callable, Iterable
from typing import Any

_PIECE_BYTES = 1 << 20


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer."""
    if environ["PATH_INFO"] == "/file":
        file = open(os.environ["BIG_FILE"], "rb")  # closed by the server, through the wrapper
        size = os.fstat(file.fileno()).st_size
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped
    size = 0
    while piece := environ["wsgi.input"].read(_PIECE_BYTES):
        size += len(piece)
    text = str(size).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
