"""The plan: a few rules in fixed order that make the children match the target.

Pure, in the master; the supervisor runs it after every event. Each rule is level-triggered: it looks at what is,
not at what happened, so planning twice in a row says nothing the second time. Order: kill the overdue, give up
what cannot succeed, then either wind down or spawn the missing and retire the excess, then tell where we stand.
"""

from forkserve.errors import ExitCode
from forkserve.master import upgrading
from forkserve.master.actions import Exit, Notify, ReloadEnded, Settle, ShutDoors
from forkserve.master.orders import Orders
from forkserve.master.records import UNBORN, Phase, Record, Stage
from forkserve.master.state import State, status, strength

START_TRIES = 3  # failed boots after which a first start gives up


def plan(state: State, orders: Orders, now: float) -> None:
    """Order what is missing between the target and the children as they are now."""
    _kill_overdue(state, orders, now)
    _give_up_start(state, orders, now)
    if state.leaving:
        _wind_down(state, orders, now)
        announce(state, orders)
        orders.answer_now()
        _exit_when_alone(state, orders)
    else:
        _give_up_reload(state, orders, now)
        _abandon_unwanted(state, orders, now)
        _spawn_missing(state, orders, now)
        _note_proofs(state, now)
        _retire_excess(state, orders, now)
        _make_room(state, orders, now)
        _note_serving(state, orders)
        _note_rolled_out(state, orders, now)
        _retire_excess(state, orders, now)  # now also those of the new generation that tired while it was on trial
        _make_room(state, orders, now)
        _spawn_missing(state, orders, now)  # also where those stood who only finish by now
        _settle(state, orders)
        _note_strength(state, orders)
        announce(state, orders)
        orders.answer_now()


def leave(state: State, orders: Orders, phase: Phase, now: float) -> None:
    """Begin to wind down, or go on faster; a reload is over, whatever it was at."""
    if state.phase is Phase.STOPPING:
        return
    if state.reloading:
        orders.say("info", "reload abandoned", gen=state.generation)
    upgrading.abandon(state, orders)
    end_reload(state, orders, state.wishes, "abandoned: the service is stopping")
    state.drain_at = now + state.policy.drain_delay_s
    state.rollout = None
    state.loading = state.load_again = state.degraded = False
    state.phase = phase
    orders.say("info", phase.value, live=len(state.records))


def end_reload(state: State, orders: Orders, upto: int, error: str = "", traceback: str = "", after: int = 0) -> None:
    """Answer the reload wishes up to this number, each once; those up to ``after`` wait for one that goes on."""
    due = [number for number in state.unanswered if after < number <= upto]
    state.unanswered = [number for number in state.unanswered if number not in due]
    while due:  # in ranges: what lies between may have been answered before
        run = [number for ahead, number in enumerate(due) if number == due[0] + ahead]
        orders.answer_later(ReloadEnded(run[0] - 1, run[-1], state.generation, error, traceback))
        due = due[len(run) :]


def announce(state: State, orders: Orders) -> None:
    """Tell the service manager where we stand, if that is news."""
    serving = state.phase is Phase.SERVING
    ready, reloading = serving and not state.reloading, serving and state.reloading
    _notify(state, orders, Notify(status(state), ready, reloading, stopping=state.leaving))


def _notify(state: State, orders: Orders, notify: Notify) -> None:
    if notify != state.announced:
        state.announced = notify
        orders.add(notify)


def _kill_overdue(state: State, orders: Orders, now: float) -> None:
    for record in state.records:
        if not record.is_due(now):
            continue
        if record.stage is Stage.KILLED:
            orders.kill(record, now)
        elif record.stage is Stage.READY:
            orders.condemn(record, now, f"stopped for {state.policy.timeout_s:g} s")
            orders.say("error", "worker overdue", record, cause=record.why)
        elif record.stage is Stage.RETIRING:
            orders.condemn(record, now, "grace over")
            orders.say("warning", "worker overdue", record, cause=record.why)
        else:
            orders.condemn(record, now, f"not ready within {state.policy.boot_timeout_s:g} s")
            pause_s = state.count_failure(record, now, f"worker was {record.why}")
            orders.say("error", "worker overdue", record, cause=record.why, retry_s=pause_s)


