"""Whether the threads of a worker take what they are given; where they do not, the worker is overdue.

A request has a clock from the moment at which its thread takes it. Threads that hang before that, or are dead, would
leave requests without any. Runs in the loop's thread, once a second.
"""

from typing import Any

from forkserve.unix.scoreboard import Row
from forkserve.worker.pool import Pool
from forkserve.worker.running import Running

_LINE = b"(requests wait, and no thread takes them)"


class Stall:
    """The watch over one pool. ``timeout_s``: how long a free thread may leave a request waiting."""

    def __init__(self, pool: Pool[Any], running: Running[Any], row: Row, threads: int, timeout_s: float) -> None:
        self._pool = pool
        self._running = running
        self._row = row
        self._threads = threads
        self._timeout_s = timeout_s
        self._begun = 0
        self._since: float | None = None
        self.is_told = False  # the master sees it, as a request that is overdue

    def look(self, now: float) -> None:
        """Look whether requests have been taken; if none was for too long, have the master see it."""
        running = len(self._running.runs)
        begun = self._running.begun
        if begun != self._begun or running >= self._threads or self._pool.unfinished <= running:
            self._begun = begun
            self._since = None
            self.is_told = False
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._timeout_s:
            self.is_told = True
            self._row.begin(self._since + self._timeout_s, self._since, begun, _LINE)
