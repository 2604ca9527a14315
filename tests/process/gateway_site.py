"""An app behind a gateway: it shows its environ and body, and does what its path says."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]


def _pieces(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"%d\n" % number * 100


def _breaks() -> Iterator[bytes]:
    yield b"begun"
    raise LookupError("in the middle")


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer by the path's first word; else with what was asked, as JSON."""
    word = environ["PATH_INFO"].strip("/").partition("/")[0]
    query = environ["QUERY_STRING"]
    plain = [("Content-Type", "text/plain")]
    match word:
        case "pid":
            start_response("200 OK", plain)
            return [f"{os.getpid()} {environ['forkserve.generation']}".encode()]
        case "gate":
            with open(query, "rb") as fifo:
                fifo.read()
            start_response("200 OK", plain)
            return [b"through"]
        case "sleep":
            time.sleep(float(query))
            start_response("200 OK", plain)
            return [b"slept"]
        case "stream":
            start_response("200 OK", plain)
            return _pieces(int(query))
        case "large":
            start_response("200 OK", plain)
            return [b"x" * int(query)]
        case "file":
            start_response("200 OK", plain)
            return environ["wsgi.file_wrapper"](open(query, "rb"))  # type: ignore[no-any-return]
        case "empty":
            start_response("204 No Content", [])
            return []
        case "raise":
            raise LookupError("on purpose")
        case "breaks":
            start_response("200 OK", plain)
            return _breaks()
        case "over":
            start_response("200 OK", [*plain, ("Content-Length", "5")])
            return [b"right", b" and", b" too much"]
        case "short":
            start_response("200 OK", [*plain, ("Content-Length", "10")])
            return [b"short"]
    body = environ["wsgi.input"].read()
    shown = {key: value for key, value in environ.items() if isinstance(value, str)}
    text = json.dumps({"environ": shown, "bytes": len(body), "begin": body[:20].decode("latin-1")})
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Method", environ["REQUEST_METHOD"])])
    return [text.encode()]