def _give_up_start(state: State, orders: Orders, now: float) -> None:
    """End a first start on which nobody was ever ready, so that whoever started us learns why at once."""
    hopeless = not state.ever_ready and state.start_failures >= START_TRIES
    if state.phase is Phase.STARTING and hopeless and not state.records.staged(*UNBORN):
        state.exit_code = state.trouble.exit_code or ExitCode.APP_IMPORT.value
        leave(state, orders, Phase.STOPPING, now)


def _wind_down(state: State, orders: Orders, now: float) -> None:
    why = state.phase.value
    for record in state.records.staged(Stage.BOOTING):
        orders.abandon(record, now, why)
    if state.phase is Phase.DRAINING and now < state.drain_at:
        return
    if not state.shut:
        state.shut = True
        orders.add(ShutDoors())
    if state.phase is Phase.DRAINING:
        for record in state.records.staged(Stage.READY):
            orders.retire(record, now, state.policy.grace_s, why, drain=True)
        for record in state.records.staged(Stage.RETIRING):
            if not (record.drains or record.hurried):
                orders.drain(record)
    else:
        for record in state.records.staged(Stage.READY, Stage.RETIRING):
            if not record.hurried:
                orders.hurry(record, now, why)


def _exit_when_alone(state: State, orders: Orders) -> None:
    if len(state.records):
        return
    if state.exit_code:
        trouble = state.trouble
        detail, cause, tries = trouble.traceback, trouble.error, state.start_failures
        orders.say("critical", "first start failed", None, detail, cause=cause, tries=tries)
    orders.add(Exit(state.exit_code))
    state.exited = True


def _give_up_reload(state: State, orders: Orders, now: float) -> None:
    """End a reload that cannot boot or takes too long; the generation that served before is wanted again."""
    rollout = state.rollout
    if rollout is None:
        return
    timed_out = rollout.is_due(now) and not state.has_taken_over
    if rollout.failures <= state.policy.reload_retries and not timed_out:
        return
    causes = [f"not done after {state.policy.reload_timeout_s:g} s"] if timed_out else []
    causes += [state.trouble.error] if state.trouble.error else []
    cause = "; ".join(causes)
    state.last_error = f"reload to {rollout.generation} failed: {cause}"
    state.rollout = None
    if fallback := state.fallback():
        state.generation = state.serving = fallback
        state.end_backoff()
    orders.say("error", "reload failed", None, state.trouble.traceback, gen=rollout.generation, cause=cause)
    _settle(state, orders)
    end_reload(state, orders, rollout.covers, state.last_error, state.trouble.traceback)


def _abandon_unwanted(state: State, orders: Orders, now: float) -> None:
    """Kill what boots for another generation, and the youngest that boot beyond the size.

    A FORKING child has no process yet: it is looked at again when it boots.
    """
    for record in state.records.staged(Stage.BOOTING):
        if record.generation != state.generation:
            orders.abandon(record, now, "generation abandoned")
    unborn = state.records.staged(*UNBORN, generation=state.generation)
    lasting = [r for r in state.records.staged(Stage.READY, generation=state.generation) if not r.tired]
    excess = len(unborn) + len(lasting) - state.size
    for record in unborn[::-1][: max(0, excess)]:
        if record.stage is Stage.BOOTING:
            orders.abandon(record, now, "scaled down")


def _spawn_missing(state: State, orders: Orders, now: float) -> None:
    """Spawn within the surge; while boots fail, one child at a time probes whether they still do. So it is where more
    workers die at work than is usual, but then without a pause."""
    if not state.backoff.allows(now):
        return
    coming = state.records.staged(*UNBORN, Stage.READY, generation=state.generation)
    missing = state.size - len([record for record in coming if not record.tired])
    room = state.room
    if state.backoff.level or state.losses.few_again_at(now, state.size) is not None:
        room = min(room, 1 - len(state.records.staged(*UNBORN)))
    for _ in range(min(missing, room)):
        orders.spawn(state.records.add(state.generation, now))


