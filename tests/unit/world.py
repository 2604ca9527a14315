"""A world for the supervisor to live in: a model of the hands, the kernel and the children, that checks every action.

It holds what is true (which children live, serve, were asked to leave) apart from what the supervisor believes, and
asserts the invariants of docs/design.md after every event.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from forkserve.master import actions as do
from forkserve.master import events as ev
from forkserve.master.records import Phase
from forkserve.master.supervisor import Supervisor

KILL_PAUSE_S = 5.0
BOOT_S = 0.1
MAX_ROUNDS = 100  # of what one moment may bring


class Mood(Enum):
    """How children behave when the world goes on by itself."""

    HEALTHY = auto()  # boot in a tenth of a second, obey at once
    FAILING = auto()  # every boot fails, who serves serves on and obeys
    HANGING = auto()  # nothing happens but by Kill


@dataclass
class Child:
    id: int
    slot: int
    generation: int
    forked: bool = False
    since: float = 0.0
    serves: bool = False  # said READY, and nothing since that ends it
    leaves: bool = False  # said that it retires by itself
    overdue: bool = False  # its request was reported overdue
    asked: bool = False  # Retire or Hurry
    dumped: bool = False
    killed_at: float | None = None


@dataclass
class World:
    policy: ev.Policy
    jitter: float = 0.5
    now: float = 1000.0
    children: dict[int, Child] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)
    unanswered: deque[int] = field(default_factory=deque)  # spawns, in order
    loads: int = 0  # unanswered LoadConfig
    load_due: bool = False  # a Reload was wished for after the last LoadConfig
    reloads: int = 0  # wishes
    exits: list[int] = field(default_factory=list)
    heard: list[do.Action] = field(default_factory=list, repr=False)
    was_ready: bool = False

    def __post_init__(self) -> None:
        self.mind = Supervisor(self.policy, lambda: self.jitter)
        self.perform(self.mind.start(self.now))

    # The hands

    def tell(self, event: ev.Event) -> list[do.Action]:
        """Feed one event, check and perform the answer, then look again at the same moment."""
        if isinstance(event, ev.Reload):
            self.reloads += 1
            self.load_due = True
        actions = self.mind.handle(event, self.now)
        self.perform(actions)
        again = self.mind.handle(ev.Ticked(), self.now)
        assert again == [], f"planning twice said {again} after {event}"
        wake = self.mind.next_deadline()
        assert wake is None or wake > self.now, f"busy loop: {wake} after {event} at {self.now}"
        assert self.mind.generation <= 1 + self.reloads
        return actions

    def perform(self, actions: list[do.Action]) -> None:
        assert not (self.exits and actions), f"said after Exit: {actions}"
        self.heard += actions
        for action in actions:
            match action:
                case do.Spawn():
                    self.spawn(action)
                case do.Retire() | do.Hurry():
                    self.ask(action)
                case do.Dump():
                    child = self.target(action.id)
                    assert not child.dumped and child.killed_at is None
                    assert child.asked or child.overdue or not child.serves, "an idle worker was dumped"
                    child.dumped, child.serves = True, False
                case do.Kill():
                    self.kill(action)
                case do.LoadConfig():
                    self.loads += 1
                    self.load_due = False
                    assert self.loads == 1, "asked for the settings twice at once"
                case do.Notify():
                    self.notify(action)
                case do.Exit():
                    assert not self.children
                    self.exits.append(action.code)
        assert len(self.exits) <= 1

    def spawn(self, spawn: do.Spawn) -> None:
        assert self.mind.phase in (Phase.STARTING, Phase.SERVING), "spawned while winding down"
        assert spawn.id not in self.ids, "an id was used twice"
        assert spawn.slot not in {child.slot for child in self.children.values()}, "two children in one slot"
        limit = self.mind.size + self.policy.surge
        assert 0 <= spawn.slot < limit
        assert len(self.children) < limit, "more live processes than size + surge"
        self.ids.add(spawn.id)
        self.children[spawn.id] = Child(spawn.id, spawn.slot, spawn.generation)
        self.unanswered.append(spawn.id)

    def ask(self, action: do.Retire | do.Hurry) -> None:
        child = self.target(action.id)
        if self.mind.phase not in (Phase.DRAINING, Phase.STOPPING):
            assert child.serves, "only who serves is retired"
            assert len(self.serving()) > self.mind.size, "our own retiring cost capacity"
            assert action != do.Retire(action.id, drain=True)
            strangers = [c for c in self.serving() if c.generation != self.mind.generation]
            assert not strangers or child in strangers, "retired the wanted generation first"
        child.asked, child.serves = True, False

    def kill(self, kill: do.Kill) -> None:
        child = self.target(kill.id)
        assert not child.serves, "killed who serves"
        assert child.killed_at is None or self.now >= child.killed_at + KILL_PAUSE_S, "killed again too soon"
        child.killed_at = self.now

    def target(self, id: int) -> Child:
        assert id in self.children, f"an order for {id}, which does not live"
        assert self.children[id].forked, f"an order for {id}, which is not forked"
        return self.children[id]

    def notify(self, notify: do.Notify) -> None:
        if notify.ready and not self.was_ready:
            assert len(self.serving()) >= self.mind.size, "READY=1 before the workers served"
            self.was_ready = True
        assert notify.stopping == (self.mind.phase in (Phase.DRAINING, Phase.STOPPING))

    # The children and the kernel

    def serving(self) -> list[Child]:
        return [child for child in self.children.values() if child.serves]

    def booting(self) -> list[Child]:
        """Return the children that may still become ready, though the mind may not want them any more."""
        return [child for child in self.forked() if not (child.serves or child.leaves or child.asked)]

    def forked(self) -> list[Child]:
        return [child for child in self.children.values() if child.forked]

    def answer_fork(self, error: str = "") -> None:
        id = self.unanswered.popleft()
        if error:
            del self.children[id]
            self.tell(ev.ForkFailed(id, error))
        else:
            self.children[id].forked, self.children[id].since = True, self.now
            self.tell(ev.Forked(id))

    def answer_load(self, policy: ev.Policy | None = None, resize: bool = False, error: str = "") -> None:
        """Answer a LoadConfig; what it says may ask for one more."""
        self.loads -= 1
        if error:
            self.tell(ev.ConfigRejected(error))
        else:
            self.policy = policy or self.policy
            self.tell(ev.ConfigLoaded(self.policy, resize))

    def say_ready(self, child: Child) -> None:
        child.serves = not child.dumped and child.killed_at is None
        self.tell(ev.WorkerReady(child.id))

    def say_boot_failed(self, child: Child) -> None:
        self.tell(ev.BootFailed(child.id, "ImportError: no", "Traceback\nImportError: no", 3))

    def say_retiring(self, child: Child) -> None:
        child.serves, child.leaves = False, True
        self.tell(ev.WorkerRetiring(child.id, "recycled"))

    def say_overdue(self, child: Child, overslept: bool = False) -> None:
        child.overdue = not overslept
        self.tell(ev.Ticked((ev.Overdue(child.id, 31.0, "GET /"),), overslept))
        assert overslept or child.dumped, "an overdue request was let be"

    def end(self, child: Child, code: int = 0, signal: int = 0) -> None:
        del self.children[child.id]
        self.tell(ev.WorkerExited(child.id, code, signal))

    # Life goes on

    def go_on(self, seconds: float, mood: Mood = Mood.HEALTHY) -> None:
        """Let the world run by itself: everything is answered, ticks come exactly when they are due."""
        end = self.now + seconds
        while not self.exits:
            self.settle(mood)
            moments = [end]
            if mood is not Mood.HANGING:
                moments += [child.since + BOOT_S for child in self.booting()]
            wake = self.mind.next_deadline()
            moments += [wake] if wake is not None else []
            if min(moments) >= end:
                break
            self.now = max(self.now, min(moments))
            self.tell(ev.Ticked())
        self.now = end

    def settle(self, mood: Mood) -> None:
        """Do everything that this moment brings, and what that brings in turn."""
        for _ in range(MAX_ROUNDS):
            before = len(self.heard)
            while self.loads:
                self.answer_load()
            while self.unanswered:
                self.answer_fork()
            for child in self.forked():
                if child.killed_at is not None:
                    self.end(child, signal=9)
                elif mood is not Mood.HANGING:
                    self.live(child, mood)
            if len(self.heard) == before:
                return
        raise AssertionError(f"the world does not come to rest at {self.now}")

    def live(self, child: Child, mood: Mood) -> None:
        if child.asked or child.leaves or child.dumped:
            self.end(child)
        elif not child.serves and self.now >= child.since + BOOT_S:
            if mood is Mood.HEALTHY:
                self.say_ready(child)
            else:
                self.say_boot_failed(child)
                self.end(child, code=3)

    def at_full_strength(self) -> bool:
        serving = self.serving()
        return len(serving) == self.mind.size and {c.generation for c in serving} == {self.mind.generation}
