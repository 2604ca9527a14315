"""Random lives of the supervisor in a model world: the laws hold after every event, and every trouble ends.

The laws themselves are asserted in world.py at each action. FORKSERVE_LIVES=10 lives ten times as many lives.
"""

import os
from collections.abc import Callable
from enum import Enum, auto

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forkserve.master import actions as do
from forkserve.master import events as ev
from forkserve.master.records import Phase, Stage
from forkserve.typed import replaced
from tests.unit.world import Child, Mood, World

LIVES = float(os.environ.get("FORKSERVE_LIVES", "1"))
BACKOFF_S = 30.0 * 1.2
HUP, TERM, INT, TTIN, TTOU, USR1 = ev.Reload(), ev.Drain(), ev.Stop(), ev.Scale(1), ev.Scale(-1), ev.ReopenLogs()


class Step(Enum):
    """What may happen next; it is a tick where it cannot happen."""

    TICK = auto()  # the first: a failing life shrinks towards it
    FORK = auto()
    FORK_FAILS = auto()
    READY = auto()
    BOOT_FAILS = auto()
    OBEY = auto()
    CRASH = auto()
    RETIRE_ITSELF = auto()
    REAP = auto()
    OVERSLEEP = auto()
    OVERDUE = auto()
    LOAD = auto()
    LOAD_AND_RESIZE = auto()
    REJECT = auto()
    STRAY = auto()
    HUP = auto()
    TTIN = auto()
    TTOU = auto()
    USR1 = auto()
    TERM = auto()
    INT = auto()


WISHES: dict[Step, ev.Wish] = {
    Step.HUP: HUP, Step.TTIN: TTIN, Step.TTOU: TTOU, Step.USR1: USR1, Step.TERM: TERM, Step.INT: INT,
}  # fmt: skip
ENDINGS = (Step.TERM, Step.INT)
# A life that is drawn evenly hardly gets anywhere: this is what a real one is mostly made of.
OFTEN = [Step.FORK] * 12 + [Step.READY] * 12 + [Step.OBEY] * 6 + [Step.REAP] * 6 + [Step.LOAD] * 6
PAUSES_S = [0, 0, 0, 0, 0, 0.1, 0.1, 0.1, 0.6, 2.5, 12.0]

policies = st.builds(
    ev.Policy,
    size=st.integers(1, 4),
    surge=st.integers(1, 3),
    boot_timeout_s=st.sampled_from([0.0, 1.0, 10.0]),
    grace_s=st.sampled_from([0.0, 0.5, 5.0, 30.0]),
    reload_retries=st.integers(0, 2),
    reload_timeout_s=st.sampled_from([0.0, 5.0, 60.0]),
)
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


def live(world: World, life: Life) -> None:
    for step, turn, pause_s in life:
        world.now += pause_s
        happen(world, step, turn)


def happen(world: World, step: Step, turn: int) -> None:
    booting = _pick(world.booting(), turn)
    serving = _pick(world.serving(), turn)
    someone = _pick(world.forked(), turn)
    leaving = _pick([child for child in world.forked() if child.asked or child.leaves], turn)
    killed = _pick([child for child in world.forked() if child.killed_at is not None], turn)
    match step:
        case Step.FORK | Step.FORK_FAILS if world.unanswered:
            world.answer_fork("EAGAIN" if step is Step.FORK_FAILS else "")
        case Step.LOAD | Step.LOAD_AND_RESIZE if world.loads:
            world.answer_load(replaced(world.policy, size=turn + 1), resize=step is Step.LOAD_AND_RESIZE)
        case Step.REJECT if world.loads:
            world.answer_load(error="bad")
        case Step.READY if booting:
            world.say_ready(booting)
        case Step.BOOT_FAILS if booting:
            world.say_boot_failed(booting)
            world.end(booting, code=3)
        case Step.OBEY if leaving:
            world.end(leaving)
        case Step.CRASH if someone:
            world.end(someone, *((1, 0), (0, 11), (0, 9), (0, 0))[turn])
        case Step.RETIRE_ITSELF if serving:
            world.say_retiring(serving)
        case Step.REAP if killed:
            world.end(killed, signal=9)
        case Step.OVERDUE | Step.OVERSLEEP if serving:
            world.say_overdue(serving, overslept=step is Step.OVERSLEEP)
        case Step.STRAY:
            _tell_nonsense(world, turn)
        case _:
            world.tell(WISHES.get(step, ev.Ticked()))


