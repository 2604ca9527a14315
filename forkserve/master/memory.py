"""What a mind hands to the one that resumes after an exec: all that it knows, as plain data.

Pure, in the master. Two versions of this program speak by it, so a field is never renamed or given another meaning;
what is added has a default. Only a master that serves, and reloads nothing, is ever remembered. Moments stay true:
CLOCK_MONOTONIC does not notice an exec.
"""

from collections.abc import Callable, Mapping

from forkserve.master.events import Policy
from forkserve.master.records import Phase, Record, Records
from forkserve.master.state import State, Trouble
from forkserve.typed import Struct


class Memory(Struct, frozen=True, kw_only=True):
    """The state of the mind; the fields mean what they mean in State, Records and Backoff."""

    size: int
    generation: int
    last_issued: int
    serving: int
    records: list[Record]
    last_id: int
    backoff_level: int = 0
    backoff_began_at: float = 0.0
    backoff_until: float = 0.0
    trouble: Trouble | None = None
    degraded: bool = False
    wishes: int = 0
    covered: int = 0
    unanswered: tuple[int, ...] = ()
    unproven: tuple[int, ...] = ()
    doorless: tuple[int, ...] = ()
    failed_at: float = float("-inf")
    start_failures: int = 0
    last_error: str = ""
    ends: Mapping[str, int] = {}


def remember(state: State) -> Memory:
    """Write down what this mind knows."""
    return Memory(
        size=state.size,
        generation=state.generation,
        last_issued=state.last_issued,
        serving=state.serving,
        records=list(state.records),
        last_id=state.records.last_id,
        backoff_level=state.backoff.level,
        backoff_began_at=state.backoff.began_at,
        backoff_until=state.backoff.until,
        trouble=state.trouble,
        degraded=state.degraded,
        wishes=state.wishes,
        covered=state.covered,
        unanswered=tuple(state.unanswered),
        unproven=tuple(sorted(state.unproven)),
        doorless=tuple(sorted(state.doorless)),
        failed_at=state.failed_at,
        start_failures=state.start_failures,
        last_error=state.last_error,
        ends=state.ends,
    )


def recall(memory: Memory, policy: Policy, jitter: Callable[[], float]) -> State:
    """Know again what was written down."""
    state = State(policy, jitter)
    state.phase, state.ever_ready = Phase.SERVING, True
    state.size, state.generation = memory.size, memory.generation
    state.last_issued, state.serving = memory.last_issued, memory.serving
    state.records = Records(memory.records, memory.last_id)
    state.backoff.level, state.backoff.until = memory.backoff_level, memory.backoff_until
    state.backoff.began_at = memory.backoff_began_at
    state.trouble, state.degraded = memory.trouble or Trouble(), memory.degraded
    state.wishes, state.covered, state.unanswered = memory.wishes, memory.covered, list(memory.unanswered)
    state.unproven, state.doorless = set(memory.unproven), set(memory.doorless)
    state.failed_at, state.start_failures = memory.failed_at, memory.start_failures
    state.last_error, state.ends = memory.last_error, dict(memory.ends)
    return state
