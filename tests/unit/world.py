"""A world for the supervisor to live in: a model of the hands, the kernel and the children, that checks every action.

It holds what is true (which children live, serve, were asked to leave, who waits for a reload, which doors are open)
apart from what the supervisor believes, and asserts the invariants of docs/design.md after every event.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from forkserve.master import actions as do
from forkserve.master import events as ev
from forkserve.master.memory import Memory
from forkserve.master.records import Phase
from forkserve.master.supervisor import Supervisor
from forkserve.typed import from_msgpack, to_msgpack
from tests.unit.child import BOOT_S, FRAIL_S, NEVER, Child, Mood

KILL_PAUSE_S = 5.0
ROUND_S = 1.0  # more patience after the master overslept
MAX_ROUNDS = 100  # of what one moment may bring


@dataclass
class World:
    policy: ev.Policy
    jitter: float = 0.5
    loads_last: bool = False  # whatever else a moment brings is heard before the settings are read
    now: float = 1000.0
    children: dict[int, Child] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)
    unanswered: deque[int] = field(default_factory=deque)  # spawns, in order
    ended: int = 0  # children
    exits: list[int] = field(default_factory=list)
    heard: list[do.Action] = field(default_factory=list, repr=False)
    announced: do.Notify = field(default_factory=lambda: do.Notify(""))
    was_ready: bool = False
    # Reloads. A reading of the settings has a number and brings a door of that number, and no other.
    wishes: int = 0
    waiting: set[int] = field(default_factory=set)  # wishes that nobody answered
    loads: int = 0  # unanswered LoadConfig
    load_due: bool = False  # a Reload was wished for after the last LoadConfig
    reading: int = 0
    wishes_known: dict[int, int] = field(default_factory=lambda: {0: 0})  # at each reading
    newest: int = 0  # the last good reading
    outfits: dict[int, int] = field(default_factory=dict)  # reading by generation
    lasted: set[int] = field(default_factory=lambda: {1})  # generations of which somebody has served for reload_settle
    doors: set[int] = field(default_factory=lambda: {0})
    unsettled: bool = False
    trying: bool = False  # the target of an upgrade
    exec_due: bool = False
    resumed: int = 0  # how often another mind has taken over
    shut: bool = False
    shut_at: float = NEVER  # when a stop has to shut the doors

    def __post_init__(self) -> None:
        self.size = self.policy.size
        self.mind = Supervisor(self.policy, lambda: self.jitter)
        self.perform(self.mind.start(self.now))

    # The hands

    def tell(self, event: ev.Event) -> list[do.Action]:
        """Feed one event, check and perform the answer, then look again at the same moment."""
        self.expect(event)
        self.note_lasting()
        actions = self.mind.handle(event, self.now)
        self.perform(actions)
        self.check_rest()
        again = self.mind.handle(ev.Ticked(), self.now)
        assert again == [], f"planning twice said {again} after {event}"
        wake = self.mind.next_deadline()
        assert wake is None or wake > self.now, f"busy loop: {wake} after {event} at {self.now}"
        return actions

    def expect(self, event: ev.Event) -> None:
        """Note what must come of this event."""
        match event:
            case ev.Reload() | ev.Resumed() if not self.leaving:
                self.wishes += 1
                self.waiting.add(self.wishes)
                self.load_due = True
            case ev.Scale(by, to) if not self.leaving:
                self.size = min(max(to or self.size + by, 1), 1024)
            case ev.Drain() if not (self.leaving or self.exits):
                self.shut_at = self.now + self.policy.drain_delay_s
            case ev.Drain() | ev.Stop():
                self.shut_at = min(self.shut_at, self.now)
            case ev.Ticked(overslept=True):
                for child in self.children.values():
                    if child.patience_until <= self.now:
                        child.patience_until = self.now + ROUND_S

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
                    self.dump(action)
                case do.Cancel():
                    self.cancel(action)
                case do.Kill():
                    self.kill(action)
                case do.LoadConfig():
                    self.load()
                case do.ReloadEnded():
                    self.answer_waiting(action)
                case do.TryTarget():
                    assert not (self.trying or self.exec_due or self.mind.reloading or self.leaving)
                    self.trying = True
                case do.DropTarget():
                    assert self.trying, "dropped a target that nobody tries"
                    self.trying = False
                case do.Exec():
                    assert not (self.trying or self.mind.reloading or self.leaving)
                    self.exec_due = True
                case do.Settle():
                    self.settle_doors(action)
                case do.ShutDoors():
                    assert self.leaving and not self.shut, "the doors were shut twice, or while serving"
                    assert self.now >= self.shut_at or self.mind.phase is Phase.STOPPING, "shut too early"
                    self.shut = True
                case do.Notify():
                    self.notify(action)
                case do.Exit():
                    assert not self.children
                    self.exits.append(action.code)
        assert len(self.exits) <= 1
        answers = [action for action in actions if isinstance(action, do.ReloadEnded)]
        assert not answers or answers[-1].generation == self.mind.generation
        told = [action for action in actions if isinstance(action, do.Notify | do.ReloadEnded)]
        assert not answers or told[-len(answers) :] == answers, "who waits heard before the service manager"

    def note_lasting(self) -> None:
        settle_s = self.policy.reload_settle_s
        self.lasted |= {child.generation for child in self.serving() if child.ready_at + settle_s <= self.now}

    def check_rest(self) -> None:
        """Assert what must hold between any two events."""
        mind, serving = self.mind, self.serving()
        assert mind.size == self.size
        assert mind.generation <= 1 + self.wishes
        assert mind.wishes == self.wishes
        assert {child.id for child in serving} == {id for id in self.ids if mind.is_ready(id)}
        assert mind.ready == len(serving)
        assert sum(mind.ends.values()) == self.ended
        assert not mind.degraded or mind.ready < mind.size or mind.backoff_level, "degraded, and no reason to fear"
        assert mind.reloading or mind.upgrading or not self.waiting, f"nobody will answer {self.waiting}"
        assert mind.reloading or self.leaving or not self.unsettled, "a reload ended and left its doors as they were"
        assert all(child.patience_until > self.now for child in serving), "a stopped worker was not replaced"
        if self.leaving and not self.exits:
            assert not mind.reloading
            assert self.shut == (self.now >= self.shut_at or mind.phase is Phase.STOPPING)
            assert not self.shut or not serving, "not asked to leave"
        state = (mind.phase is Phase.SERVING, mind.reloading, self.leaving)
        flags = (self.announced.ready, self.announced.reloading, self.announced.stopping)
        assert flags == (state[0] and not state[1], state[0] and state[1], state[2]), self.announced

    @property
    def surge(self) -> int:
        """How many may live beyond the size; 0: who is replaced leaves first."""
        return max(self.policy.surge, math.ceil(self.mind.size * self.policy.surge_percent / 100))

    @property
    def retiring(self) -> int:
        """How many may finish beside those."""
        return max(self.policy.retiring, math.ceil(self.mind.size * self.policy.retiring_percent / 100))

    @property
    def leaving(self) -> bool:
        return self.mind.phase in (Phase.DRAINING, Phase.STOPPING)

    def spawn(self, spawn: do.Spawn) -> None:
        assert self.mind.phase in (Phase.STARTING, Phase.SERVING), "spawned while winding down"
        assert spawn.id not in self.ids, "an id was used twice"
        assert spawn.slot not in {child.slot for child in self.children.values()}, "two children in one slot"
        size = self.mind.size
        limit = size + self.surge
        finishing = sum(c.asked or c.leaves or c.dumped or c.killed_at is not None for c in self.children.values())
        beside = finishing if not self.surge else max(0, finishing - self.retiring)
        assert 0 <= spawn.slot < limit + self.retiring
        assert len(self.children) - finishing + beside < limit, "more that boot or serve than size + surge"
        assert self.outfits.setdefault(spawn.generation, self.newest) in self.doors, "born without a door"
        self.ids.add(spawn.id)
        self.children[spawn.id] = Child(spawn.id, spawn.slot, spawn.generation)
        self.unanswered.append(spawn.id)

    def ask(self, action: do.Retire | do.Hurry) -> None:
        child = self.target(action.id)
        if self.leaving:
            assert self.shut, "asked to leave before the doors were shut"
            assert action != do.Retire(action.id, drain=False)
        else:
            assert child.serves, "only who serves is retired"
            others = len(self.children) - 1  # of a surge that was there before, some may be leaving
            makes_room = not self.surge and len(self.serving()) == self.mind.size == others + 1
            assert makes_room or len(self.serving()) > self.mind.size, "our own retiring cost capacity"
            assert action != do.Retire(action.id, drain=True)
            strangers = [c for c in self.serving() if c.generation != self.mind.generation]
            proved = not self.unsettled or self.mind.generation in self.lasted
            is_first = makes_room and len(strangers) == self.mind.size
            assert proved or is_first or len(strangers) > self.mind.size, (
                "an old one left for a generation that had not lasted"
            )
            assert not strangers or child in strangers, "retired the wanted generation first"
            assert strangers or child.tired or not [c for c in self.serving() if c.tired], "retired a fresh one first"
        child.asked, child.serves = True, False
        self.resume(child)

    def dump(self, dump: do.Dump) -> None:
        child = self.target(dump.id)
        assert not child.dumped and child.killed_at is None
        stopped_for_long = child.patience_until <= self.now
        assert child.asked or child.guilty or stopped_for_long or not child.serves, "an idle worker was dumped"
        child.dumped, child.serves = True, False
        self.resume(child)

    def cancel(self, cancel: do.Cancel) -> None:
        child = self.target(cancel.id)
        assert not (child.serves or child.dumped or child.killed_at), "only who boots is cancelled, once"
        child.dumped = child.asked = True
        self.resume(child)

    def resume(self, child: Child) -> None:
        """Continue a stopped child along with an order, or it could not obey."""
        child.resumes = child.resumes or child.stopped
        child.stopped, child.patience_until = False, NEVER

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
        assert notify.stopping == self.leaving
        self.announced = notify

    # Reloads

    def load(self) -> None:
        assert not self.loads, "asked for the settings twice at once"
        self.loads, self.load_due = 1, False
        self.reading += 1
        self.wishes_known[self.reading] = self.wishes
        self.doors.add(self.reading)  # bound at once, before the mind hears that the settings are good

    def answer_waiting(self, ended: do.ReloadEnded) -> None:
        numbers = set(range(ended.after + 1, ended.upto + 1))
        assert numbers and numbers <= self.waiting, f"{ended} answers nobody, or somebody twice"
        self.waiting -= numbers
        assert ended.error.startswith("abandoned") == self.leaving
        rolled_out = self.wishes_known[self.newest]  # wishes up to this number have their generation
        if ended.error:
            assert ended.after >= rolled_out or "rejected" not in ended.error, "whose reload goes on was told its end"
            assert ended.upto <= rolled_out or " failed" not in ended.error, "that wish is not read yet"
            return
        assert ended.generation == self.mind.generation == self.mind.serving
        assert self.at_full_strength(), "success was told too early"
        assert {child.generation for child in self.children.values()} == {ended.generation}, "an old one lives"
        assert ended.upto <= self.wishes_known[self.outfits[ended.generation]], "that wish came after the settings"

    def settle_doors(self, settle: do.Settle) -> None:
        assert self.unsettled and not self.leaving
        assert not self.mind.reloading, "closed the doors of a reload that is under way"
        assert settle.generation == self.mind.generation
        self.unsettled = False
        self.doors = {self.outfits.setdefault(settle.generation, self.newest)}

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

    def answer_trial(self, error: str = "") -> None:
        """Say that the target of the upgrade understands, or what is wrong with it."""
        self.trying = False
        self.tell(ev.TargetRefused(error) if error else ev.TargetAccepted())

    def exec(self, error: str = "") -> None:
        """Become another program, as the hands do once everything is told, unless a stop came first."""
        while self.unanswered:
            self.answer_fork()
        self.exec_due = False
        if not self.mind.upgrading:
            return
        if error:
            self.tell(ev.ExecFailed(error))
            return
        memory = from_msgpack(to_msgpack(self.mind.remember()), Memory)
        assert memory is not None
        self.mind = Supervisor.resume(memory, self.policy, lambda: self.jitter)
        self.resumed += 1
        self.tell(ev.Resumed())

    def answer_load(self, policy: ev.Policy | None = None, resize: bool = False, error: str = "") -> None:
        """Answer a LoadConfig; what it says may ask for one more."""
        self.loads -= 1
        if error:
            self.doors.discard(self.reading)
            self.tell(ev.ConfigRejected(error))
        else:
            self.newest = self.reading
            if not self.leaving:
                self.policy, self.unsettled = policy or self.policy, True
                self.size = self.policy.size if resize else self.size
            self.tell(ev.ConfigLoaded(self.policy, resize))

    def say_ready(self, child: Child) -> None:
        child.serves = not child.dumped and child.killed_at is None
        child.ready_at = self.now
        self.be_patient(child)
        self.tell(ev.WorkerReady(child.id))

    def say_boot_failed(self, child: Child) -> None:
        self.tell(ev.BootFailed(child.id, "ImportError: no", "Traceback\nImportError: no", 3))

    def say_retiring(self, child: Child, told: bool = False) -> None:
        child.serves, child.leaves = False, True
        self.tell(ev.WorkerRetiring(child.id, "left", told))

    def say_tired(self, child: Child) -> None:
        child.tired = True
        self.tell(ev.WorkerTired(child.id, "max_requests"))

    def say_stopped(self, child: Child) -> None:
        child.stopped, child.resumes = True, False
        self.be_patient(child)
        self.tell(ev.WorkerStopped(child.id))

    def say_continued(self, child: Child) -> None:
        child.stopped, child.resumes, child.patience_until = False, False, NEVER
        self.tell(ev.WorkerContinued(child.id))

    def be_patient(self, child: Child) -> None:
        if child.stopped and child.serves and self.policy.timeout_s:
            child.patience_until = min(child.patience_until, self.now + self.policy.timeout_s)

    def say_too_big(self, child: Child) -> None:
        child.guilty = True
        self.tell(ev.WorkerTooBig(child.id, 300 << 20, 256 << 20))
        assert child.dumped or child.killed_at is not None, "a worker that is too big was let be"

    def say_overdue(self, child: Child, overslept: bool = False) -> None:
        child.guilty = child.overdue = not overslept
        self.tell(ev.Ticked((ev.Overdue(child.id, 31.0, "GET /"),), overslept))
        assert overslept or child.dumped, "an overdue request was let be"

    def say_spent(self, child: Child) -> None:
        """It was dumped for a request, and has answered that; once in a life."""
        child.dumped, child.leaves, child.spent = False, True, True
        self.tell(ev.WorkerSpent(child.id))

    def end(self, child: Child, code: int = 0, signal: int = 0, *, began: bool = False, served: bool = False) -> None:
        del self.children[child.id]
        self.ended += 1
        self.tell(ev.WorkerExited(child.id, code, signal, began, served))

    # Life goes on

    def go_on(self, seconds: float, mood: Mood = Mood.HEALTHY, rejection: str = "") -> None:
        """Let the world run by itself: everything is answered, ticks come exactly when they are due."""
        end = self.now + seconds
        while not self.exits:
            self.settle(mood, rejection)
            moments = [end]
            if mood is not Mood.HANGING:
                moments += [child.since + BOOT_S for child in self.booting() if not child.stopped]
                moments += [child.dies_at for child in self.forked() if not child.stopped]
            wake = self.mind.next_deadline()
            moments += [wake] if wake is not None else []
            if min(moments) >= end:
                break
            self.now = max(self.now, min(moments))
            self.tell(ev.Ticked())
        self.now = end

    def settle(self, mood: Mood, rejection: str = "") -> None:
        """Do everything that this moment brings, and what that brings in turn; ``rejection`` of all settings."""
        for _ in range(MAX_ROUNDS):
            before = len(self.heard)
            while self.loads and not self.loads_last:
                self.answer_load(error=rejection)
            while self.unanswered:
                self.answer_fork()
            if self.trying:
                self.answer_trial()
            if self.exec_due:
                self.exec()
            for child in self.forked():
                if child.killed_at is not None:
                    self.end(child, signal=9)
                elif mood is not Mood.HANGING:
                    self.live(child, mood)
            if len(self.heard) == before:
                if not self.loads:
                    return
                self.answer_load(error=rejection)
        raise AssertionError(f"the world does not come to rest at {self.now}")

    def live(self, child: Child, mood: Mood) -> None:
        if child.resumes:
            self.say_continued(child)
        if child.stopped:
            return
        if child.asked or child.leaves or child.dumped:
            self.end(child)
        elif child.dies_at <= self.now:
            self.end(child, signal=11)
        elif not child.serves and self.now >= child.since + BOOT_S:
            if mood is not Mood.FAILING:
                child.dies_at = self.now + FRAIL_S if mood is Mood.FRAIL else NEVER
                self.say_ready(child)
            else:
                self.say_boot_failed(child)
                self.end(child, code=3)

    def at_full_strength(self) -> bool:
        serving = self.serving()
        return len(serving) == self.mind.size and {c.generation for c in serving} == {self.mind.generation}

    def count(self, kind: type[do.Action]) -> int:
        return Counter(type(action) for action in self.heard)[kind]
