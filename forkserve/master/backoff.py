"""The back-off: how long the pool waits after a failure before it spawns again.

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
