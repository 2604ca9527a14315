"""Which requests run in the threads of a worker, and what its row of the scoreboard shows of them.

The row has room for one request: the one that is overdue first, so that the master finds any that is overdue, and names
it. The threads write the row by turns, under one lock.
"""

from _thread import allocate_lock
from time import monotonic
from typing import Generic, TypeVar

from forkserve.unix.scoreboard import DEADLINE, REQUESTS, Row
from forkserve.wsgi.response import clock

Task = TypeVar("Task")
_NEVER = float("inf")


class Running(Generic[Task]):
    """The requests that run now; each with a task, which is the caller's."""

    def __init__(self, row: Row) -> None:
        self.runs: dict[Run, Task] = {}
        self.lock = allocate_lock()
        self._row = row
        self._shown: Run | None = None
        self.begun = 0  # ever

    def begin(self, run: "Run", task: Task) -> None:
        """A request begins. In its thread."""
        with self.lock:
            if run.began >= clock.until:
                clock.refresh(run.began)
            self.begun += 1
            self.runs[run] = task
            if self._shown is None or run.deadline < self._shown.deadline:
                self._show(run)
            else:
                self._row.ints[REQUESTS] = self.begun

    def end(self, run: "Run") -> None:
        """A request has ended. In its thread."""
        with self.lock:
            del self.runs[run]
            if self._shown is run:
                self.show_first()

    def show_first(self) -> None:
        """Show the request that is overdue first, of equal ones the oldest; with the lock."""
        first = min(self.runs, key=lambda run: run.deadline, default=None)
        if first is not None:
            self._show(first)
        else:
            self._shown = None
            self._row.doubles[DEADLINE] = 0.0

    def _show(self, run: "Run") -> None:
        self._shown = run
        self._row.begin(run.deadline, run.began, self.begun, run.line)


class Run:
    """One request's clock. Knows nothing else of the request: its environ holds it, and the two shall be no cycle."""

    __slots__ = ("_among", "began", "deadline", "line")

    def __init__(self, among: Running[Task], deadline: float, began: float, line: bytes) -> None:
        self.deadline = deadline
        self.began = began
        self.line = line
        self._among = among

    def extend_deadline(self, seconds: float) -> None:
        """Let this request take ``seconds`` more from now on; of no effect when it has ended. By any thread."""
        if not 0 < seconds < _NEVER:
            raise ValueError(f"extend_deadline takes a number of seconds above 0, not {seconds!r}")
        self._move(max(self.deadline, monotonic() + seconds))

    def stop_clock(self) -> float:
        """Take its deadline away for a moment: what follows is not on the app's time."""
        deadline = self.deadline
        self._move(_NEVER)
        return deadline

    def go_on(self, deadline: float, waited_s: float) -> None:
        """Give it back, so much later."""
        self._move(deadline + waited_s)

    def _move(self, deadline: float) -> None:
        with self._among.lock:
            self.deadline = deadline
            if self in self._among.runs:
                self._among.show_first()
