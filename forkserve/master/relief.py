"""Who runs a slow request while a sibling has time: looked for in the scoreboard, and told. Runs in the master.

A worker that begins a request while others of its clients may be waiting asks to be watched. Then the master looks
every few milliseconds, which takes no interpreter lock of any worker; whoever is found at the same request twice, while
somebody has time, is woken by its bell: its attendant gives away what waits. It stops when nobody runs anything for a
while, so an idle service wakes nobody; and who is alone is not watched.
"""

import select
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

from forkserve.unix.bell import Bell
from forkserve.unix.scoreboard import DEADLINE, REQUESTS, RUNNING, SERVES, WATCHED, Row

_PERIOD_S = 0.004  # a request that takes longer than one to two of them is slow
_BUSY_PERIOD_S = 0.012  # while nobody has time
_QUIET_LOOKS = 25
_LONG_AGO = 1e-9
_PROMISED_S = 0.5  # how long workers need not ask again


class Watched(Protocol):
    """A worker."""

    row: Row
    bell: Bell | None  # None: nothing of it can move
    seen: int  # the request that ran at the last look
    rung: int  # the one that its bell was rung for


class Relief:
    """The look at all workers. Its descriptor is readable when one of them asks to be watched."""

    def __init__(self, workers: Callable[[], Iterable[Watched]], call: Bell) -> None:
        self._workers = workers
        self.call = call
        self._is_watching = False
        self._quiet = 0
        self._look_at = 0.0
        self._promised_until = 0.0
        self._period_s = _PERIOD_S

    def wait(self, epoll: select.epoll, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for events as ``epoll.poll(timeout_s)`` does, and look meanwhile."""
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            now = monotonic()
            if self._is_watching and now >= self._look_at:
                self._look(now)
            left_s = None if until is None else max(0.0, until - now)
            if self._is_watching:
                left_s = self._period_s if left_s is None else min(left_s, self._period_s)
            ready = epoll.poll(left_s)
            others = [event for event in ready if event[0] != self.call.fd]
            if len(others) < len(ready):
                self.call.wait()
                self.begin()
            if others or (until is not None and monotonic() >= until):
                return others

    def begin(self) -> None:
        """Watch for a while: a worker asked for it, or is no longer alone."""
        self._quiet = 0
        if not self._is_watching:  # else who asks without end would put off the next look
            self._is_watching = sum(1 for _ in self._workers()) > 1
            self._promised_until = 0.0
            self._look_at = monotonic() + _PERIOD_S

    def _look(self, now: float) -> None:
        if now + _PROMISED_S / 2 > self._promised_until:
            self._promise(now + _PROMISED_S)
        if self._relieve():
            self._quiet = 0
        else:
            self._quiet += 1
            if self._quiet >= _QUIET_LOOKS:
                # First this, then one more look: a worker too says first what it runs, and looks then if it is watched.
                self._promise(_LONG_AGO)
                self._is_watching = self._relieve()
                self._quiet = 0
        self._look_at = now + self._period_s

    def _promise(self, until: float) -> None:
        self._promised_until = until
        for worker in self._workers():
            if worker.row.doubles[WATCHED]:  # else it has never asked, and nobody there hears its bell
                worker.row.doubles[WATCHED] = until

    def _relieve(self) -> bool:
        """Wake whoever is still at the request of the last look, if somebody has time; whether any request runs."""
        has_time = runs = False
        slow = []
        for worker in self._workers():
            ints = worker.row.ints
            is_running, serves, number = worker.row.doubles[DEADLINE] != 0.0, ints[SERVES], ints[REQUESTS]
            has_time = has_time or (serves > 0 and (ints[RUNNING] if serves > 1 else is_running) < serves)
            if is_running:
                runs = True
                if worker.seen == number and worker.rung != number and worker.bell is not None:
                    slow.append((worker, worker.bell, number))
                worker.seen = number
        if has_time:
            for worker, bell, number in slow:
                worker.rung = number
                bell.ring()
        self._period_s = _PERIOD_S if has_time else _BUSY_PERIOD_S
        return runs
