"""Opening files below a folder, and nothing outside of it, whoever renames or links meanwhile. Runs in a worker.

Names are walked one by one from the folder's descriptor, none of them followed if it is a link. Links are read and
walked by hand, as openat2(2) does with RESOLVE_BENEATH: one that is absolute or climbs above the folder leads nowhere.
Every question is answered by the descriptor that is then used, so there is no moment between check and use.
"""

import errno
import os
from collections.abc import Iterable

# O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = os.O_PATH | os.O_DIRECTORY
_MOST_LINKS = 40  # as the kernel: path_resolution(7)

# There is no such file to be read: it is missing, no folder is where one should be, a link leads nowhere, the name
# cannot be one, or it is a socket.
NO_SUCH_FILE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EXDEV,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENXIO,
    errno.ENODEV,
}


class Folder:
    """A folder that files are served from. It is looked up by its path each time: a deploy may replace it.

    With ``follow_links`` the kernel follows links, wherever they lead.
    """

    __slots__ = ("_follow_links", "path")

    def __init__(self, path: str, follow_links: bool = False) -> None:
        self.path = os.fsencode(os.path.abspath(path))
        self._follow_links = follow_links

    def open(self, names: Iterable[bytes]) -> int:
        """Open what ``names`` lead to for reading: a file, or a folder, which only fstat is meant for.

        No name may be empty, ``.`` or ``..``, or hold a slash or NUL. Raises OSError; see NO_SUCH_FILE.
        """
        if self._follow_links:
            return os.open(b"/".join((self.path, *names)), _READ)
        trail = [os.open(self.path, _FOLDER)]
        try:
            return _walk(trail, list(names)[::-1])
        finally:
            for fd in trail:
                os.close(fd)


def _walk(trail: list[int], ahead: list[bytes]) -> int:
    """Walk the names ``ahead`` (the next is the last) from the last folder of ``trail``, which grows meanwhile."""
    links = 0
    while ahead:
        name = ahead.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":  # of a link; the folder that we came from, wherever it has been moved meanwhile
            if len(trail) == 1:
                raise OSError(errno.EXDEV, "a link leads out of the folder")
            os.close(trail.pop())
            continue
        try:
            if not ahead:
                return os.open(name, _READ | os.O_NOFOLLOW, dir_fd=trail[-1])
            trail.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=trail[-1]))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            target = os.readlink(name, dir_fd=trail[-1])  # EINVAL: it is no link, and no folder either
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, "too many links") from None
            if target.startswith(b"/"):
                raise OSError(errno.EXDEV, "a link leads out of the folder") from None
            ahead += target.split(b"/")[::-1]
    return os.open(b".", _FOLDER, dir_fd=trail[-1])
