"""Signals as bytes: the wakeup descriptor, and the one table of what each signal asks for.

Handlers do nothing; the interpreter writes each signal's number to the wakeup descriptor and a loop reads it.
Used by the master and, with another table, by workers. Sources: signal(7), PEP 475, `signal.set_wakeup_fd`.
"""

import os
import signal
from collections.abc import Iterable
from types import FrameType

# The master's: everything that may be sent to it on purpose. CHLD must have a handler, or it is not delivered.
MASTER = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCHLD,
)

# A worker's. INT, QUIT and HUP come to the whole process group (a terminal, pkill): what they mean is the master's
# decision, which reaches the worker by its channel.
WORKER = (signal.SIGTERM, signal.SIGUSR1)
WORKER_IGNORES = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
    signal.SIGWINCH,
)

DUMP = signal.SIGXCPU  # asks a worker for its stacks; faulthandler takes no ABRT


def _empty(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the number was already written to the wakeup descriptor, in C."""


class Wakeup:
    """The pipe that signal numbers arrive on."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self.read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _empty)
            signal.siginterrupt(number, False)

    def read(self) -> list[signal.Signals]:
        """Return the signals that came since the last call, in order, each once: storms coalesce."""
        try:
            raw = os.read(self.read_fd, 65536)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in dict.fromkeys(raw)]

    def close(self) -> None:
        """Close the pipe; handlers stay as they are."""
        signal.set_wakeup_fd(-1)
        os.close(self.read_fd)
        os.close(self._write_fd)


def block_all() -> set[signal.Signals]:
    """Block every signal of this thread; returns the mask that was."""
    return _known(signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()))


def restore(mask: set[signal.Signals]) -> None:
    """Set the mask of this thread."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def normalise() -> None:
    """Undo what a careless parent left: blocked signals, and CHLD ignored, which would break waitpid.

    Called when the handlers stand: what was pending, as after an exec of ourselves, must meet them.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reset() -> None:
    """Give every handler of the parent back to the system; called first in a new child, with signals blocked."""
    signal.set_wakeup_fd(-1)
    for number in MASTER:
        signal.signal(number, signal.SIG_DFL)


def _known(mask: Iterable[int]) -> set[signal.Signals]:
    return {number for number in mask if isinstance(number, signal.Signals)}
