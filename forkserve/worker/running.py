"""Which requests run in the threads of a worker, and what its row of the scoreboard shows of them.

The row has room for one request: the one that is overdue first, so that the master finds any that is overdue, and names
it. The threads write the row by turns, under one lock. Once one was overdue the worker leaves, and looks at the clocks
of the others itself: the row shows no deadline any more.
"""

from _thread import allocate_lock
from time import monotonic
from typing import Generic, TypeVar

from forkserve.unix.scoreboard import DEADLINE, ORDERED, REQUESTS, RUNNING, Row
from forkserve.worker.timer import check_extension
from forkserve.wsgi.clock import clock
from forkserve.wsgi.out import RESTART_S

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
        self._is_released = False  # the master need not look any more

    def begin(self, run: "Run", task: Task) -> None:
        """A request begins. In its thread."""
        with self.lock:
            if run.began >= clock.until:
                clock.refresh(run.began)
            self.begun += 1
            self.runs[run] = task
            self._row.ints[RUNNING] = len(self.runs)
            if self._shown is None or run.deadline < self._shown.deadline:
                self._show(run)
            else:
                self._row.ints[REQUESTS] = self.begun

    def end(self, run: "Run") -> None:
        """A request has ended. In its thread."""
        with self.lock:
            self.runs.pop(run, None)  # none: it was given up
            self._row.ints[RUNNING] = len(self.runs)
            if self._shown is run:
                self.show_first()

    def release(self, late_s: float) -> None:
        """Show no deadline from now on, and give each request that runs so much longer: the master found the first one
        overdue so late, since it stood still, and they stood still with it."""
        with self.lock:
            self._is_released = True
            for run in self.runs:
                run.deadline += late_s
                run.end += late_s
            self.show_first()

    def overdue(self, now: float) -> "list[tuple[Run, Task]]":
        """List the requests whose deadline has passed."""
        with self.lock:
            return [(run, task) for run, task in self.runs.items() if run.deadline <= now]

    def give_up(self, run: "Run") -> bool:
        """Count this request as ended, though its thread is still at it; False: it has ended by itself."""
        with self.lock:
            if self.runs.pop(run, None) is None:
                return False
            self._row.ints[RUNNING] = len(self.runs)
            if self._shown is run:
                self.show_first()
            return True

    @property
    def overdue_since(self) -> float:
        """The deadline of the request that the master has found overdue; 0: it asks about the worker."""
        return self._row.doubles[ORDERED]

    def show_first(self) -> None:
        """Show the request that is overdue first, of equal ones the oldest; with the lock."""
        first = min(self.runs, key=lambda run: run.deadline, default=None)
        if first is not None:
            self._show(first)
        else:
            self._shown = None
            self._row.doubles[DEADLINE] = 0.0

    def is_shown(self, run: "Run") -> bool:
        """Whether it is the one that the row shows; with the lock."""
        return self._shown is run

    def _show(self, run: "Run") -> None:
        self._shown = run
        self._row.begin(_NEVER if self._is_released else run.deadline, run.began, self.begun, run.line)


class Run:
    """One request's clock. Knows nothing else of the request: its environ holds it, and the two shall be no cycle."""

    __slots__ = ("_among", "began", "deadline", "end", "line")

    def __init__(self, among: Running[Task], deadline: float, began: float, line: bytes, end: float = _NEVER) -> None:
        self.deadline = deadline
        self.began = began
        self.end = end  # of the whole request
        self.line = line
        self._among = among

    def extend_deadline(self, seconds: float) -> None:
        """Let this request take ``seconds`` more from now on; of no effect when it has ended. By any thread."""
        check_extension(seconds)
        until = monotonic() + seconds
        self.end = max(self.end, until)
        self._move(max(self.deadline, until))

    def restart(self, part_s: float) -> None:
        """The app has given a part of its response: it has so long for the next one."""
        later = min(monotonic() + part_s + RESTART_S, self.end)  # another part may not be told of
        if later > self.deadline:
            self._move(later)

    def stop_clock(self) -> float:
        """Stop the time for the next part: what follows is not on the app's time. That of the whole request goes on."""
        deadline = self.deadline
        self._move(self.end)
        return deadline

    def go_on(self, deadline: float, waited_s: float) -> None:
        """Go on with ``deadline``, so much later."""
        self._move(min(deadline + waited_s, self.end))

    def _move(self, deadline: float) -> None:
        with self._among.lock:
            is_shown = self._among.is_shown(self)
            is_later, self.deadline = deadline > self.deadline, deadline
            # A later one that is not the first stays none.
            if self in self._among.runs and (is_shown or not is_later):
                self._among.show_first()
