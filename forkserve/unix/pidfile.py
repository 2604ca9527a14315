"""The pidfile: held by flock for as long as the master lives, so that stale means not locked.

Written to a temporary name and renamed, so that nobody reads half of it; unlinked only if the name is still ours.
"""

import fcntl
import os

from forkserve.errors import PidfileError


class Pidfile:
    """A locked pidfile."""

    def __init__(self, path: str) -> None:
        """Lock ``path`` and write our PID. PidfileError if a living process holds it or it cannot be written."""
        self.path = os.path.abspath(path)
        temporary = f"{self.path}.{os.getpid()}"
        try:
            held = _lock_current(self.path)
            try:
                self.fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.write(self.fd, f"{os.getpid()}\n".encode())
                    os.rename(temporary, self.path)
                except BaseException:
                    os.close(self.fd)
                    _unlink(temporary)
                    raise
            finally:
                if held is not None:
                    os.close(held)
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

    def close(self) -> None:
        """Let go of the lock without touching the file, as a new child does."""
        os.close(self.fd)

    def remove(self) -> None:
        """Unlink the file if its name still means ours, and let go of the lock."""
        try:
            ours, there = os.fstat(self.fd), os.stat(self.path)
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                os.unlink(self.path)
        except OSError:
            pass
        os.close(self.fd)


def _lock_current(path: str) -> int | None:
    """Lock the file that stands at ``path`` now, so that two starters cannot both replace it; None if there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise PidfileError(
            f"pidfile = {path!r}: held by a running forkserve, pid {owner}; stop it or use another pidfile"
        ) from None
    return fd


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
