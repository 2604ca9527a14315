"""The scoreboard: rows that a child writes and the master reads, and what a request's note looks like."""

import math
import os
import struct
import time

import pytest

from forkserve.master.records import MOST_LIVE
from forkserve.unix import scoreboard
from forkserve.unix.scoreboard import BEGAN, DEADLINE, GENERATION, PID, REQUESTS, SLOTS, Scoreboard


@pytest.fixture(scope="module")
def board() -> Scoreboard:
    return Scoreboard()


def test_what_a_child_notes_the_parent_reads(board: Scoreboard) -> None:
    row = board.row(3)
    row.clear()
    now = time.monotonic()
    child = os.fork()
    if child == 0:
        row.begin(now + 30, now, 7, b"GET /slow?x=1")
        os._exit(0)
    os.waitpid(child, 0)
    assert row.doubles[DEADLINE] == now + 30
    assert row.doubles[BEGAN] == now
    assert row.ints[REQUESTS] == 7
    assert row.line == "GET /slow?x=1"


def test_end_of_a_request_takes_its_deadline_back_and_nothing_else(board: Scoreboard) -> None:
    row = board.row(4)
    row.begin(2.0, 1.0, 1, b"GET /")
    row.doubles[DEADLINE] = 0.0
    assert (row.doubles[DEADLINE], row.doubles[BEGAN], row.ints[REQUESTS], row.line) == (0.0, 1.0, 1, "GET /")


def test_shorter_line_leaves_nothing_of_the_longer_one(board: Scoreboard) -> None:
    row = board.row(5)
    row.begin(1.0, 1.0, 1, b"GET /" + b"a" * 500)
    assert row.line == "GET /" + "a" * (scoreboard._TEXT_BYTES - 5)
    row.begin(1.0, 1.0, 2, b"HEAD /")
    assert row.line == "HEAD /"


def test_bytes_of_any_kind_are_shown(board: Scoreboard) -> None:
    row = board.row(6)
    row.begin(1.0, 1.0, 1, bytes(range(1, 128)))
    assert row.line == bytes(range(1, 128)).decode("latin-1")


def test_rows_do_not_overlap_and_a_cleared_one_is_empty(board: Scoreboard) -> None:
    rows = [board.row(slot) for slot in (0, 1, 2, SLOTS - 1)]
    for number, row in enumerate(rows, start=1):
        row.clear()
        row.ints[PID], row.ints[GENERATION] = number, number * 10
        row.begin(float(number), float(number), number, b"x" * 200)
    for number, row in enumerate(rows, start=1):
        assert (row.ints[PID], row.ints[GENERATION], row.ints[REQUESTS]) == (number, number * 10, number)
    rows[1].clear()
    assert list(rows[1].ints) == [0] * len(rows[1].ints)
    assert rows[1].line == ""
    assert rows[0].ints[PID] == 1 and rows[2].ints[PID] == 3


def test_begin_writes_to_the_end_of_its_row_and_not_further(board: Scoreboard) -> None:
    assert DEADLINE * 8 + struct.calcsize(f"ddq{scoreboard._TEXT_BYTES}s") == scoreboard._ROW_BYTES
    last = board.row(SLOTS - 1)
    last.begin(1.0, 1.0, 1, b"y" * 300)
    with pytest.raises((ValueError, struct.error)):
        board.row(SLOTS).begin(1.0, 1.0, 1, b"beyond the map")


@pytest.mark.parametrize("nonsense", [math.nan, -math.inf, -1.0, 1e300, 5e-324 * -1])
def test_nonsense_in_a_row_is_no_moment(board: Scoreboard, nonsense: float) -> None:
    row = board.row(9)
    row.doubles[DEADLINE] = nonsense
    assert row.moment(DEADLINE) == 0.0


def test_moments_of_a_row_are_what_they_are(board: Scoreboard) -> None:
    row = board.row(9)
    for moment in (0.0, 12.5, math.inf):
        row.doubles[DEADLINE] = moment
        assert row.moment(DEADLINE) == moment


def test_the_board_cannot_be_resized(board: Scoreboard) -> None:
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(board.fd, size)


def test_there_is_a_row_for_every_child_that_may_live() -> None:
    assert MOST_LIVE == SLOTS
