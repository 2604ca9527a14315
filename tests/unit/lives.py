"""What a random life of the supervisor consists of: steps that may happen, to whom, and after which pause.

FORKSERVE_LIVES=10 lives ten times as many lives.
"""

import os
from collections.abc import Callable
from enum import Enum, auto

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from forkserve.master import events as ev
from forkserve.master.records import Phase
from forkserve.typed import replaced
from tests.unit.child import Child
from tests.unit.world import World

LIVES = float(os.environ.get("FORKSERVE_LIVES", "1"))
BACKOFF_S = 30.0 * 1.2
HUP, TERM, INT, TTIN, TTOU, USR1 = ev.Reload(), ev.Drain(), ev.Stop(), ev.Scale(1), ev.Scale(-1), ev.ReopenLogs()
USR2 = ev.Upgrade()


class Step(Enum):
    """What may happen next; it is a tick where it cannot happen."""

    TICK = auto()  # the first: a failing life shrinks towards it
    FORK = auto()
    FORK_FAILS = auto()
    READY = auto()
    BOOT_FAILS = auto()
    OBEY = auto()
    CRASH = auto()
    CRASH_AT_WORK = auto()
    SPENT = auto()
    RETIRE_ITSELF = auto()
    TIRE = auto()
    TIRE_ALL = auto()
    GROW_TOO_BIG = auto()
    STOP = auto()
    CONTINUE = auto()
    REAP = auto()
    OVERSLEEP = auto()
    OVERDUE = auto()
    LOAD = auto()
    LOAD_AND_RESIZE = auto()
    REJECT = auto()
    STRAY = auto()
    USR2 = auto()
    ACCEPT_TARGET = auto()
    REFUSE_TARGET = auto()
    EXEC = auto()
    EXEC_FAILS = auto()
    HUP = auto()
    TTIN = auto()
    TTOU = auto()
    SCALE_TO = auto()
    USR1 = auto()
    TERM = auto()
    INT = auto()


WISHES: dict[Step, ev.Wish] = {
    Step.USR2: USR2, Step.HUP: HUP, Step.TTIN: TTIN, Step.TTOU: TTOU, Step.USR1: USR1, Step.TERM: TERM, Step.INT: INT,
}  # fmt: skip
ENDINGS = (Step.TERM, Step.INT)
# A life that is drawn evenly hardly gets anywhere: this is what a real one is mostly made of.
OFTEN = [Step.FORK] * 12 + [Step.READY] * 12 + [Step.OBEY] * 6 + [Step.REAP] * 6 + [Step.LOAD] * 6 + [Step.HUP] * 2
OFTEN += [Step.USR2] * 2 + [Step.ACCEPT_TARGET] * 4 + [Step.EXEC] * 4
PAUSES_S = [0, 0, 0, 0, 0, 0.1, 0.1, 0.1, 0.6, 2.5, 12.0]

policies = st.builds(
    ev.Policy,
    size=st.integers(1, 4),
    surge=st.integers(0, 3),
    surge_percent=st.sampled_from([0, 0, 0, 25, 100]),
    retiring=st.integers(0, 2),
    retiring_percent=st.sampled_from([0, 0, 50, 100]),
    boot_timeout_s=st.sampled_from([0.0, 1.0, 10.0]),
    grace_s=st.sampled_from([0.0, 0.5, 5.0, 30.0]),
    reload_retries=st.integers(0, 2),
    reload_timeout_s=st.sampled_from([0.0, 5.0, 60.0]),
    reload_settle_s=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    timeout_s=st.sampled_from([0.0, 1.0, 30.0]),
    drain_delay_s=st.sampled_from([0.0, 0.0, 0.5, 10.0]),
)
# Where the old one leaves before its replacement is there, it costs what these laws say that nothing costs.
with_surge = policies.map(lambda policy: replaced(policy, surge=max(1, policy.surge)))
Life = list[tuple[Step, int, float]]


def lives(*without: Step) -> st.SearchStrategy[Life]:
    """Lists of what happens, to whom (by turn), and how many seconds after the last."""
    steps = st.sampled_from([step for step in [*Step, *OFTEN] if step not in without])
    return st.lists(st.tuples(steps, st.integers(0, 3), st.sampled_from(PAUSES_S)), min_size=40, max_size=80)


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=max(1, int(count * LIVES)), deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip


def served(policy: ev.Policy) -> World:
    """A world whose first start succeeded."""
    world = World(policy)
    world.go_on(5)
    assert world.mind.phase is Phase.SERVING
    assert world.at_full_strength()
    return world


def live(world: World, life: Life) -> None:
    for step, turn, pause_s in life:
        world.now += pause_s
        happen(world, step, turn)


