"""The back-off: how long the pool waits after a failure before it spawns again. The losses: when it need not wait.

Pure, in the master. One for the whole pool: capped, exponential, with jitter so that many masters that lost the
same database do not come back at once. Knows nothing of children; moments are monotonic seconds.
"""

from collections.abc import Callable

FIRST_S = 0.5
CAP_S = 30.0
_CAP_LEVEL = 7  # the first level whose pause reaches the cap; beyond it 2**level would outgrow a float
_JITTER_FROM, _JITTER_SPAN = 0.8, 0.4


class Backoff:
    """Level 0: all is well. Each failure outside a pause raises the level by one and begins a longer pause."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        """``jitter`` returns 0..1."""
        self._jitter = jitter
        self.level = 0
        self.began_at = 0.0  # when the level left 0
        self.until = 0.0  # no spawn before this moment

    def allows(self, now: float) -> bool:
        return self.level == 0 or now >= self.until

    def fail(self, now: float) -> float | None:
        """Count a failure; return the seconds of the pause that it began, None if one is under way."""
        if not self.allows(now):
            return None
        if self.level == 0:
            self.began_at = now
        self.level += 1
        pause_s = min(CAP_S, FIRST_S * 2.0 ** (min(self.level, _CAP_LEVEL) - 1))
        pause_s *= _JITTER_FROM + _JITTER_SPAN * self._jitter()
        self.until = now + pause_s
        return pause_s

    def reset(self) -> None:
        self.level = 0
        self.until = 0.0


LOSSES_S = 1.0
FEW = 4  # a small pool may lose so many at once
CALM_S = 10.0  # who was born so long after the last death was not hit by what caused that one
FEW_KILLS = 5


class Losses:
    """The deaths of workers that worked: each is replaced at once, as long as they are not too many.

    Beyond as many as the size in a second, one child at a time is spawned, which is never a pause: a page that kills
    its worker shall neither stop the service nor have it do nothing but fork.
    """

    def __init__(self) -> None:
        self._at: list[float] = []
        self._kills = 0
        self._killed_at = float("-inf")

    def add(self, now: float, size: int) -> None:
        """Count one."""
        self._at = [*self._at[-max(size, FEW) :], now]

    def forgives_kill(self, born_at: float, now: float, size: int) -> bool:
        """Count one that was killed by somebody else before it did anything; whether it is no failure. A person kills a
        few in a row; what goes on is the kernel, for want of memory, and no new worker will help that."""
        if born_at >= self._killed_at + CALM_S:
            self._kills = 0
        self._kills += 1
        self._killed_at = now
        return self._kills <= max(2 * size, FEW_KILLS)

    def few_again_at(self, now: float, size: int) -> float | None:
        """Return when there will be few again; None: there are."""
        most = max(size, FEW)
        recent = [moment for moment in self._at if moment + LOSSES_S > now]
        return recent[-most - 1] + LOSSES_S if len(recent) > most else None