def _pick(children: list[Child], turn: int) -> Child | None:
    return children[turn % len(children)] if children else None


def _tell_nonsense(world: World, turn: int) -> None:
    """Facts about nobody, and answers that nobody waits for, change nothing."""
    nobody = 10_000
    facts = (ev.WorkerReady(nobody), ev.WorkerExited(nobody, 0, 9), ev.Forked(nobody), ev.WorkerRetiring(nobody, ""))
    world.tell(ev.Ticked())  # what time alone brings
    assert world.tell(facts[turn]) == []
    if not world.loads:
        assert world.tell(ev.ConfigRejected("stray")) == []


def served(policy: ev.Policy) -> World:
    """A world whose first start succeeded."""
    world = World(policy)
    world.go_on(5)
    assert world.mind.phase is Phase.SERVING
    assert world.at_full_strength()
    return world


@examples(300)
@given(policies, lives() | lives(*ENDINGS), st.sampled_from(Mood), st.booleans())
def test_every_life_keeps_the_laws_and_ends_when_it_is_drained(
    policy: ev.Policy, life: Life, mood: Mood, start_well: bool
) -> None:
    world = served(policy) if start_well else World(policy)
    live(world, life)
    if not world.exits:
        world.tell(TERM)
        world.go_on(max(world.policy.grace_s, 1.0) + 10, mood)
    assert len(world.exits) == 1
    assert world.mind.records == ()


@examples(200)
@given(policies, lives(), st.sampled_from(Mood))
def test_every_life_ends_within_two_seconds_of_a_stop(policy: ev.Policy, life: Life, mood: Mood) -> None:
    world = served(policy)
    live(world, life)
    world.tell(INT)
    world.go_on(2.1, mood)
    assert len(world.exits) == 1


@examples(300)
@given(policies, lives(*ENDINGS))
def test_every_life_recovers_once_the_world_is_healthy(policy: ev.Policy, life: Life) -> None:
    world = served(policy)
    live(world, life)
    world.go_on(BACKOFF_S + 20)
    assert world.at_full_strength(), world.mind.records
    assert world.mind.serving == world.mind.generation
    assert all(record.stage is Stage.READY for record in world.mind.records)
    assert not world.mind.degraded
    assert not world.mind.reloading


@examples(200)
@given(policies, lives(*ENDINGS), st.sampled_from(Mood))
def test_every_reload_ends(policy: ev.Policy, life: Life, mood: Mood) -> None:
    world = served(replaced(policy, reload_timeout_s=policy.reload_timeout_s or 20.0))
    live(world, life)
    world.tell(HUP)
    world.go_on(world.policy.reload_timeout_s + 1, mood)
    assert not world.mind.reloading


@examples(100)
@given(policies, st.sampled_from([Mood.FAILING, Mood.HANGING]), st.integers(1, 3))
def test_promise_02_broken_code_never_costs_capacity(policy: ev.Policy, mood: Mood, reloads: int) -> None:
    world = served(replaced(policy, reload_timeout_s=policy.reload_timeout_s or 600.0))
    before = [child.id for child in world.serving()]
    for reload in range(2, reloads + 2):
        world.tell(HUP)
        world.go_on(700, mood)
        assert [child.id for child in world.serving()] == before
        assert f"reload to {reload} failed" in world.mind.last_error
        assert world.mind.backoff_level == 0
    world.tell(HUP)
    world.go_on(20)
    assert world.at_full_strength()
    assert world.mind.serving == world.mind.generation == reloads + 2
    assert world.mind.last_error == ""


