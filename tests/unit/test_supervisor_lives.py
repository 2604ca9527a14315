"""Random lives of the supervisor in a model world: the laws hold after every event, and every trouble ends.

The laws themselves are asserted in world.py at each action; what happens in a life is in lives.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.master import actions as do
from forkserve.master import events as ev
from forkserve.master.records import Stage
from forkserve.typed import replaced
from tests.unit.child import NEVER, Mood
from tests.unit.lives import (
    BACKOFF_S,
    ENDINGS,
    HUP,
    INT,
    TERM,
    Life,
    examples,
    live,
    lives,
    policies,
    served,
    with_surge,
)
from tests.unit.world import World


@examples(400)
@given(policies, lives() | lives(*ENDINGS), st.sampled_from(Mood), st.booleans())
def test_every_life_keeps_the_laws_and_ends_when_it_is_drained(
    policy: ev.Policy, life: Life, mood: Mood, start_well: bool
) -> None:
    world = served(policy) if start_well else World(policy)
    live(world, life)
    if not world.exits:
        world.tell(TERM)
        world.go_on(world.policy.drain_delay_s + max(world.policy.grace_s, 1.0) + 10, mood)
    assert len(world.exits) == 1
    assert world.mind.records == ()
    assert not world.waiting


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
    assert not any(child.tired or child.patience_until < NEVER for child in world.serving())
    assert not world.mind.degraded
    assert not world.mind.reloading
    assert not world.load_due


@examples(200)
@given(policies, lives(*ENDINGS), st.sampled_from(Mood))
def test_every_reload_ends(policy: ev.Policy, life: Life, mood: Mood) -> None:
    world = served(replaced(policy, reload_timeout_s=policy.reload_timeout_s or 20.0))
    live(world, life)
    world.tell(HUP)
    world.go_on(world.policy.reload_timeout_s + 1, mood)
    assert not world.mind.reloading
    assert not world.waiting


@examples(100)
@given(with_surge, st.sampled_from([Mood.FAILING, Mood.HANGING, Mood.FRAIL]), st.integers(1, 3))
def test_promise_02_broken_code_never_costs_capacity(policy: ev.Policy, mood: Mood, reloads: int) -> None:
    settle_s = policy.reload_settle_s or 1.0
    world = served(replaced(policy, reload_timeout_s=policy.reload_timeout_s or 600.0, reload_settle_s=settle_s))
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


@examples(100)
@given(with_surge, st.sampled_from([Mood.FAILING, Mood.HANGING]), st.integers(1, 4))
def test_who_is_tired_serves_on_until_its_replacement_does(policy: ev.Policy, mood: Mood, tired: int) -> None:
    world = served(policy)
    before = world.serving()
    for child in before[:tired]:
        world.say_tired(child)
    world.heard.clear()
    world.go_on(100, mood)
    assert world.serving() == before
    assert world.count(do.Retire) + world.count(do.Hurry) == 0
    for child in world.booting():  # one that hangs, where no boot timeout ends it
        world.end(child, signal=9)
    world.heard.clear()
    world.go_on(BACKOFF_S + 10)
    assert world.at_full_strength()
    assert [child for child in world.serving() if child in before] == before[tired:]
    assert world.count(do.Spawn) == min(tired, len(before)), "recycled more than were tired"


@examples(100)
@given(policies, st.sampled_from([Mood.FAILING, Mood.FRAIL]), st.sampled_from([0.5, 1.0]))
def test_promise_02_without_a_surge_broken_code_costs_one_worker_and_the_old_generation_comes_back(
    policy: ev.Policy, mood: Mood, settle_s: float
) -> None:
    bare = replaced(policy, surge=0, surge_percent=0, reload_settle_s=settle_s, reload_timeout_s=600.0)
    world = served(bare)
    before = len(world.serving())
    world.heard.clear()
    world.tell(HUP)
    world.go_on(300, mood)
    assert world.count(do.Retire) + world.count(do.Hurry) == 1
    assert len([child for child in world.serving() if child.generation == 1]) >= before - 1
    assert not world.mind.reloading
    if before > 1 or mood is Mood.FAILING:
        assert world.mind.generation == 1
    world.go_on(BACKOFF_S + 20)
    assert world.at_full_strength()
    world.tell(HUP)
    world.go_on(60 + before * (settle_s + 10))
    assert world.at_full_strength()
    assert world.mind.serving == world.mind.generation == 3


@examples(100)
@given(policies, st.integers(1, 4), st.sampled_from([0.5, 1.5, 29.5, 30.5]))
def test_stopped_worker_is_replaced_only_after_its_timeout(policy: ev.Policy, stopped: int, pause_s: float) -> None:
    world = served(policy)
    before = world.serving()
    for child in before[:stopped]:
        world.say_stopped(child)
    world.go_on(pause_s)
    patient = pause_s <= policy.timeout_s or not policy.timeout_s
    for child in before[:stopped]:
        assert (child in world.serving()) is patient
        if child.stopped:
            world.say_continued(child)
    world.go_on(BACKOFF_S + 20)
    assert world.at_full_strength()
    assert [child for child in before if child in world.serving()] == (before if patient else before[stopped:])


@examples(100)
@given(policies, st.booleans())
def test_graceful_stop_goes_on_serving_for_the_drain_delay(policy: ev.Policy, hup_first: bool) -> None:
    world = served(replaced(policy, drain_delay_s=policy.drain_delay_s or 3.0))
    before = world.serving()
    if hup_first:
        world.tell(HUP)
    world.tell(TERM)
    world.go_on(world.policy.drain_delay_s - 0.01)
    assert world.serving() == before
    assert not world.shut
    world.go_on(0.02)
    assert world.exits == [0]
    assert world.count(do.ShutDoors) == 1


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


def test_promise_06_workers_that_die_young_are_spawned_more_and_more_rarely() -> None:
    world = World(ev.Policy(size=4))
    world.go_on(5)
    survivor, *others = world.serving()
    for child in others:
        world.end(child, signal=11)
    for minute in range(10):
        world.heard.clear()
        world.go_on(60, Mood.FRAIL)
        assert world.count(do.Spawn) <= (25 if minute == 0 else 9)
        assert world.mind.degraded
        assert not [line for line in world.heard if isinstance(line, do.Say) and "full strength" in line.sentence]
    assert world.serving()[0] == survivor
    world.go_on(BACKOFF_S + 5)
    assert world.at_full_strength()
    assert not world.mind.degraded


@pytest.mark.parametrize("boot_s", [0.1, 12.0])
def test_promise_06_one_young_death_is_forgiven_and_a_loop_of_them_is_not(boot_s: float) -> None:
    """A slow boot makes no calm: calm is counted up to the birth of who dies."""
    world = World(ev.Policy(size=1, boot_timeout_s=0.0))
    world.go_on(1)
    pauses: list[object] = []
    for _ in range(6):
        [child] = world.serving()
        world.end(child, signal=11)
        [line] = [line for line in world.heard if isinstance(line, do.Say) and line.sentence == "worker exited"][-1:]
        pauses.append(dict(line.fields).get("retry_s"))
        while not world.unanswered:
            world.now += 0.1
            world.tell(ev.Ticked())
        world.answer_fork()
        world.now += boot_s
        world.say_ready(world.booting()[0])
    assert pauses == [None, 0.5, 1.0, 2.0, 4.0, 8.0]


def test_promise_06_page_that_kills_its_worker_never_stops_the_service() -> None:
    """Ten seconds in which four workers die each second, half of them before they have served anything."""
    world = served(ev.Policy(size=2))
    world.heard.clear()
    began = world.now
    for number in range(40):
        world.go_on(0.25)
        victims = world.serving()
        assert victims or world.booting(), "somebody is always on the way"
        for child in victims[:1]:
            world.end(child, signal=11, began=True, served=number % 2 == 0)
    assert world.mind.backoff_level == 0
    assert not world.mind.degraded
    assert world.count(do.Spawn) <= 40
    world.go_on(1)
    assert world.at_full_strength()
    assert world.now - began == 11


def test_promise_06_page_that_kills_its_worker_at_once_is_no_fork_bomb() -> None:
    world = served(ev.Policy(size=16))
    world.heard.clear()
    for _ in range(200):
        world.go_on(0.05)  # a boot takes 0.1 s
        for child in world.serving():
            world.end(child, signal=11, began=True, served=True)
    assert world.count(do.Spawn) <= 10 * (16 + 10) + 16, "the size in a second, and beyond it one at a time"


@pytest.mark.parametrize("size", [1, 4])
def test_promise_06_five_kills_in_a_row_cost_a_boot_each(size: int) -> None:
    world = served(ev.Policy(size=size))
    for _ in range(5):
        world.end(world.serving()[-1], signal=9)
        world.go_on(0.11)
        assert world.at_full_strength()
    assert not world.mind.degraded


@pytest.mark.parametrize("boot_s", [0.1, 12.0])
def test_promise_06_kills_that_do_not_end_back_off(boot_s: float) -> None:
    """As of the kernel when memory is short. A slow boot makes no calm."""
    world = World(ev.Policy(size=1, boot_timeout_s=0.0))
    world.go_on(1)
    for _ in range(8):
        world.end(world.serving()[0], signal=9)
        while not world.unanswered:
            world.now += 0.1
            world.tell(ev.Ticked())
        world.answer_fork()
        world.now += boot_s
        world.say_ready(world.booting()[0])
    assert world.mind.backoff_level >= 2


def test_young_death_is_forgiven_again_after_a_calm_time() -> None:
    world = World(ev.Policy(size=1))
    for _ in range(3):
        world.go_on(1)
        world.end(world.serving()[0], signal=11)
        assert (world.mind.backoff_level, world.mind.degraded) == (0, False)
        world.go_on(11)
        world.end(world.serving()[0], signal=9)  # it has served for long: its successor is young


def test_promise_06_app_that_leaves_at_every_request_backs_off() -> None:
    world = served(ev.Policy(size=2))
    world.heard.clear()
    end = world.now + 120
    while world.now < end:
        world.go_on(0.2)
        for child in world.serving():
            world.say_retiring(child)
    assert world.count(do.Spawn) <= 24
    assert world.mind.backoff_level >= 6
    world.go_on(BACKOFF_S + 5)
    assert world.at_full_strength()


@examples(100)
@given(with_surge, st.sampled_from([0.5, 1.0, 5.0]))
def test_promise_02_no_old_worker_leaves_before_a_new_one_has_lasted(policy: ev.Policy, settle_s: float) -> None:
    world = served(replaced(policy, reload_settle_s=settle_s, reload_timeout_s=0.0))
    before = world.serving()
    world.tell(HUP)
    world.go_on(0.1 + settle_s - 0.01)
    assert [child for child in before if child.serves] == before
    assert [child for child in world.serving() if child not in before], "a new one serves beside them"
    world.go_on(0.02)
    assert [child for child in before if child.serves] != before
    world.go_on(5)
    assert world.at_full_strength()
    assert not world.mind.reloading


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