def _make_room(state: State, orders: Orders, now: float) -> None:
    """Without a surge the old one leaves first: one at a time, while everybody else serves, and where a new generation
    is on trial none but the first."""
    ready = state.records.staged(Stage.READY)
    if state.has_surge or not len(ready) == len(state.records) == state.size or not state.backoff.allows(now):
        return
    if state.on_trial and any(record.generation == state.generation for record in ready):
        return
    outworn = [record for record in ready if record.generation != state.generation or record.tired]
    for record in sorted(outworn, key=lambda record: _place_in_line(state, record))[:1]:
        orders.retire(record, now, state.policy.grace_s, _why_it_goes(state, record))


def _note_proofs(state: State, now: float) -> None:
    """A generation has proved itself when one of it has been READY for as long as a new one must be."""
    ready = state.records.staged(Stage.READY)
    state.unproven -= {record.generation for record in ready if state.settles_at(record) <= now}


def _retire_excess(state: State, orders: Orders, now: float) -> None:
    """Retire READY children beyond the size: those of unwanted generations first, then the tired, then the oldest.

    Children of a generation that is on trial do not count; of the unwanted ones those that never proved themselves
    go first.
    """
    ready = state.records.staged(Stage.READY)
    if state.on_trial:
        ready = [record for record in ready if record.generation != state.generation]
    ready.sort(key=lambda record: _place_in_line(state, record))
    for record in ready[: max(0, len(ready) - state.size)]:
        orders.retire(record, now, state.policy.grace_s, _why_it_goes(state, record))


def _place_in_line(state: State, record: Record) -> tuple[bool, bool, bool, int, int]:
    """Who leaves first has the least."""
    is_wanted, is_proven = record.generation == state.generation, record.generation not in state.unproven
    return is_wanted, is_proven, not record.tired, record.generation, record.id


def _why_it_goes(state: State, record: Record) -> str:
    return record.tired or ("scaled down" if record.generation == state.generation else "replaced")


def _note_serving(state: State, orders: Orders) -> None:
    if state.phase is Phase.STARTING and state.ready >= state.size:
        state.phase = Phase.SERVING
        state.serving = state.serving_before() or state.generation
        orders.say("info", "serving", gen=state.serving, workers=state.ready)
        # The service manager waits for this READY=1 even if a reload is under way, which announce() tells next.
        _notify(state, orders, Notify(strength(state, state.serving), ready=True))


def _note_rolled_out(state: State, orders: Orders, now: float) -> None:
    """The wanted generation took over, by a reload or by what came of a failed one."""
    if not state.rolled_out() or (state.rollout is None and state.serving == state.generation):
        return
    rollout, state.rollout = state.rollout, None
    state.serving = state.generation
    if rollout is None or rollout.covers == state.covered:  # else a later one was rejected, and that stays known
        state.last_error = ""
    if rollout:
        took_s = now - rollout.began_at
        orders.say("info", "reload done", gen=state.generation, workers=state.ready, took_s=took_s)
        _settle(state, orders)
        end_reload(state, orders, rollout.covers)


def _settle(state: State, orders: Orders) -> None:
    """Close what ended reloads left open; not while one is under way, since it may have opened its own already."""
    if state.unsettled and not state.reloading:
        state.unsettled = False
        state.doorless = {state.serving, *(record.generation for record in state.records)} - {state.generation}
        orders.add(Settle(state.generation))


def _note_strength(state: State, orders: Orders) -> None:
    """Say once that failing boots keep us below strength, and once that this is over and will hold."""
    short = state.ready < state.size
    if state.degraded and state.ready - len(state.proofs()) >= state.size:
        state.degraded = False
        orders.say("info", "full strength again", workers=state.ready)
    failing = state.phase is Phase.SERVING and not state.reloading and state.backoff.level > 0
    if failing and short and not state.degraded:
        state.degraded = True
        orders.say("warning", "degraded", workers=state.ready, size=state.size, cause=state.trouble.error)
