"""Where a worker's stacks are written: a file in memory that its master reads, so that one process writes the log.

`faulthandler` writes piece by piece, from C, while other threads of the worker and other processes write lines; in the
log itself these fell into each other. Made by the master for each child; the child has the same open file.
"""

import os

_MOST_BYTES = 256 * 1024


def make() -> int:
    """Return a new one, close-on-exec. Raises OSError."""
    return os.memfd_create("forkserve-stacks", os.MFD_CLOEXEC)


def take(fd: int) -> str:
    """Return what was written since the last time, and begin anew; empty: nothing."""
    try:
        text = os.pread(fd, _MOST_BYTES, 0).decode("utf-8", "backslashreplace")
        if text:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)  # of the writer too: it is one open file
    except OSError:
        return ""
    return text
