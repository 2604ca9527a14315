"""The pidfile: locked for as long as the master lives, so that stale means not locked.

The lock is one of the open file description (F_OFD_SETLK, fcntl(2)): as flock it survives forks and execs, but it takes
the right to write, so nobody who may only read the file can hold it. Written to a temporary name that nobody can have
prepared and renamed, so that nobody reads half of it; unlinked only if the name is still ours. Links are not followed.
"""

import errno
import fcntl
import os
import struct

from forkserve.errors import PidfileError, PidfileLeftError

_WHOLE_FILE = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock


class Pidfile:
    """A locked pidfile."""

    def __init__(self, path: str) -> None:
        """Lock ``path`` and write our PID. PidfileError if a living process holds it or it cannot be written."""
        self.path = os.path.abspath(path)
        temporary = f"{self.path}.{os.urandom(8).hex()}"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(temporary, flags, 0o644)
            try:
                _lock(self.fd)
                os.write(self.fd, f"{os.getpid()}\n".encode())
                while not (_put_first(temporary, self.path) or _replace(temporary, self.path)):
                    pass  # somebody else was in the middle of it: look again
            except BaseException:
                os.close(self.fd)
                raise
            finally:
                _unlink(temporary)
        except OSError as error:
            raise PidfileError(
                f"pidfile = {path!r}: cannot be written: {error.strerror}; choose a folder that this user may write"
            ) from None

    @classmethod
    def resume(cls, path: str, fd: int) -> "Pidfile":
        """Go on holding the file that the master that we were has locked."""
        held = cls.__new__(cls)
        held.path, held.fd = path, fd
        return held

    @property
    def is_lost(self) -> bool:
        """Whether its path leads to something else by now, or nowhere."""
        try:
            ours, there = os.fstat(self.fd), os.stat(self.path)
        except OSError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def close(self) -> None:
        """Let go of the lock without touching the file, as a new child does."""
        os.close(self.fd)

    def remove(self) -> None:
        """Unlink the file if its name still means ours, and let go of the lock."""
        if not self.is_lost:
            _unlink(self.path)
        os.close(self.fd)


def _lock(fd: int) -> None:
    """Lock all of an open file. Raises OSError if somebody else has."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)


def _put_first(temporary: str, path: str) -> bool:
    """Give the file its name if no other has it; of several that try at once one succeeds."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK) or os.path.exists(path):
            raise
        os.rename(temporary, path)  # a file system without links: no better than that
    return True


def _replace(temporary: str, path: str) -> bool:
    """Take the place of a file whose owner is dead; False if it has changed meanwhile. PidfileError if he lives."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        try:
            _lock(fd)
        except (BlockingIOError, PermissionError):  # fcntl(2): EAGAIN or EACCES
            owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
                raise PidfileLeftError(
                    f"pidfile = {path!r}: held by what is left of a forkserve that has died, pid {owner}; end its"
                    " processes or use another pidfile"
                ) from None
            raise PidfileError(
                f"pidfile = {path!r}: held by a running forkserve, pid {owner}; stop it or use another pidfile"
            ) from None
        locked, there = os.fstat(fd), os.stat(path)
        if (locked.st_dev, locked.st_ino) != (there.st_dev, there.st_ino):
            return False
        os.rename(temporary, path)  # nobody else does: who wants to must lock what stands there, which is ours
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
