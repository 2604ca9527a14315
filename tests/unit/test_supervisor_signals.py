"""Promise 9 on the mind alone: every order of signals converges, whatever is deployed meanwhile.

FORKSERVE_LIVES=10 runs 10,000 storms.
"""

from dataclasses import dataclass
from enum import Enum

from hypothesis import given
from hypothesis import strategies as st

from forkserve.master import actions as do
from forkserve.master import events as ev
from tests.unit.child import Mood
from tests.unit.lives import HUP, INT, TERM, TTIN, TTOU, USR1, USR2, examples, served
from tests.unit.world import World

# What the hands make of each signal; None: it is no wish.
SIGNALS: dict[str, ev.Wish | None] = {
    "HUP": HUP, "TERM": TERM, "INT": INT, "QUIT": INT, "TTIN": TTIN, "TTOU": TTOU, "USR1": USR1,
    "USR2": USR2, "CHLD": None, "CONT": None,
}  # fmt: skip
ENDINGS = ("TERM", "INT", "QUIT")


class Deployed(Enum):
    """What is on the disk: how children boot, and what is wrong with the settings."""

    GOOD = (Mood.HEALTHY, "")
    BAD_SETTINGS = (Mood.HEALTHY, "unknown setting")
    BROKEN = (Mood.FAILING, "")
    HANGING = (Mood.HANGING, "")


@dataclass
class Model:
    """What a list of signals must lead to."""

    size: int
    smallest: int
    hups: int = 0
    reopened: int = 0
    ends: bool = False

    def meet(self, name: str) -> None:
        self.ends = self.ends or name in ENDINGS
        self.reopened += name == "USR1"
        if not self.ends:
            self.hups += name == "HUP"
            self.size = max(1, self.size + (name == "TTIN") - (name == "TTOU"))
            self.smallest = min(self.smallest, self.size)


Storm = list[tuple[str, int, bool, Deployed]]  # signal, milliseconds since the last, whether the world keeps up, disk
one = st.tuples(
    st.sampled_from(["HUP", "HUP", *SIGNALS]),
    st.integers(0, 25),
    st.booleans(),
    st.sampled_from([Deployed.GOOD, *Deployed]),
)
storms: st.SearchStrategy[Storm] = st.lists(one, max_size=6) | st.lists(one, min_size=15, max_size=40)


@examples(1000)
@given(storms, st.booleans(), st.integers(1, 2), st.integers(0, 1), st.booleans())
def test_promise_09_every_interleaving_of_signals_converges(
    storm: Storm, may_end: bool, size: int, retries: int, loads_last: bool
) -> None:
    world = served(ev.Policy(size=size, boot_timeout_s=0.5, reload_retries=retries, grace_s=5.0))
    world.loads_last = loads_last
    world.heard.clear()
    model, deployed = Model(size, smallest=size), Deployed.GOOD
    for name, gap_ms, keeps_up, next_deployed in storm:
        if name in ENDINGS and not may_end:
            continue
        if keeps_up:
            world.go_on(gap_ms / 1000, *deployed.value)
        else:
            world.now += gap_ms / 1000
        if world.exits:
            break
        deployed = next_deployed if name == "HUP" else deployed
        world.tell(SIGNALS[name] or ev.Ticked())
        model.meet(name)
    world.go_on(60, *deployed.value)
    assert world.count(do.ReopenLogFiles) == model.reopened
    assert world.mind.size == model.size
    assert not world.waiting
    if model.ends:
        assert world.exits == [0]
        return
    assert not world.exits
    model.hups += world.resumed  # each upgrade ends in a reload
    check_what_reloads_made(world, model, deployed)
    check_nothing_is_deaf(world)


def check_what_reloads_made(world: World, model: Model, deployed: Deployed) -> None:
    """m HUPs and upgrades make between 1 and m generations, and the last one decides."""
    begun = [line for line in world.heard if isinstance(line, do.Say) and line.sentence == "reload began"]
    asked_in_vain = model.hups == 0 or deployed is Deployed.BAD_SETTINGS
    assert (0 if asked_in_vain else 1) <= len(begun) <= model.hups
    assert len(world.serving()) >= model.smallest, "a reload cost capacity"
    assert bool(world.mind.last_error) == (model.hups > 0 and deployed is not Deployed.GOOD)
    if deployed is Deployed.GOOD:
        assert world.at_full_strength()
        assert world.wishes_known[world.outfits[world.mind.generation]] == model.hups, "not the last code"


def check_nothing_is_deaf(world: World) -> None:
    """Everything is good now: each signal is met as if nothing had been."""
    before, size = world.mind.generation, world.mind.size
    world.tell(HUP)
    world.go_on(10)
    assert world.mind.serving == world.mind.generation > before, "deaf to HUP"
    assert world.mind.last_error == ""
    for signal, wanted in ((TTIN, size + 1), (TTOU, size)):
        world.tell(signal)
        world.go_on(1)
        assert world.at_full_strength()
        assert world.mind.size == wanted
    assert do.ReopenLogFiles() in world.tell(USR1)
    world.tell(TERM)
    world.go_on(1)
    assert world.exits == [0]
