"""`wsgi.input`: a request's body, whole before the app is called; in memory while small, then an unlinked file.

So a slow sender costs memory or disk, never the worker. Where the disk has no room the client waits. Runs in a worker.
PEP 3333, "Input and Error Streams".
"""

import os
from io import BufferedRandom, BytesIO
from typing import IO

from forkserve.protocol.types import READ_BYTES, Body, Refused
from forkserve.unix.spool import Spool, SpoolFile

MEMORY_BYTES = 512 * 1024
_STEP_BYTES = 1 << 20  # of the disk, set aside at once


class BufferedBody:
    """One body while it arrives."""

    __slots__ = ("_disk", "_file", "_limit", "_pid", "_room", "_spool", "length")

    def __init__(self, limit: int, spool: Spool) -> None:
        self.length = 0
        self._limit = limit
        self._spool = spool
        self._room = MEMORY_BYTES  # how long it can become without asking again
        self._file: IO[bytes] = BytesIO()
        self._disk: SpoolFile | None = None

    def has_room(self) -> bool:
        """Whether the next READ_BYTES could be taken now: in memory, or on a part of the disk that is set aside."""
        return self.length + READ_BYTES <= self._room or self._make_room()

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises Refused beyond the limit (chunked bodies announce nothing)."""
        self.length += len(data)
        if self._limit and self.length > self._limit:
            raise too_large(self._limit)
        self._file.write(data)

    def file(self) -> IO[bytes]:
        """The whole body, at its start: both kinds of file have every method that PEP 3333 asks for."""
        if self._disk is not None:
            self._file.truncate(self.length)  # gives back what was set aside for more
            self._spool.give_back(self._disk.taken - self.length)
            self._disk.taken = self.length
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Forget the body. In a process that the app has forked nothing is written: the file is the worker's too."""
        if self._disk is not None and os.getpid() != self._pid:
            self._disk.close()
            return
        try:
            self._file.close()
        except OSError:  # what it still had to write: nobody will read it
            pass

    def _make_room(self) -> bool:
        """Set aside the next part of the disk; False: there is no room."""
        spool, disk = self._spool, self._disk
        before = 0 if disk is None else self._room
        least = self.length + READ_BYTES
        after = -(-least // _STEP_BYTES) * _STEP_BYTES
        if not spool.take(after - before):
            after = least  # there may be room for this much
            if not spool.take(after - before):
                return False
        if disk is None:
            fd = spool.open()
            disk = None if fd is None else SpoolFile(fd, spool)
        if disk is None or not spool.reserve(disk.fileno(), before, after - before):
            if disk is not None and disk is not self._disk:
                disk.close()
            spool.give_back(after - before)
            return False
        disk.taken = self._room = after
        if self._disk is None:
            memory, self._file, self._disk = self._file, BufferedRandom(disk), disk
            self._pid = os.getpid()
            self._file.write(memory.getvalue())  # type: ignore[attr-defined]  # it is the BytesIO
        return True


def too_large(limit: int) -> Refused:
    """The refusal of a body beyond ``limit`` bytes."""
    return Refused("413 Content Too Large", f"the body has more than {limit} bytes")


class BodyMakerFor:
    """Makes bodies under one limit (0: none); given to every decoder."""

    def __init__(self, limit: int, spool: Spool | None = None) -> None:
        self._limit = limit
        self._spool = spool or Spool()

    def __call__(self, length: int) -> Body:
        """Make the place for a body of ``length`` bytes (-1: unknown). Raises Refused if it is announced too large."""
        if self._limit and length > self._limit:
            raise too_large(self._limit)
        return BufferedBody(self._limit, self._spool)
