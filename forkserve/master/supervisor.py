"""The mind of the master: facts and wishes in, actions out; it decides everything about the children.

Events only move a target or a record; the plan, run after each, makes the world match. So lost or doubled signals
corrupt nothing. Runs in the master. Pure: it knows no os, socket, signal, clock or logging; ``now`` is monotonic
seconds. The hands perform the actions in their order and answer with events; when their loop overslept, the Ticked
that says so must come before any other event of that round. Design: docs/design.md.
"""

import re
from collections.abc import Callable
from typing import assert_never

from forkserve.master import events as ev
from forkserve.master import upgrading
from forkserve.master.actions import Action, LoadConfig, ReopenLogFiles
from forkserve.master.memory import Memory, recall, remember
from forkserve.master.orders import QUICK_S, Orders
from forkserve.master.plan import announce, end_reload, leave, plan
from forkserve.master.records import Phase, Record, Stage
from forkserve.master.state import Rollout, State, Trouble

OVERDUE = "request overdue"
ROUND_S = 1.0  # how much longer everybody has when this loop overslept
SIZE_MIN, SIZE_MAX = 1, 1024
# How it reads when an app wants what another process has: a port (EADDRINUSE), a lock (EAGAIN of flock, and words).
_TAKEN = re.compile(r"already (in use|running|locked)|temporarily unavailable|\block(ed)?\b", re.IGNORECASE)
_OLD_ONE_FIRST = "if the old worker has it, reload_surge = 0 lets that one leave first"


