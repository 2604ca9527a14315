"""What the supervisor knows: the phase, the target (wanted size and generation), the children, and what goes wrong.

Pure data in the master, written by the supervisor and its plan only. Moments are monotonic seconds; 0 is none.
"""

from collections.abc import Callable

from forkserve.errors import ExitCode
from forkserve.master.actions import Notify
from forkserve.master.backoff import CALM_S, FEW, Backoff, Losses
from forkserve.master.events import Policy, WorkerExited
from forkserve.master.records import MOST_LIVE, SIGKILL, STEADY_S, UNBORN, Phase, Record, Records, Stage
from forkserve.typed import Struct

LEAVING = (Phase.DRAINING, Phase.STOPPING)


class Rollout(Struct):
    """A reload from good settings to its end."""

    generation: int
    began_at: float
    deadline: float
    covers: int  # the number of the last wish that it answers
    failures: int = 0  # boots of its generation that failed

    def is_due(self, now: float) -> bool:
        return 0 < self.deadline <= now


class Upgrade(Struct):
    """An upgrade from the wish to the exec."""

    deadline: float  # when the target must have said that it understands; 0: it has

    def is_due(self, now: float) -> bool:
        return 0 < self.deadline <= now


class Trouble(Struct):
    """Why boots fail, since the start or the last reload."""

    error: str = ""  # the last failure, one line
    traceback: str = ""
    told: str = ""  # the traceback that the log has had since the back-off began
    exit_code: int = ExitCode.APP_IMPORT.value

    def explain(self, error: str, traceback: str, exit_code: int) -> str:
        """Keep a child's own words; return the traceback if the log has not had it."""
        news = traceback if traceback != self.told else ""
        self.error, self.traceback, self.told, self.exit_code = error, traceback, traceback, exit_code
        return news


