"""What a worker with threads shows of its requests, and whom an order of the master's is about."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from forkserve.unix.scoreboard import DEADLINE, ORDERED, Row, Scoreboard
from forkserve.worker.running import Run, Running
from forkserve.worker.threaded import ThreadedLoop

FAR = 1e12


@pytest.fixture
def row() -> Iterator[Row]:
    board = Scoreboard()
    with closing(SimpleNamespace(close=board.let_go)):
        yield board.row(0)


def run_of(running: Running[Any], deadline: float) -> Run:
    return Run(running, deadline, 1.0, b"GET /")


def test_what_has_ended_is_counted_with_several_at_a_time(row: Row) -> None:
    running: Running[str] = Running(row)
    runs = [run_of(running, FAR + n) for n in range(3)]
    for run in runs:
        running.begin(run, "task")
    assert (row.begun, row.ended) == (3, 0), "a worker that dies now has served nobody"
    running.end(runs[0])
    assert (row.begun, row.ended) == (3, 1)
    assert running.give_up(runs[1])
    running.end(runs[2])
    assert (row.begun, row.ended) == (3, 3)
    assert row.doubles[DEADLINE] == 0.0


class FakeLoop(ThreadedLoop):
    """A loop of which only that is there which an order meets."""

    def __init__(self, row: Row) -> None:
        self.running_now = Running(row)
        self._is_spent = self._is_ordered = False
        self._pool: Any = SimpleNamespace(wake=lambda: None, withdraw=list)
        self._stall: Any = SimpleNamespace(is_told=False)
        self.answered: list[Run] = []

    def _answer(self, late: Any) -> Any:
        self.answered += [run for run, _ in late]
        return tuple(late)


def test_an_order_about_a_request_that_has_just_ended_leaves_its_siblings_alone(row: Row) -> None:
    loop = FakeLoop(row)
    sibling = run_of(loop.running_now, FAR)
    loop.running_now.begin(sibling, None)  # type: ignore[arg-type]  # no task is needed
    row.doubles[ORDERED] = 5.0  # the master has found this one overdue, which has ended since
    assert not loop.answer_overdue(), "the process must not end"
    assert loop.answered == []
    assert loop._is_ordered, "but it leaves when its requests have ended, or the master would kill it"


def test_an_order_about_a_request_is_met_by_those_that_are_as_late(row: Row) -> None:
    loop = FakeLoop(row)
    runs = [run_of(loop.running_now, deadline) for deadline in (4.0, 5.0, FAR)]
    for run in runs:
        loop.running_now.begin(run, None)  # type: ignore[arg-type]
    row.doubles[ORDERED] = 5.0
    assert not loop.answer_overdue()
    assert loop.answered == runs[:2]


def test_an_order_about_the_worker_is_met_by_all(row: Row) -> None:
    loop = FakeLoop(row)
    runs = [run_of(loop.running_now, deadline) for deadline in (4.0, FAR)]
    for run in runs:
        loop.running_now.begin(run, None)  # type: ignore[arg-type]
    assert loop.answer_overdue()
    assert loop.answered == runs