class Supervisor:
    """Feed it every event in order and perform what it returns; its properties are for reading."""

    def __init__(self, policy: ev.Policy, jitter: Callable[[], float]) -> None:
        """``jitter`` returns 0..1, anew at each call."""
        self._state = State(policy, jitter)
        self._orders = Orders()
        self._now = 0.0

    @classmethod
    def resume(cls, memory: Memory, policy: ev.Policy, jitter: Callable[[], float]) -> "Supervisor":
        """Go on where an earlier mind was when its process became another program; then tell it Resumed."""
        mind = cls(policy, jitter)
        mind._state = recall(memory, policy, jitter)
        return mind

    def remember(self) -> Memory:
        """Write down what the next mind needs to know."""
        return remember(self._state)

    def start(self, now: float) -> list[Action]:
        """Begin life: spawn the first workers."""
        self._now = now
        plan(self._state, self._orders, now)
        return self._orders.take()

    def handle(self, event: ev.Event, now: float) -> list[Action]:
        """Take one event in and decide; after Exit there is nothing left to say."""
        if self._state.exited:
            return []
        self._now = now
        if any(moment <= now for moment in self._state.proofs()):
            self._state.end_backoff()
        self._apply(event, now)
        if upgrading.give_up_overdue(self._state, self._orders, now):
            self._load_what_waits()
        plan(self._state, self._orders, now)
        return self._orders.take()

    def next_deadline(self) -> float | None:
        """Return the moment at which a Ticked is due at the latest; None: only events matter."""
        return None if self._state.exited else self._state.next_deadline(self._now)

    @property
    def phase(self) -> Phase:
        return self._state.phase

    @property
    def size(self) -> int:
        """The wanted number of workers."""
        return self._state.size

    @property
    def generation(self) -> int:
        """The wanted generation."""
        return self._state.generation

    @property
    def serving(self) -> int:
        """The generation that took over last; 0 before the first."""
        return self._state.serving

    @property
    def records(self) -> tuple[Record, ...]:
        """All children that are not reaped, oldest first."""
        return tuple(self._state.records)

    @property
    def ready(self) -> int:
        """How many workers serve, of whatever generation."""
        return self._state.ready

    @property
    def ends(self) -> dict[str, int]:
        """How many children have ended since the start, by cause."""
        return dict(self._state.ends)

    def is_ready(self, id: int) -> bool:
        """Whether this child counts as READY."""
        return self._state.records.staged_as(id, Stage.READY) is not None

    @property
    def wishes(self) -> int:
        """How many reloads were ever wished for; ReloadEnded speaks of them by number."""
        return self._state.wishes

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way, from the wish to its end."""
        return self._state.reloading

    @property
    def upgrading(self) -> bool:
        """Whether an upgrade is under way, from the wish to the exec."""
        return self._state.upgrade is not None

    @property
    def degraded(self) -> bool:
        """Whether fewer workers than wanted serve because boots or forks fail."""
        return self._state.degraded

    @property
    def backoff_level(self) -> int:
        return self._state.backoff.level

    @property
    def last_error(self) -> str:
        """Why the last reload failed, one line; empty after one that succeeded."""
        return self._state.last_error

    @property
    def last_traceback(self) -> str:
        """The last traceback of a boot since the start or the last reload."""
        return self._state.trouble.traceback

    # What each event changes; an event about a child that is unknown, or beyond that stage, changes nothing

    def _apply(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.Forked():
                self._forked(event, now)
            case ev.ForkFailed():
                self._fork_failed(event, now)
            case ev.WorkerReady():
                self._worker_ready(event, now)
            case ev.BootFailed():
                self._boot_failed(event)
            case ev.WorkerRetiring():
                self._worker_retiring(event, now)
            case ev.WorkerTired():
                self._worker_tired(event)
            case ev.WorkerSpent():
                self._worker_spent(event, now)
            case ev.WorkerTooBig():
                self._worker_too_big(event, now)
            case ev.WorkerStopped() | ev.WorkerContinued():
                self._worker_stopped(event, now)
            case ev.WorkerExited():
                self._worker_exited(event, now)
            case ev.Ticked():
                self._ticked(event, now)
            case ev.ConfigLoaded():
                self._config_loaded(event, now)
            case ev.ConfigRejected():
                self._config_rejected(event)
            case ev.TargetAccepted():
                upgrading.go_on(self._state, self._orders)
            case ev.TargetRefused(error=error, output=output):
                self._upgrade_failed(error, output)
            case ev.ExecFailed(error=error):
                self._upgrade_failed(error)
            case ev.Resumed():
                self._resumed(now)
            case ev.Upgrade():
                upgrading.begin(self._state, self._orders, now)
            case ev.Reload() | ev.Scale() if self._state.leaving:
                wish = type(event).__name__.lower()
                self._orders.say("info", "wish ignored", wish=wish, phase=self._state.phase.value)
            case ev.Reload():
                self._reload()
            case ev.Scale():
                self._scale(event)
            case ev.Drain():
                leave(self._state, self._orders, Phase.STOPPING if self._state.leaving else Phase.DRAINING, now)
            case ev.Stop():
                leave(self._state, self._orders, Phase.STOPPING, now)
            case ev.ReopenLogs():
                self._orders.add(ReopenLogFiles())
                self._orders.say("info", "log files reopened")
            case _:
                assert_never(event)

    def _forked(self, event: ev.Forked, now: float) -> None:
        if record := self._state.records.staged_as(event.id, Stage.FORKING):
            record.enter(Stage.BOOTING, now, _deadline(now, self._state.policy.boot_timeout_s))
            self._orders.say("debug", "worker forked", record)

    def _fork_failed(self, event: ev.ForkFailed, now: float) -> None:
        record = self._state.records.staged_as(event.id, Stage.FORKING)
        if record is None:
            return
        self._state.records.remove(record.id)
        self._state.trouble.error = f"fork failed: {event.error}"
        pause_s = self._state.backoff.fail(now)
        if pause_s is not None:  # said once for each pause, however many forks fail
            self._orders.say("error", "fork failed", record, cause=event.error, retry_s=pause_s)

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        if record := self._state.records.staged_as(event.id, Stage.BOOTING):
            self._orders.say("info", "worker ready", record, boot_s=now - record.since)
            record.enter(Stage.READY, now, _deadline(now, self._state.policy.timeout_s) if record.stopped else 0.0)
            record.ready_at = now
            self._state.ever_ready = True

    def _boot_failed(self, event: ev.BootFailed) -> None:
        """Keep why; the failure itself counts when the child is reaped."""
        if record := self._state.records.staged_as(event.id, Stage.BOOTING):
            record.explained = True
            detail = self._state.trouble.explain(event.error, event.traceback, event.exit_code)
            remedy = (
                _OLD_ONE_FIRST if _TAKEN.search(event.error) and self._state.ready and self._state.has_surge else None
            )
            self._orders.say("error", "worker could not boot", record, detail, cause=event.error, remedy=remedy)

    def _worker_retiring(self, event: ev.WorkerRetiring, now: float) -> None:
        record = self._state.records.staged_as(event.id, Stage.BOOTING, Stage.READY)
        if record is None:
            return
        pause_s = None
        if not event.told and record.ready_at is not None and record.failed(now, self._state.steady_s(record)):
            error = f"worker retired itself as soon as it was ready: {event.reason}"
            pause_s = self._state.count_failure(record, now, error)
        record.told = event.told
        record.enter(Stage.RETIRING, now, now + (self._state.policy.grace_s or QUICK_S))
        self._orders.say("info", "worker retired itself", record, cause=event.reason, retry_s=pause_s)

    def _worker_tired(self, event: ev.WorkerTired) -> None:
        record = self._state.records.staged_as(event.id, Stage.READY)
        if record and not record.tired:
            record.tired = event.reason
            self._orders.say("info", "worker tired", record, cause=event.reason)

    def _worker_spent(self, event: ev.WorkerSpent, now: float) -> None:
        """It was found overdue and is about to be killed: since it leaves by itself, it has the grace instead."""
        record = self._state.records.staged_as(event.id, Stage.KILLED)
        if record is None or record.killed or record.why != OVERDUE:
            return
        grace_until = record.grace_until or now + (self._state.policy.grace_s or QUICK_S)
        if not (record.asked or record.counted):
            self._state.count_loss(record, now, OVERDUE)
        record.enter(Stage.RETIRING, now, grace_until)
        self._orders.say("info", "worker leaves after its other requests", record, cause=record.why)

    def _worker_too_big(self, event: ev.WorkerTooBig, now: float) -> None:
        if record := self._state.records.staged_as(event.id, Stage.BOOTING, Stage.READY, Stage.RETIRING):
            self._orders.condemn(record, now, "over max_worker_memory_hard")
            size, limit = event.rss_bytes >> 20, event.limit_bytes >> 20
            self._orders.say("error", "worker too big", record, rss_mib=size, limit_mib=limit)

    def _worker_stopped(self, event: ev.WorkerStopped | ev.WorkerContinued, now: float) -> None:
        # A BOOTING one may have said READY before it was stopped, and the hands read signals first.
        record = self._state.records.staged_as(event.id, Stage.BOOTING, Stage.READY, Stage.RETIRING)
        stopped = isinstance(event, ev.WorkerStopped)
        if record is None or record.stopped is stopped:
            return
        record.stopped = stopped
        self._orders.say("warning", "worker was stopped" if stopped else "worker continued", record)
        if record.stage is Stage.READY:  # the others have a deadline already
            record.deadline = _deadline(now, self._state.policy.timeout_s) if stopped else 0.0

    def _worker_exited(self, event: ev.WorkerExited, now: float) -> None:
        record = self._state.records.get(event.id)
        if record is None:
            return
        self._state.records.remove(record.id)
        cause = record.cause_of_end(event.code, event.signal)
        kind = record.kind_of_end(event.code, event.signal)
        self._state.ends[kind] = self._state.ends.get(kind, 0) + 1
        told = record.explained or record.counted  # one error line for one failure
        expected = told or record.asked or record.stage is Stage.RETIRING
        pause_s = None
        # Who was told by others to leave, and left in peace, did not crash, however young it was.
        peaceful = record.told and record.ready_at is not None and not (event.code or event.signal)
        unasked = not (record.asked or record.counted or peaceful)
        young = record.failed(now, self._state.steady_s(record))
        if unasked and (self._state.is_loss(record, event, now) or not young):
            self._state.count_loss(record, now, f"worker died at work: {cause}")
        elif unasked:
            moment = "before it was ready" if record.ready_at is None else "as soon as it was ready"
            error = "" if record.explained else f"worker exited {moment}: {cause}"
            pause_s = self._state.count_failure(record, now, error)
            expected = told
        self._orders.say("info" if expected else "error", "worker exited", record, cause=cause, retry_s=pause_s)

    def _ticked(self, event: ev.Ticked, now: float) -> None:
        if event.overslept:
            self._skip_killing_round(now, event.deaf_s)
            return
        for overdue in event.overdue:
            if record := self._state.records.staged_as(overdue.id, Stage.READY, Stage.RETIRING):
                self._orders.condemn(record, now, OVERDUE, overdue.deadline)
                self._orders.say("error", "request overdue", record, request=overdue.request, age_s=overdue.age_s)

    def _skip_killing_round(self, now: float, deaf_s: float = 0.0) -> None:
        """Give everybody as much more time as we stood still, and one more round: nobody was heard, and perhaps the
        children stood still as well. The hands log it."""
        self._state.deaf_until = now + ROUND_S
        for timed in (*self._state.records, self._state.rollout, self._state.upgrade):
            if timed and timed.deadline:
                timed.deadline += deaf_s
                if timed.is_due(now):
                    timed.deadline = now + ROUND_S

    def _reload(self) -> None:
        self._state.wishes += 1
        self._state.unanswered.append(self._state.wishes)
        if self._state.loading or self._state.upgrade:
            self._state.load_again = True
            self._orders.say("info", "reload coalesced")
        else:
            self._load_config()

    def _upgrade_failed(self, error: str, detail: str = "") -> None:
        upgrading.fail(self._state, self._orders, error, detail)
        self._load_what_waits()

    def _resumed(self, now: float) -> None:
        """Nothing but the master has changed; the reload makes workers of the new code, and ends who waits for it."""
        self._skip_killing_round(now)  # however long the exec took, nobody was heard
        self._orders.say("info", "upgraded", gen=self._state.generation, workers=self._state.ready)
        self._reload()

    def _load_config(self) -> None:
        self._state.loading = True
        self._state.covered = self._state.wishes
        announce(self._state, self._orders)  # the service manager hears of a reload before anything comes of it
        self._orders.add(LoadConfig())

    def _config_loaded(self, event: ev.ConfigLoaded, now: float) -> None:
        state = self._state
        if not state.loading:
            return
        if state.rollout:
            self._orders.say("info", "reload superseded", gen=state.rollout.generation)
        state.policy = event.policy
        state.size = event.policy.size if event.resize else state.size
        state.last_issued += 1
        state.generation = state.last_issued
        living = {record.generation for record in state.records}
        state.unproven &= living
        state.first_deaths = {one: deaths for one, deaths in state.first_deaths.items() if one in living}
        state.unproven.add(state.generation)
        state.rollout = Rollout(state.generation, now, _deadline(now, event.policy.reload_timeout_s), state.covered)
        state.unsettled = True
        state.start_failures = 0
        state.trouble = Trouble()
        state.end_backoff()
        state.degraded = False
        self._orders.say("info", "reload began", gen=state.generation, size=state.size)
        self._loading_answered()

    def _config_rejected(self, event: ev.ConfigRejected) -> None:
        if not self._state.loading:
            return
        self._state.last_error = f"reload rejected: {event.error}"
        self._orders.say("error", "reload rejected", cause=event.error)
        earlier = self._state.rollout.covers if self._state.rollout else 0
        end_reload(self._state, self._orders, self._state.covered, self._state.last_error, after=earlier)
        self._loading_answered()

    def _loading_answered(self) -> None:
        self._state.loading = False
        self._load_what_waits()

    def _load_what_waits(self) -> None:
        if self._state.load_again and not self._state.leaving:
            self._state.load_again = False
            self._load_config()

    def _scale(self, event: ev.Scale) -> None:
        wanted = event.to or self._state.size + event.by
        self._state.size = min(max(wanted, SIZE_MIN), SIZE_MAX)
        self._orders.say("info", "scaled", size=self._state.size)


def _deadline(now: float, timeout_s: float) -> float:
    return now + timeout_s if timeout_s else 0.0
