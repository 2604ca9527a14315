"""A start at which somebody is just leaving: what he holds is tried again for a moment, then he is named.

After a kill -9 of a master its workers finish what they have begun, and so long they hold its sockets. Whoever starts
us again at once, such as a service manager, need not know that. Runs in the master.
"""

from collections.abc import Callable
from select import POLLIN, poll
from time import monotonic
from typing import Protocol, TypeVar

from forkserve.errors import ForkserveError, InUseError, PidfileLeftError
from forkserve.log import log
from forkserve.unix import usage

PATIENCE_S = 5.0
_TRY_AGAIN_S = 0.05
_MOST_NAMED = 4
_LONGEST_TITLE = 60

Made = TypeVar("Made")


class Attempt(Protocol):
    """Does something that may fail because somebody else has what it takes."""

    def __call__(self, step: Callable[[], Made], /) -> Made:
        """Return what ``step`` returns. Raises what it raises, with the names of who has it."""


def once(step: Callable[[], Made], /) -> Made:
    """Try it once. See Attempt."""
    try:
        return step()
    except InUseError as error:
        raise _with_holders(error) from None


class Patience:
    """Tries for a moment. See Attempt."""

    def __init__(self, wakeup_fd: int) -> None:
        """``wakeup_fd`` becomes readable when we shall not wait any more."""
        self._end = monotonic() + PATIENCE_S
        self._is_said = False
        self._signals = poll()
        self._signals.register(wakeup_fd, POLLIN)

    def __call__(self, step: Callable[[], Made], /) -> Made:
        """Try until it succeeds, a moment is over or a signal comes."""
        while True:
            try:
                return step()
            except (InUseError, PidfileLeftError) as error:
                if not self._is_said:
                    self._is_said = True
                    log.warning("waiting for who leaves", cause=str(_with_holders(error)), at_most_s=PATIENCE_S)
                if monotonic() >= self._end or self._signals.poll(_TRY_AGAIN_S * 1000):
                    raise _with_holders(error) from None


def _with_holders(error: ForkserveError) -> ForkserveError:
    """Return the error with the processes that hold the address, as far as they can be seen."""
    if not isinstance(error, InUseError):
        return error
    holders = usage.listening_at(error.port, error.path)
    if not holders:
        return error
    named = ", ".join(f"pid {pid} ({title[:_LONGEST_TITLE]})" for pid, title in holders[:_MOST_NAMED])
    line = str(error).replace("in use; stop what listens there", f"in use by {named}; stop it", 1)
    return InUseError(line, error.port, error.path)
