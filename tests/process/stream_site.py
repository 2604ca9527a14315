"""An app that streams: each path in another way, with a clock in its events and gates that a test opens.

What it learns of its client it writes into files where it stands. Imported by the server: no tool of the tests here.
"""

import hashlib
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

Environ = dict[str, Any]
Write = Callable[[bytes], None]
Start = Callable[..., Write]

EVENT = b"<event %017.6f>"
_PLAIN = [("Content-Type", "text/plain")]


@lru_cache(maxsize=8)  # so that what the app needs for itself is not taken for what a reader costs
def pattern(size: int) -> bytes:
    """Bytes in which no part is like another one of the same length."""
    return array("I", range(-(-size // 4))).tobytes()[:size]


def _events(query: dict[str, str]) -> Iterator[bytes]:
    """A large piece, then events, each with the moment at which it was made."""
    yield b"x" * int(query["size"])
    for _ in range(int(query["count"])):
        time.sleep(0.5)  # what an app does that has events
        yield EVENT % time.monotonic()


def _export(query: dict[str, str]) -> Iterator[bytes]:
    """Pieces of a known whole, one each half second."""
    whole, piece = pattern(int(query["size"])), int(query["piece"])
    for at in range(0, len(whole), piece):
        yield whole[at : at + piece]
        time.sleep(0.5)  # what an app does that computes its export


def _pieces(query: dict[str, str]) -> Iterator[bytes]:
    """Pieces of a known whole, as quickly as they are taken; at the end it adds a byte to the file ``note``."""
    whole, piece = pattern(int(query["size"])), int(query["piece"])
    try:
        for at in range(0, len(whole), piece):
            yield whole[at : at + piece]
    finally:
        if "note" in query:
            with open(query["note"], "ab") as file:
                file.write(b".")


def _gated(query: dict[str, str]) -> Iterator[bytes]:
    """A large piece, then nothing until the gate opens, then the end."""
    yield b"x" * int(query["size"])
    Path(query["gate"]).read_bytes()
    yield b"the end"


class _Endless:
    """A large piece, a gate, and then pieces for long; ``close`` writes down how many were asked for after the gate."""

    def __init__(self, query: dict[str, str]) -> None:
        self._query = query
        self._asked = -1

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._asked += 1
        if self._asked == 0:
            return b"x" * 6_000_000
        if self._asked == 1:
            Path(self._query["gate"]).read_bytes()
        elif self._asked > 50:
            raise StopIteration
        else:
            time.sleep(0.1)  # it makes its pieces slowly
        return b"piece"

    def close(self) -> None:
        note = Path(self._query["note"])
        note.with_suffix(".new").write_text(str(self._asked))
        note.with_suffix(".new").rename(note)


def _write_all(stream: Any, write: Write) -> None:
    try:
        for piece in stream:
            write(piece)
    finally:
        stream.close()


def _in_a_thread(work: Callable[[], None]) -> None:
    """Do it in a thread that the server does not know; what it raises, the caller raises."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _write_late(write: Write, query: dict[str, str]) -> None:
    Path(query["gate"]).read_bytes()
    try:
        write(b"LATE" * 1000)
        said = "nothing was raised"
    except BaseException as error:
        said = f"raised {type(error).__name__}"
    note = Path(query["note"])
    note.with_suffix(".new").write_text(said)
    note.with_suffix(".new").rename(note)


def _digest(file: Any) -> str:
    digest = hashlib.md5()
    while piece := file.read(60_000):
        digest.update(piece)
    return digest.hexdigest()


_STREAMS: dict[str, Callable[[dict[str, str]], Iterator[bytes]]] = {
    "/events": _events,
    "/export": _export,
    "/pieces": _pieces,
    "/gated": _gated,
    "/endless": _Endless,
}


def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer as the path says; ``by=write``: by write(), and ``by=thread``: by that in a thread of its own."""
    path, query = environ["PATH_INFO"], dict(parse_qsl(environ["QUERY_STRING"]))
    if path in _STREAMS:
        write = start_response("200 OK", _PLAIN)
        stream = _STREAMS[path](query)
        match query.get("by"):
            case "write":
                _write_all(stream, write)
                return []
            case "thread":
                _in_a_thread(lambda: _write_all(stream, write))
                return []
        return stream
    if path == "/late":
        write = start_response("200 OK", _PLAIN)
        threading.Thread(target=_write_late, args=(write, query)).start()
        return [b"answered"]
    if path == "/digest":
        found: list[str] = []
        _in_a_thread(lambda: found.append(_digest(environ["wsgi.input"])))
        start_response("200 OK", _PLAIN)
        return [found[0].encode()]
    if "gate" in query:
        Path(query["gate"]).read_bytes()
    start_response("200 OK", _PLAIN)
    return [f"{path} {_digest(environ['wsgi.input'])}".encode()]
