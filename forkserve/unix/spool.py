"""Files without a name for what clients have not taken or not sent yet, and how many bytes of them a service may hold.

Each worker counts what its own files hold in its cell of a table that all workers of the service share, and asks for a
mebibyte at a time, so that the sum is read rarely; two that ask at the same moment may pass the limit by that much.
"No room" is never an error here: it says that whoever produces more must wait. Runs in workers; knows no connection.
Sources: open(2) O_TMPFILE, posix_fallocate(3), proc(5) mountinfo, cgroup-v2 memory.max.
"""

import errno
import os
from _thread import RLock
from io import FileIO
from os import open as open_file
from time import monotonic

from forkserve.unix import memory
from forkserve.unix.descriptors import one_opens

_STEP_BYTES = 1 << 20
_LOOK_S = 1.0  # how long a limit that is a share of the room stays as it was reckoned
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}  # a file system that does not know it
_RETRY_S = 1.0  # how long a folder that takes no file is left alone


class Spool:
    """The files of one worker. ``limit`` is of all workers together: bytes, or a share such as "25%"."""

    def __init__(self, limit: str = "100%", cell: memoryview | None = None, cells: memoryview | None = None) -> None:
        """``cell`` and ``cells``, of 8-byte integers: our place in the table of the service, and all of it."""
        self._limit = limit
        self._cell = memoryview(bytearray(8)).cast("q") if cell is None else cell
        self._cells = self._cell if cells is None else cells
        self._lock = RLock()  # the handler of an overdue request may come amid what holds it
        self._used = 0
        self._granted = 0  # what our cell says: at least what is used
        self._most = 0
        self._look_at = 0.0
        self._retry_at = 0.0
        self.trouble = ""  # why there was no room the last time

    def open(self) -> int | None:
        """Open a file of mode 0600 that has no name; None: there is no room for one."""
        now = monotonic()
        if now < self._retry_at:
            return None
        try:
            with one_opens:
                return _unlinked_file()
        except OSError as error:  # no folder that can be written to, no descriptor, no room
            self._retry_at = now + _RETRY_S
            self.trouble = error.strerror or str(error)
            return None

    def take(self, count: int) -> bool:
        """Ask for room for ``count`` bytes; False: there is none."""
        with self._lock:
            wanted = self._used + count
            if wanted > self._granted:
                grant = -(-wanted // _STEP_BYTES) * _STEP_BYTES
                # A cell may hold nonsense where its worker's app wrote into it: it takes no more than there is.
                others = sum(max(0, held) for held in self._cells) - max(0, self._cell[0])
                left = self._bound(others) - others
                if wanted > left:
                    self.trouble = "limit_spool is reached"
                    return False
                if grant > left:
                    grant = wanted
                self._cell[0] = self._granted = grant
            self._used = wanted
            self.trouble = ""
            return True

    def give_back(self, count: int) -> None:
        """Say that so many bytes are free again."""
        with self._lock:
            self._used -= count
            if self._granted - self._used >= 2 * _STEP_BYTES:
                self._cell[0] = self._granted = -(-self._used // _STEP_BYTES) * _STEP_BYTES

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write into a file of ours, with room that was taken before; return how much of it found room on the disk."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
        except OSError as error:  # ENOSPC, EDQUOT, EFBIG; whatever it is, waiting for the client is right
            self.trouble = error.strerror or str(error)
        return done

    def reserve(self, fd: int, offset: int, count: int) -> bool:
        """Have the disk set aside a part of a file of ours, so that writing there cannot fail; False: no room."""
        try:
            os.posix_fallocate(fd, offset, count)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return False
        return True

    def forget(self) -> None:
        """Count for nobody from now on, in a process that the app has forked: the cell stays the worker's."""
        self._lock = RLock()
        self._cell = self._cells = memoryview(bytearray(8)).cast("q")

    def _bound(self, others: int) -> float:
        """The most that all may hold, in bytes."""
        if not self._limit.endswith("%"):
            return int(self._limit)
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._most = _room(others + self._used) * int(self._limit[:-1]) // 100
        return self._most


class SpoolFile(FileIO):
    """A file of a spool that somebody else closes; what it holds counts until then."""

    def __init__(self, fd: int, spool: Spool) -> None:
        self._spool = spool
        self.taken = 0  # bytes that were asked for
        super().__init__(fd, "r+b")

    def close(self) -> None:
        """Close it, which frees what it holds."""
        taken, self.taken = self.taken, 0
        if taken:
            self._spool.give_back(taken)
        super().close()


def _room(held: int) -> int:
    """How many bytes of spools there is room for where they lie, with the ``held`` ones of now."""
    for folder in _folders():
        try:
            about = os.statvfs(folder)
            room = about.f_bavail * about.f_frsize + held
            return min(room, memory.limit()) if memory.is_in_memory(folder) else room
        except OSError:
            pass
    return 0


def _folders() -> list[str]:
    """Where temporary files belong, the best place first: as tempfile has it, but never in the app's own folder.

    Not by tempfile: out of descriptors nothing can be imported any more, and this is then needed for the first time.
    """
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    return [folder for folder in (*named, "/tmp", "/var/tmp", "/usr/tmp") if os.access(folder, os.W_OK | os.X_OK)]


def _unlinked_file() -> int:
    """Open a file without a name where temporary files belong. Raises OSError."""
    trouble = OSError(errno.ENOENT, "no folder for temporary files")
    for folder in _folders():
        try:
            return _unlinked_in(folder)
        except OSError as error:
            trouble = error
    raise trouble


def _unlinked_in(folder: str) -> int:
    try:
        return open_file(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    path = os.path.join(folder, f"forkserve-{os.urandom(8).hex()}")
    fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.unlink(path)
    return fd
