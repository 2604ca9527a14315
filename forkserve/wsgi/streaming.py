"""`wsgi.input` while the body still arrives: what the app reads is waited for. With `stream_request_body` only.

The other kind is whole before the app is called (wsgi/input.py). Runs in a worker; knows the connection as a function
that brings more. PEP 3333, "Input and Error Streams".
"""

import io
from collections import deque
from collections.abc import Callable

from forkserve.protocol.types import Body
from forkserve.wsgi.input import too_large

_BLOCK_BYTES = 64 * 1024


class StreamedBody:
    """One body on its way: the decoder writes into it, the app's reads take out of it."""

    __slots__ = ("_limit", "_pieces", "is_whole", "length", "stream")

    def __init__(self, limit: int) -> None:
        self.length = 0
        self.stream: io.BufferedReader | None = None
        self.is_whole = False
        self._limit = limit
        self._pieces: deque[bytes] = deque()

    def has_room(self) -> bool:
        """Always: the app reads it as it comes."""
        return True

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises Refused beyond the limit."""
        self.length += len(data)
        if self._limit and self.length > self._limit:
            raise too_large(self._limit)
        self._pieces.append(data)

    def file(self) -> io.BufferedReader:
        """The end has come; an app that was called already reads on as before."""
        self.is_whole = True
        return self.stream or stream(self, _bring_nothing)

    def close(self) -> None:
        """Forget it: the connection ends."""
        self._pieces.clear()

    def take(self, most: int) -> bytes:
        """Give up to ``most`` bytes of what is here; empty: nothing is."""
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if len(piece) > most:
            self._pieces.appendleft(piece[most:])
            piece = piece[:most]
        return piece


class _Arriving(io.RawIOBase):
    """The body as a raw stream; ``bring_more`` waits for the client and raises OSError when nothing more comes."""

    def __init__(self, body: StreamedBody, bring_more: Callable[[], None]) -> None:
        self._body = body
        self._bring_more = bring_more

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]  # io hands in a memoryview
        data = self._body.take(len(buffer))
        while not data and not self._body.is_whole:
            self._bring_more()
            data = self._body.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def stream(body: StreamedBody, bring_more: Callable[[], None]) -> io.BufferedReader:
    """Return the ``wsgi.input`` of a body that still arrives: every method that PEP 3333 asks for."""
    body.stream = io.BufferedReader(_Arriving(body, bring_more), _BLOCK_BYTES)
    return body.stream


def _bring_nothing() -> None:
    raise AssertionError("the body is whole")


class StreamMakerFor:
    """Makes bodies under one limit (0: none); given to every decoder."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, length: int) -> Body:
        """Make the place for a body of ``length`` bytes (-1: unknown). Raises Refused if it is announced too large."""
        if self._limit and length > self._limit:
            raise too_large(self._limit)
        return StreamedBody(self._limit)
