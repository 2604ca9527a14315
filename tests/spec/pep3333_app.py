"""The apps of test_pep3333.py, which a server imports under another name: lawful ones are watched, others misbehave.

Each is found by the path of its own name.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]

TEXT = [("Content-Type", "text/plain")]
WATCHED: dict[str, Any] = {}
UNWATCHED: dict[str, Any] = {}
inside = 0


def lawful(app: Any) -> Any:
    WATCHED["/" + app.__name__] = validator(app)
    return app


def lawless(app: Any) -> Any:
    """One that wsgiref.validate would not let pass: it misbehaves, or asks for what PEP 3333 does not demand."""
    UNWATCHED["/" + app.__name__] = app
    return app


@lawful
def environ_of(environ: Environ, start_response: Start) -> list[bytes]:
    """Everything of the environ that JSON can say, the types of the rest."""
    start_response("200 OK", TEXT)
    told = {key: value if isinstance(value, str | bool) else repr(value) for key, value in environ.items()}
    return [json.dumps(told).encode()]


@lawless
def scribbler(environ: Environ, start_response: Start) -> list[bytes]:
    fresh = type(environ) is dict and "scribbled" not in environ and environ["REQUEST_METHOD"] == "GET"
    environ.clear()
    environ["scribbled"] = start_response
    start_response("200 OK", TEXT)
    return [b"fresh" if fresh else b"used"]


@lawful
def errors(environ: Environ, start_response: Start) -> list[bytes]:
    stream = environ["wsgi.errors"]
    stream.write("of the app: \u20ac\n")
    stream.writelines(["alone: \ud800\n"])
    stream.flush()
    start_response("200 OK", TEXT)
    return [b"written"]


# wsgi.input


@lawful
def reads(environ: Environ, start_response: Start) -> list[bytes]:
    read = environ["wsgi.input"].read
    start_response("200 OK", TEXT)
    return [b"|".join([read(0), read(2), read(10), read(10), read(10)])]


@lawless
def rest_of(environ: Environ, start_response: Start) -> list[bytes]:
    stream = environ["wsgi.input"]
    start_response("200 OK", TEXT)
    return [stream.read() + stream.read(-1) + stream.read(None) + stream.read()]


@lawful
def lines_of(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"|".join(list(environ["wsgi.input"]))]


@lawless
def readline_of(environ: Environ, start_response: Start) -> list[bytes]:
    readline = environ["wsgi.input"].readline
    start_response("200 OK", TEXT)
    return [b"|".join([readline(2), readline(9), readline(), readline(), readline(), readline(), readline()])]


@lawful
def readlines_of(environ: Environ, start_response: Start) -> list[bytes]:
    readlines = environ["wsgi.input"].readlines
    start_response("200 OK", TEXT)
    return [b"|".join(readlines(1) + readlines())]


@lawful
def touch(environ: Environ, start_response: Start) -> list[bytes]:
    Path("touched").touch()
    start_response("200 OK", TEXT)
    return [environ["wsgi.input"].read(10)]


# start_response


@lawless
def starts(environ: Environ, start_response: Start) -> list[bytes]:
    """Call start_response with what the body says."""
    arguments = eval(environ["wsgi.input"].read())
    try:
        start_response(*arguments)
    except (TypeError, ValueError):
        start_response("200 OK", TEXT)
        return [b"raised"]
    return [b"taken"]


@lawful
def late(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """The head is held until the gate opens, although start_response was called."""
    start_response("200 OK", TEXT)
    Path(environ["QUERY_STRING"]).read_bytes()
    raise LookupError("after start_response")


@lawful
def empty_then_fault(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b""
    raise LookupError("after an empty chunk")


@lawless
def lazy(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("404 Not Found", TEXT)
    yield b""
    yield b"first"
    yield b""
    yield b"second"


@lawful
def writes(environ: Environ, start_response: Start) -> list[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"a")
    write(b"b")
    return [b"c"]


@lawless
def twice(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    try:
        start_response("201 Created", TEXT)
    except Exception as error:
        return [type(error).__name__.encode()]
    return [b"taken"]


@lawful
def replaced(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("X-First", "1"), ("Content-Length", "999")])
    try:
        raise LookupError
    except LookupError:
        start_response("503 Busy", [*TEXT, ("Content-Length", "5")], sys.exc_info())
    return [b"sorry"]


@lawful
def too_late(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    try:
        raise LookupError("too late")
    except LookupError:
        start_response("503 Busy", TEXT, sys.exc_info())
    yield b"never"


@lawless
def hop_by_hop(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("Keep-Alive", "timeout=9"), ("Transfer-Encoding", "chunked")])
    return [b"plain"]


@lawful
def dated(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "mine")])
    return [b"dated"]


# sending


@lawful
def gated(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    for number in (b"1", b"2", b"3"):
        yield number
        Path(environ["QUERY_STRING"]).read_bytes()


@lawless
def text(environ: Environ, start_response: Start) -> list[str]:
    start_response("200 OK", TEXT)
    return ["text"]


@lawless
def one(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"hello"]


@lawless
def none(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    return []


@lawless
def too_much(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    yield b"abc"
    yield b"def"
    Path("asked for more").touch()
    yield b"ghi"


@lawless
def too_little(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return iter([b"abc"])


# ending


class Closing:
    """A body that notes its end."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def __iter__(self) -> Iterator[bytes]:
        yield b"x" * 100_000
        if self.ending == "fault":
            raise LookupError("in the iteration")
        while self.ending in ("endless", "long"):
            yield b"x" * 100_000

    def close(self) -> None:
        """Note it."""
        with Path("closed").open("a") as file:
            file.write(self.ending + "\n")


@lawless
def closing(environ: Environ, start_response: Start) -> Closing:
    ending = environ["QUERY_STRING"]
    length = {"long": "150000", "short": "200000"}.get(ending)
    start_response("200 OK", [*TEXT, ("Content-Length", length)] if length else TEXT)
    return Closing(ending)


@lawful
def faulty(environ: Environ, start_response: Start) -> Iterable[bytes]:
    raise LookupError("before start_response")


@lawful
def fault_within(environ: Environ, start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    raise LookupError("after the first chunk")


# concurrency


@lawful
def alone(environ: Environ, start_response: Start) -> list[bytes]:
    global inside
    inside += 1
    time.sleep(0.005)
    others = inside - 1
    inside -= 1
    start_response("200 OK", TEXT)
    return [b"in company" if others else b"alone"]


def app(environ: Environ, start_response: Start, *rest: object, **named: object) -> Iterable[bytes]:
    """PEP 3333: "The application object must accept two positional arguments"."""
    assert not rest and not named
    found: Iterable[bytes] = (UNWATCHED | WATCHED).get(environ["PATH_INFO"], WATCHED["/environ_of"])(
        environ, start_response
    )
    return found
