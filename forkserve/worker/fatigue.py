"""When a worker should be replaced: after so many requests, so long, or with so much memory. Runs in a worker.

Each limit of each worker is drawn with jitter once, so that workers born together are not replaced together. The worker
only says that it is tired; it serves on until its replacement is ready and the master retires it.
"""

import os

from forkserve.config.settings import Settings
from forkserve.config.values import parse_share
from forkserve.unix import usage

_NEVER = float("inf")
_WEIGH_S = 1.0


class Fatigue:
    """The limits of one worker. ``look_at_requests``: the number of requests at which ``check`` wants to be called."""

    def __init__(self, settings: Settings) -> None:
        self._most_requests = _drawn(settings.max_requests, settings.max_requests_jitter)
        self.lifetime_s = _drawn(settings.max_worker_lifetime, settings.max_worker_lifetime_jitter)
        self._most_bytes = settings.max_worker_memory or _NEVER
        self._until = _NEVER
        self._weigh_at = 0.0
        self._said = False
        # Memory is looked at after any request, the count only when it is reached.
        self.look_at_requests = 1 if settings.max_worker_memory else self._most_requests

    @property
    def is_mortal(self) -> bool:
        """Whether a lifetime is set."""
        return self.lifetime_s != _NEVER

    def begin(self, now: float) -> None:
        """The worker begins to serve."""
        self._until = now + self.lifetime_s

    @property
    def until(self) -> float:
        """The moment of the end of its lifetime; infinite when that was said."""
        return _NEVER if self._said else self._until

    def check(self, requests: int, now: float) -> str:
        """Return why the worker should be replaced, once; empty: it need not."""
        reason = ""
        if requests >= self._most_requests:
            reason = "max_requests"
        elif now >= self._until:
            reason = "max_worker_lifetime"
        elif now >= self._weigh_at and self._most_bytes != _NEVER:
            self._weigh_at = now + _WEIGH_S
            if usage.resident_bytes(os.getpid()) > self._most_bytes:
                reason = "max_worker_memory"
        if not reason or self._said:
            return ""
        self._said = True
        self.look_at_requests = _NEVER
        return reason


def _drawn(limit: float, jitter: str) -> float:
    """Return a limit of this worker: ``limit`` give or take the jitter; 0 is none."""
    if not limit:
        return _NEVER
    part = int.from_bytes(os.urandom(4)) / 0xFFFFFFFF * 2 - 1  # -1 to 1
    return max(1.0, limit + part * parse_share(jitter, limit))
