"""The habit: socket.setdefaulttimeout(10), so that no call of a client library waits for ever."""

import socket
from collections.abc import Callable, Iterable
from typing import Any

socket.setdefaulttimeout(10)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with as many bytes as the query says, and with how many came."""
    body = b"%d" % len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body, b"x" * int(environ["QUERY_STRING"] or 0)]
