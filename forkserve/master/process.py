"""Processes: fork, signal, reap. Runs in the master; the only module that forks.

Every signal is blocked around the fork, so that no handler of the master ever runs in a child. The child gives the
handlers back, closes what is the master's, becomes what it is told to be, and leaves by os._exit: it never returns
into the master's stack.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator

from forkserve.errors import ExitCode
from forkserve.log import log
from forkserve.typed import Struct
from forkserve.unix import signals


class Ended(Struct, frozen=True):
    """Reaped: the exit code, or the signal that ended it."""

    code: int
    signal: int


class Stopped(Struct, frozen=True):
    """Stopped by a signal."""


class Continued(Struct, frozen=True):
    """Running again."""


def fill_standard_descriptors() -> None:
    """Open /dev/null where 0, 1 or 2 were closed by whoever started us: else a socket of ours would get that number,
    and what is printed would go to it. Programs that the app runs have them too."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number: this one


def fork(child: Callable[[], int], leave_behind: Iterable[Callable[[], None]]) -> int:
    """Fork; in the child close by ``leave_behind`` what is the master's and call ``child`` for the exit code.

    Returns the child's pid, in the master only. Raises OSError when the kernel refuses.
    """
    mask = signals.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            _become(child, leave_behind)
    finally:
        signals.restore(mask)
    return pid


def _become(child: Callable[[], int], leave_behind: Iterable[Callable[[], None]]) -> None:
    code: int = ExitCode.FAILURE
    try:
        signals.reset()
        for close in leave_behind:
            close()
        code = child()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else ExitCode.FAILURE
    except BaseException as error:
        log.exception("child crashed", error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # closed, or nobody reads it
        os._exit(code)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a child that is not reaped; one that has just died is none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def reap() -> Iterator[tuple[int, Ended | Stopped | Continued]]:
    """Yield what has changed of any child, strangers adopted as PID 1 included, until there is no more news."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            yield pid, Stopped()
        elif os.WIFCONTINUED(status):
            yield pid, Continued()
        elif os.WIFSIGNALED(status):
            yield pid, Ended(0, os.WTERMSIG(status))
        else:
            yield pid, Ended(os.WEXITSTATUS(status), 0)