class State:
    """All of it in one place, and the questions that more than one rule asks."""

    def __init__(self, policy: Policy, jitter: Callable[[], float]) -> None:
        self.policy = policy
        self.phase = Phase.STARTING
        self.size = policy.size  # wanted
        self.generation = 1  # wanted
        self.last_issued = 1  # the highest generation ever wanted
        self.serving = 0  # the generation that took over last; 0 before the first
        self.records = Records()
        self.backoff = Backoff(jitter)
        self.losses = Losses()
        self.first_deaths: dict[int, int] = {}  # by generation that serves, see is_loss
        self.trouble = Trouble()
        self.degraded = False  # fewer workers than wanted serve, because boots or forks fail
        self.loading = False  # a LoadConfig is unanswered
        self.load_again = False  # one more Reload was wished for meanwhile
        self.wishes = 0  # how many reloads were ever wished for
        self.covered = 0  # wishes up to this number are met by the settings that were read last
        self.unanswered: list[int] = []  # numbers of the wishes that have not heard how it ended
        self.unsettled = False  # a reload may have left listeners open that nobody uses
        self.unproven: set[int] = set()  # generations of reloads of which nobody has been READY for reload_settle yet
        self.deaf_until = 0.0  # after an oversleep: who serves may have died long ago
        self.failed_at = float("-inf")  # when a boot failed last, or a worker died young
        self.doorless: set[int] = set()  # living generations whose listeners were closed since: none is born any more
        self.shut = False  # the doors
        self.drain_at = 0.0  # when a graceful stop stops accepting
        self.rollout: Rollout | None = None
        self.upgrade: Upgrade | None = None
        self.last_error = ""  # why the last reload failed, one line; empty after one that succeeded
        self.ever_ready = False
        self.ends: dict[str, int] = {}  # how many children have ended, by cause
        self.start_failures = 0
        self.exit_code = ExitCode.OK.value
        self.exited = False
        self.announced: Notify | None = None  # what the service manager heard last

    @property
    def leaving(self) -> bool:
        return self.phase in LEAVING

    @property
    def reloading(self) -> bool:
        return self.loading or self.rollout is not None

    @property
    def most(self) -> int:
        """How many processes that boot or serve may live at once."""
        policy = self.policy
        return self.size + max(policy.surge, -(-self.size * policy.surge_percent // 100))

    @property
    def room(self) -> int:
        """How many more may be born: those that boot or serve are bounded by ``most``, and with them who only finishes,
        beyond what is allowed beside. Without a surge a place is free when who had it has left."""
        policy, live = self.policy, len(self.records)
        if not self.has_surge:
            return self.most - live
        active = len(self.records.staged(*UNBORN, Stage.READY))
        allowed = max(policy.retiring, -(-self.size * policy.retiring_percent // 100))
        return min(self.most - active - max(0, live - active - allowed), MOST_LIVE - live)

    @property
    def has_surge(self) -> bool:
        """Whether a new one may live before the old one has left."""
        return self.most > self.size

    @property
    def ready(self) -> int:
        """How many workers serve, of whatever generation."""
        return len(self.records.staged(Stage.READY))

    def serving_before(self) -> int:
        """Return the newest generation before the wanted one with a READY child, 0 if there is none."""
        ready = {record.generation for record in self.records.staged(Stage.READY)}
        return max((generation for generation in ready if generation < self.generation), default=0)

    def fallback(self) -> int:
        """Return the newest READY generation that the wanted one can be given up for, 0 if there is none.

        Without a surge it has made room for the wanted one, and may have nobody left: then it can be born again.
        """
        ready = {record.generation for record in self.records.staged(Stage.READY)}
        if not self.has_surge and not ready - self.doorless:
            ready = {self.serving} - {0}
        candidates = ready - self.doorless - {self.generation}
        return max(candidates, key=lambda generation: (generation not in self.unproven, generation), default=0)

    def rolled_out(self) -> bool:
        """Whether the wanted generation serves at full strength and no child of another one lives."""
        new = self.records.staged(Stage.READY, generation=self.generation)
        return len(new) >= self.size and all(record.generation == self.generation for record in self.records)

    @property
    def has_taken_over(self) -> bool:
        """Whether all that serve are of the wanted generation, and enough: nothing is left to be given up."""
        ready = self.records.staged(Stage.READY)
        return len(ready) >= self.size and all(record.generation == self.generation for record in ready)

    @property
    def on_trial(self) -> bool:
        """Whether the generation of the reload has yet to show that it lasts: it costs no old worker its place."""
        return self.rollout is not None and self.rollout.generation in self.unproven

    def settles_at(self, record: Record) -> float:
        """Return when this READY child will have proved its generation."""
        assert record.ready_at is not None
        return max(record.ready_at + self.policy.reload_settle_s, self.deaf_until)

    def steady_s(self, record: Record) -> float:
        """Return for how long this child must have been READY for its end to be no failure to boot."""
        return float("inf") if self.on_trial and record.generation == self.generation else STEADY_S

    def proofs(self) -> list[float]:
        """List when each child that became READY during the back-off will have proved that children work."""
        if not self.backoff.level:
            return []
        ready_at = [record.ready_at for record in self.records.staged(Stage.READY) if record.ready_at is not None]
        return [moment + STEADY_S for moment in ready_at if moment >= self.backoff.began_at]

    def is_loss(self, record: Record, event: WorkerExited, now: float) -> bool:
        """Whether this child, which nobody asked to leave, worked before it died, however young it was.

        It has ended a request; or its first one killed it, while requests of its generation do end: so many deaths like
        that in a row say that they do not any more. Or somebody killed it, if that is not a habit.
        """
        if record.ready_at is None:
            return False
        deaths = self.first_deaths
        if event.served:
            deaths[record.generation] = 0
        elif event.began and record.generation in deaths:
            deaths[record.generation] += 1
            if deaths[record.generation] > 2 * max(self.size, FEW):
                del deaths[record.generation]
        if event.began and record.generation in deaths:
            return True
        is_kill = event.signal == SIGKILL and not record.killed
        return is_kill and not self.on_trial and self.losses.forgives_kill(record.born_at, now, self.size)

    def count_loss(self, record: Record, now: float, error: str) -> None:
        """Count a child that worked and died; against a generation that is on trial it says something all the same."""
        record.counted = True
        self.losses.add(now, self.size)
        if self.on_trial and self.rollout and self.rollout.generation == record.generation:
            self.rollout.failures += 1
            self.trouble.error = error

    def count_failure(self, record: Record, now: float, error: str) -> float | None:
        """Count a child that does not boot, ``error`` where it did not say why; return the pause that this began.

        One that died young may have been killed from outside: in calm times, and where it is no proof against the
        generation of a reload, the first is replaced at once.
        """
        record.counted = True
        calm = record.born_at >= self.failed_at + CALM_S and not self.backoff.level
        self.failed_at = now
        self.start_failures += 1
        if error:
            self.trouble.error = error
        if self.rollout and self.rollout.generation == record.generation:
            self.rollout.failures += 1
        elif calm and record.ready_at is not None:
            return None
        return self.backoff.fail(now)

    def end_backoff(self) -> None:
        self.backoff.reset()
        self.trouble.told = ""

    def next_deadline(self, now: float) -> float | None:
        """Return the earliest moment at which the plan would do something by itself."""
        moments = [record.deadline for record in self.records if record.deadline]
        if self.phase is Phase.DRAINING and self.drain_at > now:
            moments.append(self.drain_at)
        if not self.leaving:
            timed = (None if self.has_taken_over else self.rollout, self.upgrade)
            moments += [one.deadline for one in timed if one and one.deadline]
            if not self.backoff.allows(now):
                moments.append(self.backoff.until)
            moments += self.proofs()
            if (few_again_at := self.losses.few_again_at(now, self.size)) is not None:
                moments.append(few_again_at)
            if self.on_trial:
                moments += map(self.settles_at, self.records.staged(Stage.READY, generation=self.generation))
        return min(moments, default=None)


def status(state: State) -> str:
    """Say in one line where we stand, for the service manager."""
    if state.exit_code:
        return f"first start failed: {state.trouble.error}"
    if state.phase is not Phase.SERVING:
        return state.phase.value
    if state.upgrade:
        return f"upgrading from generation {state.generation}"
    if state.loading:
        return "reading the settings"
    if state.rollout:
        return f"reloading to generation {state.generation}"
    error = f"; {state.last_error}" if state.last_error else ""
    if state.degraded:
        few = f"{state.ready} of {_workers(state.size)}"
        return f"generation {state.generation} degraded, {few}: {state.trouble.error}{error}"
    if error:
        return f"generation {state.generation} serving{error}"
    return strength(state, state.generation)


def strength(state: State, generation: int) -> str:
    """Say with how many of its workers this generation serves."""
    few = f"{state.ready} of " if state.ready < state.size else ""
    return f"generation {generation}, {few}{_workers(state.size)}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
