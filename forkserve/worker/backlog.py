"""What a client has not taken yet, in order: bytes in memory, then in an unlinked file, and regions of files.

So a slow reader costs memory and then disk, never the worker. Knows no state of a connection.
"""

import errno
import os
from collections import deque
from collections.abc import Callable

MEMORY_BYTES = 1 << 20
_READ_BYTES = 64 * 1024  # of a file, where the kernel cannot send it by itself (TLS)
# Of one wake-up, however much the client takes: others wait for the worker too. One sendfile of 1 GiB to a fast client
# on loopback took a second.
BURST_BYTES = 1 << 20


class CutShort(OSError):
    """A file has become shorter than what was announced of it."""


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
    """The pieces that one client has still to take; ``spool_limit``: how large our own file may become."""

    __slots__ = ("_limit", "_pieces", "_spool", "_spool_fd", "_spool_size", "in_memory")

    def __init__(self, spool_limit: int) -> None:
        self._limit = spool_limit
        self._pieces: deque[memoryview | Region] = deque()
        self._spool: Region | None = None  # the last piece, while it can still grow
        self._spool_fd = -1
        self._spool_size = 0
        self.in_memory = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def is_full(self) -> bool:
        """Whether whoever produces more should wait."""
        return self.in_memory > MEMORY_BYTES and self._spool_size >= self._limit

    def keep(self, data: memoryview) -> None:
        """Keep ``data``, in memory or, beyond MEMORY_BYTES of it, in the file. Raises OSError if the disk is full."""
        if self.in_memory + len(data) <= MEMORY_BYTES or self._spool_size >= self._limit:
            self._pieces.append(data)
            self._spool = None
            self.in_memory += len(data)
            return
        if self._spool_fd < 0:
            self._spool_fd = _unlinked_file()
        if self._spool is None:
            self._spool = Region(self._spool_fd, self._spool_size, 0, owned=False)
            self._pieces.append(self._spool)
        rest = data
        while rest:
            written = os.pwrite(self._spool_fd, rest, self._spool_size)
            self._spool_size += written
            self._spool.count += written
            rest = rest[written:]

    def keep_region(self, region: Region) -> None:
        """Keep a part of a file."""
        self._pieces.append(region)
        self._spool = None

    def write(self, send: Callable[[bytes | memoryview], int], socket_fd: int) -> None:
        """Send as much as is taken now, but for a burst. Raises BlockingIOError when that is not all, and OSError."""
        pieces = self._pieces
        left = BURST_BYTES
        while pieces:
            if left <= 0:
                raise BlockingIOError(errno.EAGAIN, "a burst has left; the others come first")
            piece = pieces[0]
            if isinstance(piece, Region):
                left -= piece.send(send, socket_fd)
                if piece.count:
                    continue
                self._finish(piece)
            else:
                sent = send(piece)
                left -= sent
                self.in_memory -= sent
                if sent < len(piece):
                    pieces[0] = piece[sent:]
                    continue
            pieces.popleft()
        self._drop_spool()

    def clear(self) -> None:
        """Forget everything."""
        for piece in self._pieces:
            if isinstance(piece, Region):
                piece.close()
        self._pieces.clear()
        self.in_memory = 0
        self._drop_spool()

    def _finish(self, region: Region) -> None:
        region.close()
        if region is self._spool:  # all of the file was taken: begin it anew, so that its limit bounds the disk
            os.ftruncate(self._spool_fd, 0)
            self._spool, self._spool_size = None, 0

    def _drop_spool(self) -> None:
        if self._spool_fd >= 0:
            os.close(self._spool_fd)
        self._spool_fd, self._spool, self._spool_size = -1, None, 0


def _unlinked_file() -> int:
    """Open a file without a name where temporary files belong."""
    import tempfile  # lazy: 3 ms of every start, for services that may never have a slow reader

    folder = tempfile.gettempdir()
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE
        fd, path = tempfile.mkstemp(prefix="forkserve-", dir=folder)
        os.unlink(path)
        return fd
