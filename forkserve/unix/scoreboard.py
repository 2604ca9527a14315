"""The scoreboard: one shared row per slot, each row written by one process at a time, read by the master.

A memfd mapped by the master and inherited by its children; no call of the system per request. A row's owner is the
child in that slot; before it is forked, the master writes the row. Times are CLOCK_MONOTONIC seconds, 0 = none.
Layout of a row of 256 bytes: words of 8 bytes, then the request's method and target, cut to 128 bytes.
"""

import mmap
import os
import struct

SLOTS = 2048
_ROW_BYTES = 256
_ROW_WORDS = _ROW_BYTES // 8
_TEXT_BYTES = 128
_TEXT_AT = _ROW_BYTES - _TEXT_BYTES

# Words of a row; "d" is read as a double, the others as integers.
PID = 0
GENERATION = 1
DEADLINE = 13  # d: when the running request is overdue; 0: none runs
BEGAN = 14  # d: when the running (or last) request began
REQUESTS = 15  # begun by the process in this slot

# What a worker writes when a request begins, at once: DEADLINE to the end of the row. Text is cut and padded with NUL.
_BEGIN = struct.Struct(f"ddq{_TEXT_BYTES}s").pack_into


class Row:
    """One slot's row."""

    __slots__ = ("_begin_at", "_map", "_requests", "doubles", "ints")

    def __init__(self, board: "Scoreboard", slot: int) -> None:
        at = slot * _ROW_BYTES
        self._map = board.map
        words = slot * _ROW_WORDS
        self.ints = board.ints[words : words + _ROW_WORDS]
        self.doubles = board.doubles[words : words + _ROW_WORDS]
        self._begin_at = at + DEADLINE * 8
        self._requests = 0

    def clear(self) -> None:
        """Forget the slot's last owner."""
        for word in range(_ROW_WORDS):
            self.ints[word] = 0

    def begin(self, now: float, deadline: float, line: bytes) -> None:
        """Note that a request began: ``line`` is its method and target."""
        self._requests += 1
        _BEGIN(self._map, self._begin_at, deadline, now, self._requests, line)

    def end(self) -> None:
        """Note that the request has ended."""
        self.doubles[DEADLINE] = 0.0

    @property
    def line(self) -> str:
        """The running (or last) request's method and target; control characters are the reader's to escape."""
        at = self._begin_at - DEADLINE * 8 + _TEXT_AT
        return self._map[at : at + _TEXT_BYTES].rstrip(b"\0").decode("latin-1")


class Scoreboard:
    """All rows."""

    def __init__(self) -> None:
        size = SLOTS * _ROW_BYTES
        fd = os.memfd_create("forkserve-scoreboard", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)  # pages that are never touched cost nothing
            self.map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        view = memoryview(self.map)
        self.ints = view.cast("q")
        self.doubles = view.cast("d")

    def row(self, slot: int) -> Row:
        """The row of ``slot``."""
        return Row(self, slot)
