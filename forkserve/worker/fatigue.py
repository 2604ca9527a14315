"""When a worker should be replaced: after so many requests, so long, or with so much memory. Runs in a worker.

Each limit of each worker is drawn with jitter once, so that workers born together are not replaced together. The worker
only says that it is tired; it serves on until its replacement is ready and the master retires it. Since it begins no
request beyond `max_requests` (worker/thrift.py), it says so before: by as many requests as come while a worker boots.
"""

import os

from forkserve.config.settings import Settings
from forkserve.config.values import parse_share
from forkserve.unix import usage

_NEVER = float("inf")
_WEIGH_S = 1.0
# So many may begin between two looks of the loop: one for each event of a round, and those of one read of a pipeline
# (16 KiB of the shortest requests there are).
_STRETCH = 64 + 16 * 1024 // 25
_SURE = 2.0  # times what is reckoned
_SMALL = 10  # a limit below this leaves no room for reckoning


class Fatigue:
    """The limits of one worker. ``look_at_requests``: the number of requests at which ``check`` wants to be called."""

    def __init__(self, settings: Settings) -> None:
        self.boot_s = 0.0  # how long this worker took to become ready: its replacement will take as long
        self.most_requests = _drawn_below(settings.max_requests, settings.max_requests_jitter)
        # Each connection that cannot move has one more.
        stuck = 0 if settings.relay and not settings.certfile else settings.worker_connections
        self.near_requests = self.most_requests - _STRETCH - stuck
        self._began = 0.0
        self.lifetime_s = _drawn(settings.max_worker_lifetime, settings.max_worker_lifetime_jitter)
        self._most_bytes = settings.max_worker_memory or _NEVER
        self._until = _NEVER
        self._weigh_at = 0.0
        self._said = False
        # Memory is looked at after any request, the count only when it is reached.
        self._looks_always = bool(settings.max_worker_memory)
        self.look_at_requests = 1 if self._looks_always else self.most_requests // 2

    @property
    def is_mortal(self) -> bool:
        """Whether a lifetime is set."""
        return self.lifetime_s != _NEVER

    def begin(self, now: float) -> None:
        """The worker begins to serve."""
        self._began = now
        self._until = now + self.lifetime_s

    @property
    def until(self) -> float:
        """The moment of the end of its lifetime; infinite when that was said."""
        return _NEVER if self._said else self._until

    def check(self, requests: int, now: float) -> str:
        """Return why the worker should be replaced, once; empty: it need not."""
        reason = ""
        left = self.most_requests - requests
        if left <= (margin := self._margin(requests, now)):
            reason = "max_requests"
        elif now >= self._until:
            reason = "max_worker_lifetime"
        elif now >= self._weigh_at and self._most_bytes != _NEVER:
            self._weigh_at = now + _WEIGH_S
            if usage.resident_bytes(os.getpid()) > self._most_bytes:
                reason = "max_worker_memory"
        if reason and not self._said:
            self._said = True
        else:
            reason = ""
        self._look_again(requests, left, margin)
        return reason

    def _margin(self, requests: int, now: float) -> float:
        """So many requests before the limit the replacement is asked for: as many as come until it is ready."""
        if self.most_requests < _SMALL or self.most_requests == _NEVER:
            return 0.0
        rate = requests / max(now - self._began, 0.001)
        return min(rate * self.boot_s * _SURE, self.most_requests / 4)

    def _look_again(self, requests: int, left: float, margin: float) -> None:
        """Set the number of requests at which to look again: when it is time to ask, or when the limit is near."""
        if self._looks_always and not self._said:
            return
        marks = [] if self._said else [requests + max(1, (left - margin) // 2)]
        if requests < self.near_requests:
            marks.append(self.near_requests)
        self.look_at_requests = min(marks, default=_NEVER)


def _drawn_below(limit: int, jitter: str) -> float:
    """Return a whole limit of this worker: ``limit`` less a part of the jitter; 0 is none."""
    if not limit:
        return _NEVER
    part = int.from_bytes(os.urandom(4)) / (1 << 32)  # 0 to 1
    return max(1, limit - int(part * (parse_share(jitter, limit) + 1)))


def _drawn(limit: float, jitter: str) -> float:
    """Return a limit of this worker: ``limit`` give or take the jitter; 0 is none."""
    if not limit:
        return _NEVER
    part = int.from_bytes(os.urandom(4)) / 0xFFFFFFFF * 2 - 1  # -1 to 1
    return max(1.0, limit + part * parse_share(jitter, limit))
