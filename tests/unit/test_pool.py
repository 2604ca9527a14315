"""The threads of a worker and what its row shows of them: worker/pool.py, worker/running.py."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from forkserve.unix.scoreboard import BEGAN, DEADLINE, REQUESTS, Row, Scoreboard
from forkserve.worker.pool import Pool
from forkserve.worker.running import Run, Running
from tests.harness import wait_until

PATIENCE_S = 30


def is_ready(pool: Pool[int], timeout_s: float = 0) -> bool:
    return bool(select.select([pool.fd], [], [], timeout_s)[0])


@pytest.fixture
def held() -> Iterator[tuple[Pool[int], "SimpleQueue[int]", "SimpleQueue[int]"]]:
    """A pool of two threads, the jobs that they have begun, and the queue that lets one of them end."""
    begun: SimpleQueue[int] = SimpleQueue()
    gate: SimpleQueue[int] = SimpleQueue()

    def run(job: int) -> None:
        begun.put(job)
        gate.get(timeout=PATIENCE_S)

    pool = Pool(2, run)
    pool.start()
    yield pool, begun, gate
    pool.let_go()


def taken(pool: Pool[int], count: int) -> list[int]:
    """So many finished jobs."""
    found: list[int] = []
    while len(found) < count:
        assert is_ready(pool, PATIENCE_S)
        found += pool.take_done()
    return found


def test_pool_is_full_while_each_thread_has_a_job_and_has_room_when_one_was_taken_back(
    held: tuple[Pool[int], "SimpleQueue[int]", "SimpleQueue[int]"],
) -> None:
    pool, begun, gate = held
    assert pool.is_idle
    pool.put(1)
    assert (pool.is_idle, pool.is_full) == (False, False)
    pool.put(2)
    pool.put(3)
    assert pool.is_full
    assert {begun.get(timeout=PATIENCE_S), begun.get(timeout=PATIENCE_S)} == {1, 2}
    gate.put(0)
    assert taken(pool, 1)[0] in (1, 2)
    assert pool.is_full, "the third has begun"
    gate.put(0)
    gate.put(0)
    taken(pool, 2)
    assert (pool.is_idle, pool.is_full) == (True, False)
    assert not is_ready(pool)


def test_jobs_that_nobody_has_begun_can_be_withdrawn(
    held: tuple[Pool[int], "SimpleQueue[int]", "SimpleQueue[int]"],
) -> None:
    pool, begun, gate = held
    for job in range(5):
        pool.put(job)
    assert {begun.get(timeout=PATIENCE_S) for _ in range(2)} == {0, 1}
    assert pool.withdraw() == [2, 3, 4]
    assert pool.withdraw() == []
    gate.put(0)
    gate.put(0)
    assert sorted(taken(pool, 2)) == [0, 1]
    assert pool.is_idle


def test_no_job_is_lost_or_doubled_when_many_finish_at_once() -> None:
    pool: Pool[int] = Pool(4, lambda job: None)
    pool.start()
    for job in range(5000):
        pool.put(job)
    assert sorted(taken(pool, 5000)) == list(range(5000))
    pool.let_go()


def test_idle_thread_keeps_nothing_of_its_last_job() -> None:
    class Job:
        pass

    import weakref

    pool: Pool[Job] = Pool(1, lambda job: None)
    pool.start()
    job = Job()
    known = weakref.ref(job)
    pool.put(job)
    del job
    assert select.select([pool.fd], [], [], PATIENCE_S)[0]
    pool.take_done()
    wait_until(lambda: known() is None, "the thread to be back in its queue")
    pool.let_go()


def test_fault_of_ours_in_a_thread_ends_the_process_with_its_traceback() -> None:
    code = (
        "from forkserve.worker.pool import Pool\n"
        "import time\n"
        "def broken(job): raise KeyError(job)\n"
        "pool = Pool(1, broken); pool.start(); pool.put('lost'); time.sleep(30)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 1
    assert "thread failed; worker ends" in ended.stderr and "KeyError: 'lost'" in ended.stderr


def test_threads_are_named_for_the_kernel_too() -> None:
    said: SimpleQueue[str] = SimpleQueue()

    def run(job: int) -> None:
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as comm:
            said.put(comm.read().strip())

    pool = Pool(1, run)
    pool.start()
    pool.put(0)
    assert said.get(timeout=PATIENCE_S) == "forkserve-1"
    taken(pool, 1)
    pool.let_go()


# the row


@pytest.fixture
def row() -> Row:
    row = Scoreboard().row(3)
    row.clear()
    return row


def shown(row: Row) -> tuple[str, float]:
    return row.line, row.doubles[DEADLINE]


def test_row_shows_the_request_that_is_overdue_first(row: Row) -> None:
    among: Running[str] = Running(row)
    long, short, next_one = (
        Run(among, 30.0, 1.0, b"GET /l"),
        Run(among, 20.0, 2.0, b"GET /s"),
        Run(among, 31.0, 3.0, b""),
    )
    among.begin(long, "long")
    assert shown(row) == ("GET /l", 30.0)
    among.begin(short, "short")
    assert (shown(row), row.doubles[BEGAN], row.ints[REQUESTS]) == (("GET /s", 20.0), 2.0, 2)
    among.begin(next_one, "next")
    assert (shown(row), row.ints[REQUESTS]) == (("GET /s", 20.0), 3)
    among.end(long)
    assert shown(row) == ("GET /s", 20.0)
    among.end(short)
    assert shown(row) == ("", 31.0)
    among.end(next_one)
    assert row.doubles[DEADLINE] == 0.0


def test_request_whose_clock_stands_still_is_not_the_one_that_is_shown(row: Row) -> None:
    among: Running[str] = Running(row)
    first, second = Run(among, 20.0, 1.0, b"GET /1"), Run(among, 21.0, 1.0, b"GET /2")
    among.begin(first, "")
    among.begin(second, "")
    deadline = first.stop_clock()
    assert shown(row) == ("GET /2", 21.0)
    assert second.stop_clock() == 21.0
    assert row.doubles[DEADLINE] == float("inf"), "nobody is overdue"
    first.go_on(deadline, 3.0)
    assert shown(row) == ("GET /1", 23.0)


def test_extension_counts_from_now_never_shortens_and_ends_with_the_request(row: Row) -> None:
    among: Running[str] = Running(row)
    run = Run(among, 1e12, 1.0, b"GET /")
    among.begin(run, "")
    run.extend_deadline(5)
    assert row.doubles[DEADLINE] == 1e12
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a number of seconds above 0"):
            run.extend_deadline(wrong)
    among.end(run)
    run.extend_deadline(5)
    assert row.doubles[DEADLINE] == 0.0


def test_forked_copy_lets_go_of_its_descriptor() -> None:
    pool: Pool[int] = Pool(1, lambda job: None)
    pool.let_go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pool.fd)
