"""The scoreboard: one shared row per slot, each row written by its owner, but for one word, and read by the master.

A memfd mapped by the master and inherited by its children; no call of the system per request. A row's owner is the
child in that slot; before it is forked, the master writes the row. Times are CLOCK_MONOTONIC seconds, 0 = none.
Layout of a row of 256 bytes: words of 8 bytes, then the request's method and target, cut to 128 bytes.
"""

import fcntl
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial

LAYOUT = 1  # raised with every change of what is below: a master and the workers it takes over must agree
SLOTS = 2048
_ROW_BYTES = 256
_TEXT_BYTES = 128
_TEXT_AT = _ROW_BYTES - _TEXT_BYTES

# Words of a row; "d" is read as a double, the others as integers.
PID = 0
GENERATION = 1
RUNNING = 2  # how many requests run, where more than one can
ORDERED = 3  # d: written by the master before it asks for stacks: the deadline of the request that is overdue, or 0
SERVES = 4  # how many requests its owner can run at once for anybody; 0: it does not serve, or not any more
# d: written by the owner when it asks to be watched, then by the master: until when it need not ask; 0: it never has.
WATCHED = 5
DEADLINE = 13  # d: when the running request is overdue; 0: none runs
BEGAN = 14  # d: when the running (or last) request began
REQUESTS = 15  # begun by the process in this slot

_LATEST = 1e12  # seconds of CLOCK_MONOTONIC; what is later is no moment, but never (inf) is one

# What a worker writes when a request begins, at once: DEADLINE to the end of the row. Text is cut and padded with NUL.
_BEGIN = struct.Struct(f"ddq{_TEXT_BYTES}s")


class Row:
    """One slot's row. A worker notes a request by two single calls into C, without a frame of Python:

    ``row.begin(deadline, now, requests, line)`` when it begins (``line`` is its method and target, ``requests`` counts
    it already), and ``row.doubles[DEADLINE] = 0.0`` when it has ended.
    """

    __slots__ = ("_bytes", "begin", "doubles", "ints")

    def __init__(self, board: "Scoreboard", slot: int) -> None:
        self._bytes = memoryview(board.map)[slot * _ROW_BYTES : (slot + 1) * _ROW_BYTES]
        self.ints = self._bytes.cast("q")
        self.doubles = self._bytes.cast("d")
        self.begin: Callable[[float, float, int, bytes], None] = partial(_BEGIN.pack_into, self._bytes, DEADLINE * 8)

    def clear(self) -> None:
        """Forget the slot's last owner."""
        self._bytes[:] = bytes(_ROW_BYTES)

    @property
    def begun(self) -> int:
        """How many requests the slot's owner has begun."""
        return self.ints[REQUESTS]

    @property
    def ended(self) -> int:
        """How many of them have ended."""
        return max(0, self.ints[REQUESTS] - max(self.ints[RUNNING], self.doubles[DEADLINE] != 0.0))

    def moment(self, word: int) -> float:
        """A moment as the row has it; 0 where that is none: whoever owns the row may write anything."""
        found = self.doubles[word]
        return found if found > 0.0 and (found < _LATEST or math.isinf(found)) else 0.0

    @property
    def line(self) -> str:
        """The running (or last) request's method and target; control characters are the reader's to escape."""
        return bytes(self._bytes[_TEXT_AT:]).rstrip(b"\0").decode("latin-1")


class Scoreboard:
    """All rows."""

    def __init__(self, fd: int = -1) -> None:
        """Make it, or map the one that the master that we were has handed over."""
        size = SLOTS * _ROW_BYTES
        made = fd < 0
        self.fd = os.memfd_create("forkserve-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if made else fd
        try:
            if made:
                os.ftruncate(self.fd, size)  # pages that are never touched cost nothing
                # A worker that made it shorter would have us end by SIGBUS.
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise

    def let_go(self) -> None:
        """Close the descriptor, as a new child does and the master at its end; what is mapped stays."""
        os.close(self.fd)

    def row(self, slot: int) -> Row:
        """The row of ``slot``."""
        return Row(self, slot)

    def siblings(self, slot: int) -> "Siblings":
        """What the worker in ``slot`` sees of the others."""
        return Siblings(memoryview(self.map), slot)


class Siblings:
    """The other workers, as one of them sees them: only whether any could take something off it."""

    def __init__(self, board: memoryview, slot: int) -> None:
        self._ints = board.cast("q")
        self._slot = slot

    def are_there(self) -> bool:
        """Whether anybody else serves."""
        return any(self._ints[row + SERVES] > 0 for row in self._rows())

    def have_time(self) -> bool:
        """Whether anybody else serves and could begin a request now."""
        ints = self._ints
        for row in self._rows():
            serves = ints[row + SERVES]
            # A double of 0.0 is an integer of 0: no request runs.
            if serves > 0 and (ints[row + RUNNING] if serves > 1 else ints[row + DEADLINE] != 0) < serves:
                return True
        return False

    def _rows(self) -> Iterator[int]:
        """The first words of the others' rows. The lowest free slot is given, so one that nobody had is the end."""
        for row in range(0, len(self._ints), _ROW_BYTES // 8):
            if not self._ints[row + PID]:
                return
            if row != self._slot * _ROW_BYTES // 8:
                yield row
