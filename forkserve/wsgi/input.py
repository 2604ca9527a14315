"""`wsgi.input`: a request's body, whole before the app is called; in memory while small, then an unlinked file.

So a slow sender costs memory or disk, never the worker. Runs in a worker. PEP 3333, "Input and Error Streams".
"""

from io import BytesIO
from typing import IO

from forkserve.protocol.types import Body, Refused

MEMORY_BYTES = 512 * 1024


class BufferedBody:
    """One body while it arrives."""

    __slots__ = ("_file", "_limit", "_spooled", "length")

    def __init__(self, limit: int, announced: int) -> None:
        self.length = 0
        self._limit = limit
        self._spooled = announced > MEMORY_BYTES
        self._file: IO[bytes] = _temporary_file() if self._spooled else BytesIO()

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises Refused beyond the limit (chunked bodies announce nothing), OSError if the
        disk is full."""
        self.length += len(data)
        if self._limit and self.length > self._limit:
            raise too_large(self._limit)
        if not self._spooled and self.length > MEMORY_BYTES:
            memory, self._file = self._file, _temporary_file()
            self._file.write(memory.getvalue())  # type: ignore[attr-defined]  # it is the BytesIO
            self._spooled = True
        self._file.write(data)

    def file(self) -> IO[bytes]:
        """The whole body, at its start: both kinds of file have every method that PEP 3333 asks for."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Forget the body."""
        try:
            self._file.close()
        except OSError:  # what it still had to write: nobody will read it
            pass


def _temporary_file() -> IO[bytes]:
    import tempfile  # lazy: 3 ms of every start, for services that may never get a large body

    return tempfile.TemporaryFile()


def too_large(limit: int) -> Refused:
    """The refusal of a body beyond ``limit`` bytes."""
    return Refused("413 Content Too Large", f"the body has more than {limit} bytes")


class BodyMakerFor:
    """Makes bodies under one limit (0: none); given to every decoder."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, length: int) -> Body:
        """Make the place for a body of ``length`` bytes (-1: unknown). Raises Refused if it is announced too large."""
        if self._limit and length > self._limit:
            raise too_large(self._limit)
        return BufferedBody(self._limit, length)
