"""Pages that take as long as their path says, in milliseconds: /100; /large is 8 MiB that a client may leave unread."""

import time
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

_LARGE = bytes(8 << 20)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"][1:]
    body = _LARGE if path == "large" else b"ok"
    time.sleep(int(path) / 1000 if path.isdigit() else 0)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
