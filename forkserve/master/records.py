"""The table of children: one record for each child that was decided on and is not reaped yet.

Pure data of the supervisor, in the master. Knows what a child's life consists of and how its end is told;
decides nothing, and knows no pid, clock or signal call. Moments are monotonic seconds, a deadline of 0 is none.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from forkserve.master.actions import Kind
from forkserve.typed import Struct

STEADY_S = 2.0  # READY for this long: the child works, and its later death is no failure to boot
SIGKILL = 9
MOST_LIVE = 2048  # the scoreboard has so many rows


class Phase(StrEnum):
    """The life of the master."""

    STARTING = "starting"  # until as many workers as wanted were READY for the first time
    SERVING = "serving"
    DRAINING = "draining"  # graceful stop
    STOPPING = "stopping"  # quick stop


class Stage(StrEnum):
    """The life of a child."""

    FORKING = "forking"  # decided on, not answered by the kernel: there is nothing to signal yet
    BOOTING = "booting"
    READY = "ready"
    RETIRING = "retiring"  # finishes what it began, by our wish or its own
    KILLED = "killed"  # from the stack dump on, or from the kill where there is none


UNBORN = (Stage.FORKING, Stage.BOOTING)  # not able to serve yet


class Record(Struct):
    """The master's view of one child; only the supervisor writes it."""

    id: int
    slot: int
    generation: int
    born_at: float
    since: float  # when it entered its stage
    kind: Kind = Kind.WORKER
    stage: Stage = Stage.FORKING
    deadline: float = 0.0  # when this stage must have ended
    ready_at: float | None = None
    asked: bool = False  # we wanted it to leave: its end is no failure
    told: bool = False  # somebody else did
    hurried: bool = False
    drains: bool = False  # it knows that the service stops
    tired: str = ""  # why it wants to be replaced
    stopped: bool = False  # by a SIGSTOP that was not ours
    killed: bool = False  # a Kill went out: signal 9 is ours
    explained: bool = False  # it said why it cannot boot
    counted: bool = False  # its failure is counted, though it may still live
    why: str = ""  # why it was asked to leave or killed
    grace_until: float = 0.0  # of one that was found overdue while it was RETIRING

    def enter(self, stage: Stage, now: float, deadline: float = 0.0) -> None:
        self.stage, self.since, self.deadline = stage, now, deadline

    def is_due(self, now: float) -> bool:
        return 0 < self.deadline <= now

    def failed(self, now: float, steady_s: float) -> bool:
        """Whether its end at ``now`` is a failure that is not counted yet: it was not asked for and came too early,
        that is before it had been READY for ``steady_s``."""
        if self.asked or self.counted:
            return False
        left_ready_at = now if self.stage is Stage.READY else self.since
        return self.ready_at is None or left_ready_at < self.ready_at + steady_s

    def kind_of_end(self, code: int, signal: int) -> str:
        """Say in a few words, of which there are few, what a counter counts this end under."""
        if signal == SIGKILL and self.killed:
            return f"killed: {self.why}"
        if self.asked or self.stage in (Stage.RETIRING, Stage.KILLED):  # KILLED: it left between dump and kill
            return self.why or "left by itself"
        return f"signal {signal}" if signal else f"exit code {code}"

    def cause_of_end(self, code: int, signal: int) -> str:
        """Say how it ended, and whether that was our doing."""
        if signal == SIGKILL and self.killed:
            return f"killed by us: {self.why}"
        if signal == SIGKILL:
            return "killed by signal 9, not sent by us; possibly out of memory"
        cause = f"killed by signal {signal}" if signal else f"exit code {code}"
        return f"{cause}; {self.why}" if self.why else cause


class Records:
    """All children that are not reaped, in the order of their ids."""

    def __init__(self, known: Iterable[Record] = (), last_id: int = 0) -> None:
        """Begin with none, or with those that an earlier mind knew."""
        self._by_id: dict[int, Record] = {record.id: record for record in known}
        self._last_id = last_id

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def last_id(self) -> int:
        """The id given last."""
        return self._last_id

    def add(self, generation: int, now: float) -> Record:
        """Give a new child the next id and the lowest slot that no other child holds."""
        self._last_id += 1
        taken = {record.slot for record in self}
        slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        record = Record(self._last_id, slot, generation, born_at=now, since=now)
        self._by_id[record.id] = record
        return record

    def get(self, id: int) -> Record | None:
        return self._by_id.get(id)

    def staged_as(self, id: int, *stages: Stage) -> Record | None:
        """Return this child if it lives and is in one of these stages."""
        record = self.get(id)
        return record if record and record.stage in stages else None

    def remove(self, id: int) -> None:
        del self._by_id[id]

    def staged(self, *stages: Stage, generation: int | None = None) -> list[Record]:
        """List the children in one of these stages, of one generation if given, oldest first."""
        return [record for record in self if record.stage in stages and generation in (None, record.generation)]
