"""What a client has not taken yet, in order: bytes in memory, then in an unlinked file, and regions of files.

So a slow reader costs memory and then disk, never the worker. Two threads may write it, the app's and the flusher's:
whoever touches it holds its ``lock``. Knows no state of a connection.
"""

import errno
import os
from _thread import RLock
from collections import deque
from collections.abc import Callable
from time import monotonic

from forkserve.unix.spool import Spool

MEMORY_BYTES = 1 << 20
_READ_BYTES = 64 * 1024  # of a file, where the kernel cannot send it by itself (TLS)
_BLOCK_BYTES = 64 * 1024  # smaller pieces are gathered in blocks: 5 bytes kept by themselves took 190
_TRY_AGAIN_S = 0.001  # in vain costs 2 us, and small pieces come by the hundred thousand; the flusher sees it earlier
# Of one wake-up, however much the client takes: others wait for the worker too. One sendfile of 1 GiB to a fast client
# on loopback took a second.
BURST_BYTES = 1 << 20


class CutShort(OSError):
    """A file has become shorter than what was announced of it."""


class TakesNothing(OSError):
    """The client has taken nothing for `send_timeout`."""


class Region:
    """A part of a file; ``fd`` is ours to close when ``owned``."""

    __slots__ = ("count", "fd", "offset", "owned")

    def __init__(self, fd: int, offset: int, count: int, *, owned: bool) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.owned = owned

    def send(self, send: Callable[[bytes], int], socket_fd: int) -> int:
        """Send once, tell how much: by the kernel to ``socket_fd``, or by ``send`` where that is -1. Raises OSError."""
        if socket_fd >= 0:
            sent = os.sendfile(socket_fd, self.fd, self.offset, min(self.count, BURST_BYTES))
        else:
            data = os.pread(self.fd, min(self.count, _READ_BYTES), self.offset)
            sent = send(data) if data else 0
        if not sent:
            raise CutShort("the file has become shorter than announced")
        self.offset += sent
        self.count -= sent
        return sent

    def close(self) -> None:
        """Let go of the file."""
        if self.owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Backlog:
    """The pieces that one client has still to take; ``limit``: how large its own file may become."""

    __slots__ = (
        "_file", "_file_fd", "_file_size", "_limit", "_pieces", "_sent", "_spool", "_tail", "error", "in_memory",
        "is_watched", "lock", "taken_at", "try_at", "unsent",
    )  # fmt: skip

    def __init__(self, spool: Spool, limit: int) -> None:
        self.lock = RLock()  # a signal handler may come amid what holds it
        self.is_watched = False  # by the flusher
        self.error: OSError | None = None  # the client has left, or takes nothing: nothing more is kept
        self.try_at = 0.0  # before that moment the client takes nothing more, as far as we know
        self.taken_at = monotonic()  # when the client took something for the last time
        self.in_memory = 0
        self.unsent = 0  # bytes that were forgotten
        self._spool = spool
        self._limit = limit
        self._pieces: deque[bytes | memoryview | bytearray | Region] = deque()
        self._sent = 0  # of the first piece
        self._tail: bytearray | None = None  # the last piece, while small ones can still be added to it
        self._file: Region | None = None  # the last piece, while it can still grow
        self._file_fd = -1
        self._file_size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def is_full(self) -> bool:
        """Whether whoever produces more should wait: there was no room but in memory."""
        return self.in_memory > MEMORY_BYTES

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self.in_memory + sum(piece.count for piece in self._pieces if isinstance(piece, Region))

    def keep(self, data: bytes | memoryview) -> None:
        """Keep ``data``: in memory or, beyond MEMORY_BYTES of it, in the file; where that has no room, in memory."""
        if self.in_memory + len(data) > MEMORY_BYTES:
            data = memoryview(data)[self._spool_away(memoryview(data)) :]
            if not data:
                return
        self._file = None
        self.in_memory += len(data)
        if len(data) >= _BLOCK_BYTES and 2 * len(data) >= _whole_bytes(data):
            self._pieces.append(data)
            self._tail = None
            return
        # Gathered, and copied: a small rest of a large piece must not keep all of that.
        if self._tail is None or len(self._tail) + len(data) > _BLOCK_BYTES:
            self._tail = bytearray(data)
            self._pieces.append(self._tail)
        else:
            self._tail += data

    def keep_region(self, region: Region) -> None:
        """Keep a part of a file."""
        self._pieces.append(region)
        self._tail = self._file = None

    def write(self, send: Callable[[bytes | memoryview], int], socket_fd: int) -> None:
        """Send as much as is taken now, but for a burst. Raises BlockingIOError when that is not all, and OSError."""
        if self.error is not None:
            raise self.error
        pieces = self._pieces
        left = BURST_BYTES
        while pieces:
            if left <= 0:
                raise BlockingIOError(errno.EAGAIN, "a burst has left; the others come first")
            piece = pieces[0]
            if isinstance(piece, Region):
                sent = piece.send(send, socket_fd)
                is_whole = not piece.count
                if is_whole:
                    self._finish(piece)
            else:
                if piece is self._tail:
                    self._tail = None  # it cannot grow while a part of it is looked at
                try:
                    sent = send(memoryview(piece)[self._sent :])
                except BlockingIOError:
                    self.try_at = monotonic() + _TRY_AGAIN_S
                    raise
                self.in_memory -= sent
                self._sent += sent
                is_whole = self._sent == len(piece)
            left -= sent
            self.taken_at = monotonic()
            if is_whole:
                pieces.popleft()
                self._sent = 0
        self._drop_file()

    def fail(self, error: OSError) -> None:
        """Forget everything: whoever still has something for this client meets ``error``."""
        self.unsent += self.size
        self.clear()
        self.error = error

    def clear(self) -> None:
        """Forget everything."""
        for piece in self._pieces:
            if isinstance(piece, Region):
                piece.close()
        self._pieces.clear()
        self._tail = None
        self.in_memory = self._sent = 0
        self._drop_file()

    def _spool_away(self, data: memoryview) -> int:
        """Write into the file what it has room for; tell how much."""
        data = data[: max(0, self._limit - self._file_size)]
        if not data or not self._spool.take(len(data)):
            return 0
        if self._file_fd < 0:
            fd = self._spool.open()
            if fd is None:
                self._spool.give_back(len(data))
                return 0
            self._file_fd = fd
        done = self._spool.write(self._file_fd, data, self._file_size)
        self._spool.give_back(len(data) - done)
        if done:
            if self._file is None:
                self._file = Region(self._file_fd, self._file_size, 0, owned=False)
                self._pieces.append(self._file)
                self._tail = None
            self._file.count += done
            self._file_size += done
        return done

    def _finish(self, region: Region) -> None:
        region.close()
        if region is self._file:  # all of the file was taken: begin it anew, so that its limit bounds the disk
            os.ftruncate(self._file_fd, 0)
            self._spool.give_back(self._file_size)
            self._file, self._file_size = None, 0

    def _drop_file(self) -> None:
        if self._file_fd >= 0:
            os.close(self._file_fd)
            self._spool.give_back(self._file_size)
        self._file_fd, self._file, self._file_size = -1, None, 0


def _whole_bytes(data: bytes | memoryview) -> int:
    """How much memory keeping ``data`` by reference keeps."""
    whole = data.obj if isinstance(data, memoryview) else data
    return len(whole) if isinstance(whole, bytes | bytearray) else 0
