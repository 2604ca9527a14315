"""The apps that the probes ask, each at the path of its own name; what happened unseen is told by /noted.

Runs inside the workers of forkserve and of its peers. Most of them misbehave on purpose: the question is what the
server makes of it.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]

TEXT = [("Content-Type", "text/plain")]
CGI = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")
notes: list[str] = []


def say(start_response: Start, text: object) -> list[bytes]:
    """Answer with one line."""
    page = str(text).encode("latin-1", "replace")
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(page)))])
    return [page]


def noted(environ: Environ, start_response: Start) -> list[bytes]:
    return say(start_response, notes.count(environ["QUERY_STRING"]))


def value(environ: Environ, start_response: Start) -> list[bytes]:
    return say(start_response, environ.get(environ["QUERY_STRING"], "absent"))


def types(environ: Environ, start_response: Start) -> list[bytes]:
    found = {key: type(text).__name__ for key, text in environ.items() if key in CGI or key.startswith("HTTP_")}
    return say(start_response, sorted({f"{key} {kind}" for key, kind in found.items() if kind != "str"}) or "str")


def write(environ: Environ, start_response: Start) -> list[bytes]:
    send = start_response("200 OK", TEXT)
    send(b"a")
    send(b"b")
    return [b"c"]


def lazy(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("404 Not Found", TEXT)
    yield b"lazy"


def twice(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    try:
        start_response("200 OK", TEXT)
    except Exception:
        return [b"refused"]
    return [b"accepted"]


def replaced(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("X-Old", "1")])
    try:
        raise LookupError
    except LookupError:
        start_response("503 Busy", TEXT, sys.exc_info())
    return [b"sorry"]


def too_late(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    try:
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("503 Busy", TEXT, sys.exc_info())
    except LookupError:
        notes.append("raised")
        raise


def empty_then_fault(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b""
    raise LookupError("after an empty chunk")


def fault(environ: Environ, start_response: Start) -> list[bytes]:
    raise LookupError("before start_response")


def fault_first(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    if notes is not None:
        raise LookupError("before the first chunk")
    yield b""


def fault_within(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    yield b"second"
    raise LookupError("within")


class Closing:
    """A body that notes its end."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __iter__(self) -> Iterator[bytes]:
        yield b"x" * 100_000
        if self.how == "fault":
            raise LookupError("in the iteration")
        for _ in range(200 if self.how == "left" else 0):
            time.sleep(0.01)
            yield b"x" * 100_000

    def close(self) -> None:
        """Note it."""
        notes.append(self.how)


def closing(environ: Environ, start_response: Start) -> Closing:
    start_response("200 OK", TEXT)
    return Closing(environ["QUERY_STRING"])


def one(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"hello"]


def none(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    return []


def sized(environ: Environ, start_response: Start) -> list[bytes]:
    return say(start_response, "hello")


def bodiless(environ: Environ, start_response: Start) -> list[bytes]:
    start_response({"204": "204 No Content", "304": "304 Not Modified"}[environ["QUERY_STRING"]], [])
    return [b"BODY"]


def too_much(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return iter([b"abc", b"def", b"ghi"])


def too_little(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "9")])
    return iter([b"abc"])


def hop_by_hop(environ: Environ, start_response: Start) -> list[bytes]:
    fields = [("Connection", "X-Hop"), ("Keep-Alive", "timeout=99"), ("Transfer-Encoding", "chunked")]
    start_response("200 OK", [*TEXT, *fields])
    return [b"hop"]


def header(environ: Environ, start_response: Start) -> list[bytes]:
    """Give start_response what it must not take."""
    status, text = {
        "value": ("200 OK", "a\r\nX-Injected: b"),
        "status": ("200 OK\r\nX-Injected: b", "a"),
        "beyond": ("200 OK", "\u20ac"),
    }[environ["QUERY_STRING"]]
    try:
        start_response(status, [*TEXT, ("X-A", text)])
    except Exception:
        start_response("200 OK", TEXT, sys.exc_info())
        return [b"raised"]
    return [b"taken"]


def text(environ: Environ, start_response: Start) -> list[str]:
    start_response("200 OK", TEXT)
    return ["text"]


def body(environ: Environ, start_response: Start) -> list[bytes]:
    stream = environ["wsgi.input"]
    match environ["QUERY_STRING"]:
        case "readline":
            parts = [stream.readline(2), stream.readline(9), stream.readline(), stream.readline(), stream.readline()]
        case "readlines":
            parts = stream.readlines()
        case "iter":
            parts = list(stream)
        case "minus":
            parts = [stream.read(-1), stream.read(-1)]
        case _:
            parts = [stream.read(), stream.read()]
    return say(start_response, b"|".join(parts).decode("latin-1"))


def errors(environ: Environ, start_response: Start) -> list[bytes]:
    environ["wsgi.errors"].write("\u20ac \ud800\n")
    environ["wsgi.errors"].flush()
    return say(start_response, "written")


def file(environ: Environ, start_response: Start) -> Iterable[bytes]:
    if "wsgi.file_wrapper" not in environ:
        return say(start_response, "absent")
    source = tempfile.TemporaryFile()
    source.write(b"0123456789" * 10)
    source.seek(5)
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](source)
    return wrapped


APPS: dict[str, Any] = {
    f"/{app.__name__}": app
    for app in (
        *(noted, value, types, write, lazy, twice, replaced, too_late, empty_then_fault, fault, fault_first),
        *(fault_within, closing, one, none, sized, bodiless, too_much, too_little, hop_by_hop, header, text, body),
        *(errors, file),
    )
}


def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Find the app by the path."""
    found: Iterable[bytes] = APPS.get(environ["PATH_INFO"], sized)(environ, start_response)
    return found
