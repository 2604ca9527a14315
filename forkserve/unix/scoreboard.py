"""The scoreboard: one shared row per slot, each row written by one process at a time, read by the master.

A memfd mapped by the master and inherited by its children; no call of the system per request. A row's owner is the
child in that slot; before it is forked, the master writes the row. Times are CLOCK_MONOTONIC seconds, 0 = none.
Layout of a row of 256 bytes: 16 words of 8 bytes, then the request's first line, cut to 128 bytes.
"""

import mmap
import os

SLOTS = 2048
_ROW_BYTES = 256
_ROW_WORDS = _ROW_BYTES // 8
_TEXT_AT = 128
TEXT_BYTES = 128

# Words of a row; "d" is read as a double, the others as integers.
PID = 0
GENERATION = 1
REQUESTS = 2  # requests answered by the process in this slot
TEXT_LENGTH = 3
DEADLINE = 4  # d: when the running request is overdue
BEGAN = 5  # d: when the running request began
CONNECTIONS = 6


class Row:
    """One slot's row. The views are public because a worker's hot path writes them in place."""

    __slots__ = ("_map", "_text_at", "base", "doubles", "ints")

    def __init__(self, board: "Scoreboard", slot: int) -> None:
        self._map = board.map
        self.ints = board.ints
        self.doubles = board.doubles
        self.base = slot * _ROW_WORDS
        self._text_at = slot * _ROW_BYTES + _TEXT_AT

    def clear(self) -> None:
        """Forget the slot's last owner."""
        start = self.base * 8
        self._map[start : start + _ROW_BYTES] = bytes(_ROW_BYTES)

    def begin(self, now: float, deadline: float, line: bytes) -> None:
        """Note that a request began: ``line`` is its method and target."""
        base = self.base
        at = self._text_at
        if len(line) > TEXT_BYTES:
            line = line[:TEXT_BYTES]
        self._map[at : at + len(line)] = line
        self.ints[base + TEXT_LENGTH] = len(line)
        self.doubles[base + BEGAN] = now
        self.doubles[base + DEADLINE] = deadline

    def end(self) -> None:
        """Note that the request has ended."""
        base = self.base
        self.doubles[base + DEADLINE] = 0.0
        self.doubles[base + BEGAN] = 0.0
        self.ints[base + REQUESTS] += 1

    @property
    def line(self) -> str:
        """The running (or last) request's method and target; control characters are the reader's to escape."""
        length = min(self.ints[self.base + TEXT_LENGTH], TEXT_BYTES)
        return self._map[self._text_at : self._text_at + length].decode("latin-1")


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
