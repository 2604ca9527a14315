"""A body of known content whose app does what it is asked to after the first part: go on, raise, or wait for a gate.

The query says it: `first` and `size` are bytes, `then` is whole, raise or gate, `by` is iter, write or file, `length=1`
announces the size. The files of ENDED_FOLDER are how the benchmark and the app tell each other what has happened:
`ready-PID` (imported), `at-TOKEN` (the first part is given away; holds the PID), `gate` (go on), `body` (the content).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

_FOLDER = Path(os.environ["ENDED_FOLDER"])
_BODY = (_FOLDER / "body").read_bytes()
_PIECE_BYTES = 128 << 10
_GATE_S = 40.0  # then it goes on by itself: nothing here waits for ever
_LOOK_S = 0.02


class Broken(Exception):
    """What the app raises amid its body."""


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as the query says."""
    asked = dict(parse_qsl(environ["QUERY_STRING"]))
    size = int(asked.get("size", len(_BODY)))
    headers = [("Content-Type", "application/octet-stream")]
    if asked.get("length") == "1":
        headers.append(("Content-Length", str(size)))
    write = start_response("200 OK", headers)
    token = asked.get("token", "")
    if asked.get("by") == "file":
        _note(token)
        wrap = environ["wsgi.file_wrapper"]
        wrapped: Iterable[bytes] = wrap(FileIO(_FOLDER / "body"), _PIECE_BYTES)
        return wrapped
    pieces = _pieces(asked.get("then", "whole"), int(asked.get("first", size)), size, token)
    if asked.get("by") == "write":
        for piece in pieces:
            write(piece)
        return []
    return pieces


def _pieces(then: str, first: int, size: int, token: str) -> Iterator[bytes]:
    yield from _cut(0, first)
    _note(token)
    if then == "raise":
        raise Broken("amid the body, as it was asked to")
    if then == "gate":
        until = time.monotonic() + _GATE_S
        while not (_FOLDER / "gate").exists() and time.monotonic() < until:
            time.sleep(_LOOK_S)
    yield from _cut(first, size)


def _cut(begin: int, end: int) -> Iterator[bytes]:
    for at in range(begin, end, _PIECE_BYTES):
        yield _BODY[at : min(at + _PIECE_BYTES, end)]


def _note(token: str) -> None:
    if token:
        unread = _FOLDER / f"new-{token}"
        unread.write_text(str(os.getpid()))
        unread.rename(_FOLDER / f"at-{token}")  # who sees it sees all of it


(_FOLDER / f"ready-{os.getpid()}").touch()
