"""What a client has not taken: whatever the pieces, in order, in bounded memory, and where there is no room."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.unix.spool import Spool
from forkserve.worker.backlog import MEMORY_BYTES, Backlog, TakesNothing

MIB = 1 << 20


class Taker:
    """A client that takes ``room`` bytes at a time, now and then nothing."""

    def __init__(self, room: int) -> None:
        self.taken = bytearray()
        self._room = room
        self._turn = False

    def send(self, data: bytes | memoryview) -> int:
        """Take some of it."""
        self._turn = not self._turn
        if self._turn:
            raise BlockingIOError
        self.taken += data[: self._room]
        return min(self._room, len(data))


def drain(backlog: Backlog, taker: Taker) -> None:
    while backlog:
        try:
            backlog.write(taker.send, -1)
        except BlockingIOError:
            pass


@pytest.mark.parametrize("piece", [5, 50, 4096, 64 * 1024, 300_000])
def test_memory_is_bounded_whatever_the_pieces(piece: int) -> None:
    tracemalloc.start()
    backlog = Backlog(Spool(), 1 << 30)
    before = tracemalloc.get_traced_memory()[0]
    for at in range(4 * MIB // piece):
        backlog.keep(bytes([at & 255]) * piece)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert not backlog.is_full
    assert held < 1.2 * MIB
    backlog.clear()


def test_a_small_rest_does_not_keep_the_whole_piece_in_memory() -> None:
    tracemalloc.start()
    backlog = Backlog(Spool(), 0)
    before = tracemalloc.get_traced_memory()[0]
    backlog.keep(memoryview(bytes(50 * MIB))[-100_000:])
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < MIB
    backlog.clear()


PIECES = st.lists(st.tuples(st.sampled_from([1, 5, 1000, 70_000, 400_000, 2 * MIB]), st.booleans()), max_size=12)


@given(PIECES, st.sampled_from([0, MIB, 1 << 30]), st.sampled_from([10_000, 1 << 20]))
def test_all_leaves_in_order_and_the_room_is_given_back(pieces: list[tuple[int, bool]], limit: int, room: int) -> None:
    cells = memoryview(bytearray(8)).cast("q")
    backlog, taker = Backlog(Spool(str(1 << 30), cells, cells), limit), Taker(room)
    sent = bytearray()
    for number, (size, writes) in enumerate(pieces):
        data = bytes([number]) * size
        sent += data
        backlog.keep(data)
        assert backlog.size == len(sent) - len(taker.taken)
        if writes:
            try:
                backlog.write(taker.send, -1)
            except BlockingIOError:
                pass
    drain(backlog, taker)
    assert taker.taken == sent
    assert cells[0] <= MIB  # what it asked for ahead


def test_where_there_is_no_room_it_says_that_it_is_full_and_keeps_all() -> None:
    backlog, taker = Backlog(Spool(str(2 * MIB)), 1 << 30), Taker(1 << 20)
    sent = bytearray()
    while not backlog.is_full:
        sent += b"x" * 200_000
        backlog.keep(b"x" * 200_000)
    assert backlog.in_memory <= MEMORY_BYTES + 200_000
    drain(backlog, taker)
    assert taker.taken == sent


def test_who_writes_for_a_client_that_was_given_up_learns_it() -> None:
    cells = memoryview(bytearray(8)).cast("q")
    backlog = Backlog(Spool(str(1 << 30), cells, cells), 1 << 30)
    backlog.keep(bytes(3 * MIB))
    backlog.fail(TakesNothing("for too long"))
    assert (backlog.size, backlog.unsent, cells[0]) == (0, 3 * MIB, 0)
    with pytest.raises(TakesNothing):
        backlog.write(lambda data: len(data), -1)
