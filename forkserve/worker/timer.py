"""How long the app may take: the deadline of the request that runs, in its worker's row of the scoreboard.

`timeout` counts from the last part of the response that the app gave, `request_timeout` from the beginning. The master
reads the row and acts. Runs in a worker whose requests run one at a time; for threads there is worker/running.py.
"""

from time import monotonic

from forkserve.config.settings import Settings
from forkserve.unix.scoreboard import BEGAN, DEADLINE, REQUESTS, Row
from forkserve.wsgi.out import RESTART_S

_NEVER = float("inf")


class Limits:
    """The two limits of a request, in seconds."""

    __slots__ = ("first_s", "part_s", "whole_s")

    def __init__(self, settings: Settings) -> None:
        self.part_s = settings.timeout or _NEVER
        self.whole_s = settings.request_timeout or _NEVER
        self.first_s = min(self.part_s, self.whole_s)  # what a request has when it begins


class Timer:
    """The clock of the request that runs. Everything but ``limits`` is of no effect where none does."""

    __slots__ = ("_extended", "_row", "_words", "limits")

    def __init__(self, limits: Limits, row: Row) -> None:
        self.limits = limits
        self._row = row
        self._words = row.doubles
        self._extended = (0, 0.0)  # the number of the request that was given more time, and its end

    def extend_deadline(self, seconds: float) -> None:
        """Let the running request take ``seconds`` more from now on: ``environ["forkserve.extend_deadline"](60)``."""
        check_extension(seconds)
        words = self._words
        if words[DEADLINE]:
            until = monotonic() + seconds
            self._extended = (self._row.ints[REQUESTS], max(self._end, until))
            words[DEADLINE] = max(words[DEADLINE], until)

    def restart(self) -> None:
        """The app has given a part of its response: its time for the next one begins."""
        words = self._words
        deadline = words[DEADLINE]
        if deadline:
            later = min(monotonic() + self.limits.part_s + RESTART_S, self._end)  # another part may not be told of
            if later > deadline:
                words[DEADLINE] = later

    def pause(self) -> float:
        """Stop the time for the next part: what follows is not on the app's time. `request_timeout` goes on."""
        words = self._words
        deadline = words[DEADLINE]
        words[DEADLINE] = self._end  # 0 would say that nothing runs
        return deadline

    def resume(self, deadline: float, waited_s: float) -> None:
        """Go on with ``deadline``, which pause returned, so much later."""
        self._words[DEADLINE] = min(deadline + waited_s, self._end)

    @property
    def _end(self) -> float:
        """When the running request must have ended."""
        number, until = self._extended
        return until if number == self._row.ints[REQUESTS] else self._words[BEGAN] + self.limits.whole_s


def check_extension(seconds: float) -> None:
    """Refuse what is no number of seconds. Raises ValueError."""
    if not 0 < seconds < _NEVER:
        raise ValueError(f"extend_deadline takes a number of seconds above 0, not {seconds!r}")