@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize("mood", [Mood.FAILING, Mood.HANGING])
def test_promise_06_crash_loop_is_bounded_and_leaves_survivors_alone(jitter: float, mood: Mood) -> None:
    world = World(ev.Policy(size=4, boot_timeout_s=2.0), jitter)
    world.go_on(5)
    survivor, *others = world.serving()
    for child in others:
        world.end(child, signal=11)
    for minute in range(10):
        world.heard.clear()
        world.go_on(60, mood)
        spawns = [action for action in world.heard if isinstance(action, do.Spawn)]
        lines = [action for action in world.heard if isinstance(action, do.Say) and action.level != "debug"]
        assert len(spawns) <= (10 if minute == 0 else 3)
        assert len(lines) <= (30 if minute == 0 else 9)
        assert sum(bool(line.detail) for line in lines) <= (1 if minute == 0 else 0)
        assert world.mind.degraded
    assert world.serving() == [survivor]
    world.go_on(BACKOFF_S + 5)
    assert world.at_full_strength()


def test_promise_06_reload_ends_the_back_off() -> None:
    world = served(ev.Policy(size=2))
    world.end(world.serving()[0], signal=11)
    world.go_on(300, Mood.FAILING)
    assert world.mind.backoff_level > 5
    world.tell(HUP)
    world.go_on(3)
    assert world.at_full_strength()


def test_promise_06_worker_that_dies_as_soon_as_it_is_ready_backs_off_too() -> None:
    world = served(ev.Policy(size=2))
    world.heard.clear()
    end = world.now + 120
    while world.now < end:
        world.go_on(0.2)
        for child in world.serving():
            world.end(child, code=1)
    assert sum(isinstance(action, do.Spawn) for action in world.heard) <= 24
    assert world.mind.backoff_level >= 6


@examples(300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([HUP, HUP, TTIN, TTOU, USR1, TERM, INT, ev.Ticked()]), st.integers(0, 25), st.booleans()
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_promise_09_every_interleaving_of_signals_converges(
    storm: list[tuple[ev.Event, int, bool]], may_end: bool
) -> None:
    world = served(ev.Policy(size=2))
    sent = [event for event, _, _ in storm if may_end or event not in (TERM, INT)]
    for event, gap_ms, breathe in storm:
        if event in sent:
            world.now += gap_ms / 1000
            world.tell(event)
            if breathe:
                world.settle(Mood.HEALTHY)
    world.go_on(60)
    if TERM in sent or INT in sent:
        assert world.exits == [0]
        return
    assert world.at_full_strength()
    assert not world.load_due, "a reload was forgotten"
    assert (world.mind.generation > 1) == (HUP in sent)
    assert world.mind.generation <= 1 + sent.count(HUP)
    before = world.mind.generation
    world.tell(HUP)
    world.go_on(20)
    assert world.mind.generation == before + 1, "deaf after the storm"
    assert world.at_full_strength()


@examples(100)
@given(policies)
def test_first_start_that_cannot_boot_exits_with_the_traceback_last(policy: ev.Policy) -> None:
    world = World(policy)
    world.go_on(60, Mood.FAILING)
    *_, last_line, exit = world.heard
    assert exit == do.Exit(3)
    assert isinstance(last_line, do.Say)
    assert (last_line.level, last_line.detail) == ("critical", "Traceback\nImportError: no")
    assert not world.was_ready


def test_half_a_day_of_failing_boots_is_survived() -> None:
    world = served(ev.Policy(size=1))
    world.end(world.serving()[0], signal=11)
    world.go_on(12 * 3600, Mood.FAILING)
    assert world.mind.backoff_level > 1024  # 2.0**1024 is no float
    world.go_on(BACKOFF_S + 5)
    assert world.at_full_strength()
