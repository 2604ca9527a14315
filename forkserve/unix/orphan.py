"""The orphan's bound: a worker whose master has died may finish its request, within the grace, and no longer.

An idle worker sees the end of its channel in its loop. A busy one cannot look: the kernel sends it SIGIO when the last
writer of the lifeline is gone, a pipe on which nothing is ever written, so that no other signal ever interrupts a call
of the app. Its handler starts a watchdog in C, which ends the process after the grace, and a thread that asks it
shortly before then to end by itself. Limit: the handler is Python, so
C code that never lets go of the GIL outlives a killed master: docs/promises.md, 7. (PR_SET_PDEATHSIG gives no grace
and needs ctypes: 8 ms and 1 MiB of each worker.) Sources: fcntl(2) F_SETOWN and O_ASYNC; faulthandler.
"""

import faulthandler
import fcntl
import os
import signal
from _thread import start_new_thread
from collections.abc import Callable
from os import read
from time import sleep
from types import FrameType

_LAST_PART = 0.1  # of the grace, is there to end by oneself in


class Lifeline:
    """The pipe: the master holds the end to write on, and its children the end to read from."""

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """Make the pipe, or go on with the ends (to read from, to write on) of the master that we were."""
        if ends is None:
            ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.fchmod(ends[0], 0o444)  # else a worker that became another user could not open it anew, in watch()
        self._read_fd, self._write_fd = ends

    @property
    def ends(self) -> tuple[int, int]:
        """What an exec hands over."""
        return self._read_fd, self._write_fd

    def let_go(self) -> None:
        """Close the master's end, as a new child does."""
        os.close(self._write_fd)

    def close(self) -> None:
        """Close both ends."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def watch(self, grace_s: float, stacks_fd: int, ask: Callable[[], None]) -> None:
        """Bound this child's life by the master's, plus the grace in seconds; what it was doing then goes to
        ``stacks_fd``. Shortly before, ``ask`` is called, in a thread. Called once, in the child."""
        try:
            # An open file description of our own: the owner of its signal is not shared with the siblings.
            fd = os.open(f"/proc/self/fd/{self._read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # no /proc: what bounds a busy orphan is whoever started the master
        os.close(self._read_fd)
        self._read_fd = fd

        def on_io(signum: int, frame: FrameType | None) -> None:
            try:
                ended = not read(fd, 1)
            except OSError:
                ended = False
            if ended:
                signal.signal(signal.SIGIO, signal.SIG_IGN)  # the end of each sibling sends one more: pipe_release()
                left_s = max(0.1, grace_s)
                faulthandler.dump_traceback_later(left_s, exit=True, file=stacks_fd)
                try:
                    start_new_thread(_ask_later, (left_s - min(1.0, left_s * _LAST_PART), ask))
                except RuntimeError:
                    pass  # no room for a thread: the watchdog ends it

        signal.signal(signal.SIGIO, on_io)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        on_io(signal.SIGIO, None)  # it may have happened just before

    def forget(self) -> None:
        """Drop the bound: this is a process that the app has forked."""
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # the kernel tells the worker, who alone is the owner
        os.close(self._read_fd)


def _ask_later(wait_s: float, ask: Callable[[], None]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the main thread's
    sleep(wait_s)
    ask()
