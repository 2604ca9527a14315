"""Signals as bytes: the wakeup descriptor, and the one table of what each signal asks for.

Handlers do nothing; the interpreter writes each signal's number to the wakeup descriptor and a loop reads it.
Used by the master and, with another table, by workers. Sources: signal(7), PEP 475, `signal.set_wakeup_fd`.
"""

import os
import signal
from collections.abc import Iterable
from os import read
from types import FrameType
from typing import Any

# The master's: everything that may be sent to it on purpose. CHLD must have a handler, or it is not delivered. CONT
# tells that it was stopped.
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
    signal.SIGCONT,
)

# A worker's. INT, QUIT and HUP come to the whole process group (a terminal, pkill): what they mean is the master's
# decision, which reaches the worker by its channel. WINCH, whose default is to do nothing, keeps its default.
WORKER = (signal.SIGTERM, signal.SIGUSR1)
WORKER_IGNORES = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
)
_OF_TERMINALS = (signal.SIGTTIN, signal.SIGTTOU)

DUMP = signal.SIGXCPU  # asks a worker for its stacks; faulthandler takes no ABRT


def _empty(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the number was already written to the wakeup descriptor, in C."""


class Wakeup:
    """The pipe that signal numbers arrive on."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self.ours: dict[signal.Signals, Any] = {}
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self.write_fd, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _empty)
            signal.siginterrupt(number, False)

    def remember(self) -> None:
        """Note which handlers are ours, before an app can set others."""
        self.ours = {number: signal.getsignal(number) for number in (*WORKER, *WORKER_IGNORES)}

    def read(self) -> list[signal.Signals]:
        """Return the signals that came since the last call, in order, each once: storms coalesce."""
        try:
            raw = read(self.read_fd, 65536)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in dict.fromkeys(raw)]

    def close(self) -> None:
        """Close the pipe; handlers stay as they are."""
        signal.set_wakeup_fd(-1)
        os.close(self.read_fd)
        os.close(self.write_fd)


def disregard(numbers: Iterable[signal.Signals]) -> None:
    """Have these signals do nothing in this process, and what they always do in the programs that it starts: exec gives
    handlers back, while what is ignored stays ignored.

    With a terminal TTIN and TTOU are ignored all the same. A read of it from the background sends TTIN to the whole
    process group until somebody ignores it, then it fails: with a handler it would begin anew for ever.
    """
    at_terminal = _has_terminal()
    for number in numbers:
        if at_terminal and number in _OF_TERMINALS:
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, _empty)
            signal.siginterrupt(number, False)


def give_back(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals do what they do in any Python program, unless the app has handlers of its own. In a process
    that a worker's app has forked."""
    for number in numbers:
        handler = signal.getsignal(number)
        if handler is _empty or (number in _OF_TERMINALS and handler is signal.SIG_IGN):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:  # ENXIO, tty(4); or there is no such file
        return False
    return True


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
