"""The signals of a worker, which its app borrows: they come to us again, whatever it has done about them.

asyncio takes the wakeup descriptor for a loop with signal handlers, and leaves none, and SIG_DFL, behind. A handler
of the app's stays, and is called beside ours: the interpreter writes every signal with a handler in Python to the
wakeup descriptor. But what it raises may hit the app alone, not the worker amid its own work. Runs in the main thread
of a worker, between requests. What cannot be seen: handlers that are set in C. Source: `signal.set_wakeup_fd`.
"""

import signal
from collections.abc import Callable
from signal import getsignal, set_wakeup_fd, siginterrupt
from signal import signal as set_handler
from types import FrameType
from typing import Any

from forkserve.unix.signals import WORKER, Wakeup

_LOST: tuple[Any, ...] = (signal.SIG_DFL, signal.default_int_handler)  # what somebody else leaves who gives them back


class Chained:
    """A handler of the app's, called as ever; what it raises while no request runs is told to ``complain``."""

    def __init__(
        self, handler: Callable[[int, FrameType | None], Any], is_running: Callable[[], bool],
        complain: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self._handler = handler
        self._is_running = is_running
        self._complain = complain

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        try:
            self._handler(signum, frame)
        except BaseException as error:
            if self._is_running():
                raise
            self._complain(error)


class Borrowed:
    """What the handlers and the wakeup descriptor were before the app was imported."""

    def __init__(
        self, wakeup: Wakeup, is_running: Callable[[], bool], complain: Callable[[BaseException], None]
    ) -> None:
        self._wakeup = wakeup
        self._is_running = is_running
        self._complain = complain

    def take_back(self) -> None:
        """Have them come to us again."""
        set_wakeup_fd(self._wakeup.write_fd, warn_on_full_buffer=False)
        for number, ours in self._wakeup.ours.items():
            found = getsignal(number)
            if found is ours or found is None or isinstance(found, Chained):  # None: it was set in C
                continue
            if found in _LOST or (found is signal.SIG_IGN and number in WORKER):
                set_handler(number, ours)
            elif callable(found):
                set_handler(number, Chained(found, self._is_running, self._complain))
            siginterrupt(number, False)