def happen(world: World, step: Step, turn: int) -> None:
    booting = _pick([child for child in world.booting() if not child.stopped], turn)
    serving = _pick(world.serving(), turn)
    someone = _pick(world.forked(), turn)
    match step:
        case Step.FORK | Step.FORK_FAILS if world.unanswered:
            world.answer_fork("EAGAIN" if step is Step.FORK_FAILS else "")
        case Step.LOAD | Step.LOAD_AND_RESIZE if world.loads:
            world.answer_load(replaced(world.policy, size=turn + 1), resize=step is Step.LOAD_AND_RESIZE)
        case Step.REJECT if world.loads:
            world.answer_load(error="bad")
        case Step.ACCEPT_TARGET | Step.REFUSE_TARGET if world.trying:
            world.answer_trial("SyntaxError" if step is Step.REFUSE_TARGET else "")
        case Step.EXEC | Step.EXEC_FAILS if world.exec_due:
            world.exec("no memory" if step is Step.EXEC_FAILS else "")
        case Step.READY if booting:
            world.say_ready(booting)
        case Step.BOOT_FAILS if booting:
            world.say_boot_failed(booting)
            world.end(booting, code=3)
        case Step.CRASH if someone:
            world.end(someone, *((1, 0), (0, 11), (0, 9), (0, 0))[turn])
        case Step.CRASH_AT_WORK if serving:
            world.end(serving, *((1, 0), (0, 11), (0, 9), (0, 0))[turn], began=True, served=turn % 2 == 0)
        case Step.SPENT:
            dumped = [c for c in world.forked() if c.dumped and c.overdue and not c.spent and c.killed_at is None]
            if (child := _pick(dumped, turn)) and not child.stopped:
                world.say_spent(child)
            else:
                world.tell(ev.Ticked())
        case Step.OBEY | Step.REAP | Step.STOP | Step.CONTINUE | Step.GROW_TOO_BIG:
            _happen_to_a_process(world, step, turn)
        case Step.RETIRE_ITSELF if serving:
            world.say_retiring(serving, told=turn > 1)
        case Step.TIRE if serving:
            world.say_tired(serving)
        case Step.TIRE_ALL:
            for child in world.serving():
                if child.serves:
                    world.say_tired(child)
        case Step.OVERDUE | Step.OVERSLEEP if serving:
            world.say_overdue(serving, overslept=step is Step.OVERSLEEP)
        case Step.STRAY:
            _tell_nonsense(world, turn)
        case Step.SCALE_TO:
            world.tell(ev.Scale(to=turn + 1))
        case _:
            world.tell(WISHES.get(step, ev.Ticked()))


def _happen_to_a_process(world: World, step: Step, turn: int) -> None:
    running = [child for child in world.forked() if not child.stopped]
    leaving = _pick([child for child in running if child.asked or child.leaves], turn)
    killed = _pick([child for child in world.forked() if child.killed_at is not None], turn)
    alive = _pick([child for child in running if not (child.dumped or child.killed_at)], turn)
    paused = _pick([child for child in world.forked() if child.stopped or child.resumes], turn)
    match step:
        case Step.OBEY if leaving:
            world.end(leaving)
        case Step.REAP if killed:
            world.end(killed, signal=9)
        case Step.STOP if alive:
            boots = alive in world.booting()
            world.say_stopped(alive)
            if boots and alive.id in world.children:  # it had said READY before: signals are read first
                world.say_ready(alive)
        case Step.CONTINUE if paused:
            world.say_continued(paused)
        case Step.GROW_TOO_BIG if alive:
            world.say_too_big(alive)
        case _:
            world.tell(ev.Ticked())


def _pick(children: list[Child], turn: int) -> Child | None:
    return children[turn % len(children)] if children else None


def _tell_nonsense(world: World, turn: int) -> None:
    """Facts about nobody, and answers that nobody waits for, change nothing."""
    nobody = 10_000
    facts = (
        (ev.WorkerReady(nobody), ev.WorkerTired(nobody, ""), ev.WorkerSpent(nobody)),
        (ev.WorkerExited(nobody, 0, 9), ev.WorkerTooBig(nobody, 2, 1)),
        (ev.Forked(nobody), ev.WorkerStopped(nobody)),
        (ev.WorkerRetiring(nobody, ""), ev.WorkerContinued(nobody)),
    )
    world.tell(ev.Ticked())  # what time alone brings
    for fact in facts[turn]:
        assert world.tell(fact) == []
    if not world.loads:
        assert world.tell(ev.ConfigRejected("stray")) == []
        assert world.tell(ev.ConfigLoaded(world.policy)) == []
