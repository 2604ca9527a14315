"""The hands of the master: wait, tell the mind what happened, do what it says; what comes of that is the next event.

Single-threaded and small; it never runs user code, never parses a request and never waits for anything but epoll.
Nothing of an upgrade is imported late: by then the disk holds another version, or half of one.
"""

import os
import select
import signal
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any, assert_never

from forkserve import __version__
from forkserve.birth import ChildMain
from forkserve.config.resolve import Resolved
from forkserve.errors import ExitCode, ForkserveError
from forkserve.log import log
from forkserve.master import actions as act
from forkserve.master import events as ev
from forkserve.master import handover as over
from forkserve.master import outfit, process, readings
from forkserve.master.children import Children
from forkserve.master.doors import Doors
from forkserve.master.fittings import Fittings
from forkserve.master.lookout import Lookout
from forkserve.master.outfit import Outfit
from forkserve.master.patience import Patience
from forkserve.master.records import Phase
from forkserve.master.state import LEAVING
from forkserve.master.status import snapshot
from forkserve.master.stock import take_stock
from forkserve.master.supervisor import Supervisor
from forkserve.master.target import Launch, Trial, exec_target
from forkserve.master.verbs import Verbs
from forkserve.net import inherit
from forkserve.net.inherit import Handed
from forkserve.net.listener import Listener
from forkserve.unix import signals, title
from forkserve.unix.messages import Hurry, Leave, Serve
from forkserve.unix.notify import Notifier, Pulse

# What each signal asks for, in the order in which several that came together are met: stop before upgrade before
# reload before scale before reopen. CHLD is not here: it is no wish.
WISHES: dict[signal.Signals, ev.Wish] = {
    signal.SIGQUIT: ev.Stop(),
    signal.SIGINT: ev.Stop(),
    signal.SIGTERM: ev.Drain(),
    signal.SIGUSR2: ev.Upgrade(),
    signal.SIGHUP: ev.Reload(),
    signal.SIGTTIN: ev.Scale(by=1),
    signal.SIGTTOU: ev.Scale(by=-1),
    signal.SIGUSR1: ev.ReopenLogs(),
}

_NOTIFY_AGAIN_S = 0.1  # a service manager whose queue is full is asked again after this
_LONGEST_WAIT_S = 86400.0  # epoll_wait counts milliseconds in an int


class Master:
    """One master, from its start, or its resumption after an exec, to its exit code or its exec."""

    def __init__(self, resolved: Resolved, child: ChildMain, old: over.Handover | None = None) -> None:
        """``old``: what the master that we were has handed over."""
        self._resolved = resolved
        self._child_main = child
        self._old = old
        policy = readings.policy_of(resolved.settings)
        self._mind = Supervisor.resume(old.memory, policy, _jitter) if old else Supervisor(policy, _jitter)
        self._doors = Doors()
        self._fittings = Fittings()
        self._handed: tuple[Handed, ...] = ()
        self._outfit = Outfit(resolved.settings, ())  # that a new generation gets
        self._outfits: dict[int, Outfit] = {}  # by generation: a respawn gets that of its own
        self._inbox: deque[ev.Event] = deque()
        self._exit_code: int | None = None
        self._shown = 0  # the generation in the title
        self._began_at = old.began_at if old else monotonic()
        self._trial: Trial | None = None
        self._may_change_fittings = old is not None  # the first settings that are read after an exec may
        self._is_exec_due = False

    def run(self) -> int:
        """Serve until told to stop; returns the exit code. Raises ForkserveError for what fails before serving."""
        self._launch = Launch.ours(self._resolved.loader.environ)
        process.fill_standard_descriptors()
        self._wakeup = signals.Wakeup(signals.MASTER)
        signals.normalise()
        self._notifier = Notifier.from_environment()
        self._pulse = Pulse(self._notifier)
        title.set_name(self._resolved.settings.proc_name)
        self._epoll = select.epoll()
        self._epoll.register(self._wakeup.read_fd, select.EPOLLIN)
        self._verbs = Verbs(self._wish, self._status, lambda: self._mind.phase in LEAVING)
        try:
            if self._old is None:
                self._begin()
            else:
                self._resume(self._old)
            self._live()
        finally:
            self._doors.close()
            self._fittings.unlock()
            self._epoll.close()
        assert self._exit_code is not None
        if self._exit_code == ExitCode.OK:  # else the reason was said last, and stays last
            log.info("stopped")
        return self._exit_code

    def _begin(self) -> None:
        settings = self._resolved.settings
        handed, kept, useless = inherit.from_store(inherit.handed_in())
        self._handed = handed
        readings.set_up_log(settings)
        attempt = Patience(self._wakeup.read_fd)
        attempt(lambda: self._fittings.lock(settings))
        log.info("forkserve started", version=__version__, app=settings.app, workers=settings.workers)
        for stranger in self._resolved.strangers:
            log.warning("unknown variable", told=stranger)
        wanted = readings.wanted(self._resolved, handed)
        self._doors.restore(kept, useless, wanted, self._notifier)
        self._outfit = readings.dress(self._resolved, self._doors, handed, self._outfit, attempt)
        for unwanted in inherit.close_unwanted(handed, wanted):
            used = ", ".join(settings.bind)
            log.warning("socket handed in is not used; closed", address=str(unwanted.address), instead=used)
        self._children = Children(self._epoll, self._child_main)
        self._fittings.listen(settings, self._epoll, self._verbs.handle)

    def _resume(self, old: over.Handover) -> None:
        """Take over from the program that this process was."""
        try:
            readings.set_up_log(self._resolved.settings)
        except ForkserveError as error:
            log.error("log could not be opened; stderr is used", cause=str(error))
        log.info("forkserve resumed", version=__version__, before=old.program)
        self._handed = tuple(Handed(one.fd, one.name, one.where, one.also_ipv4) for one in old.handed)
        self._doors.resume(old.doors, self._notifier)
        for generation, known in old.outfits.items():
            settings = over.settings_from_plain(known.settings)
            self._outfits[generation] = outfit.resume(settings, self._doors.named(known.listeners), known.folder)
        self._outfit = self._outfit_of(old.memory.generation)
        self._children = Children(self._epoll, self._child_main, old)
        self._fittings.resume(old, self._epoll, self._verbs.handle)
        if self._fittings.control is not None:
            self._verbs.resume(self._fittings.control.resume(old.clients))

    def _live(self) -> None:
        self._lookout = Lookout(
            self._mind, self._children, lambda: [one.shortest_timeout_s for one in self._outfits.values()]
        )
        try:
            if self._old is None:
                self._perform(self._mind.start(monotonic()))
            else:
                self._old = None
                self._tell(ev.Resumed())
                self._drain_inbox()
                self._inbox.extend(self._children.reap(self._judge))  # who died while nobody was there to hear
            self._drain_inbox()
            while self._exit_code is None:
                self._show_title()
                self._round()
                if self._is_exec_due:
                    self._exec()
        finally:
            self._fittings.close()
            self._children.close()

    def _round(self) -> None:
        """Wait once, and meet what came."""
        began = monotonic()
        look = self._lookout.next_look(began, self._resolved.settings)
        moments = [look, self._pulse.due(self._is_busy), self._doors.closing.next_look(began)]
        moments += [began + _NOTIFY_AGAIN_S] if self._notifier.waiting else []
        due = min((moment for moment in moments if moment is not None), default=None)
        wait_s = None if due is None else min(max(0.0, due - began), _LONGEST_WAIT_S)
        ready = self._children.relief.wait(self._epoll, wait_s)
        now = monotonic()
        came = self._wakeup.read()
        pause = self._lookout.notice_pause(began, due, now, continued=signal.SIGCONT in came)
        if pause is not None:
            self._inbox.append(pause)
        # Signals first: a TERM to the whole group is the end of the service, not of each worker by itself.
        self._on_signals(came)
        self._notifier.flush()
        for fd, _ in ready:
            if self._fittings.control is not None and self._fittings.control.knows(fd):
                self._fittings.control.on_event(fd)
            else:
                self._inbox.extend(self._children.hear(fd))
        self._drain_inbox()
        self._doors.closing.look(now, self._children.relay)
        if look is not None and now >= look:
            self._inbox.extend(self._lookout.weigh(now, self._resolved.settings.max_worker_memory_hard))
            self._drain_inbox()
            self._tell(ev.Ticked(self._lookout.overdue(now)))
            self._drain_inbox()
        self._pulse.beat(now, self._is_busy, sane=pause is None)

    @property
    def _is_busy(self) -> bool:
        """Whether something goes on that a service manager may find long."""
        return self._mind.phase is not Phase.SERVING or self._mind.reloading

    # what happens

    def _on_signals(self, came: list[signal.Signals]) -> None:
        for number, wish in WISHES.items():
            if number in came:
                self._inbox.append(wish)
        if signal.SIGWINCH in came:
            log.info("signal ignored", signal=signal.SIGWINCH.name)
        if signal.SIGCHLD in came:
            self._inbox.extend(self._children.reap(self._judge))

    def _judge(self, pid: int, ended: process.Ended) -> ev.Event | None:
        """Say what the end of a child that is no worker means: the trial of an upgrade, or nothing."""
        trial = self._trial
        if trial is None or trial.pid != pid:
            return None
        self._trial = None
        return trial.verdict(ended)

    def _wish(self, wish: ev.Wish) -> int:
        """Meet a wish of the control socket now; returns how many reloads were ever wished for."""
        self._tell(wish)
        return self._mind.wishes

    def _drain_inbox(self) -> None:
        while self._inbox:
            self._tell(self._inbox.popleft())

    def _tell(self, event: ev.Event) -> None:
        self._perform(self._mind.handle(event, monotonic()))
        if isinstance(event, ev.WorkerReady) and self._mind.is_ready(event.id):
            # It accepts once the mind counts it as READY: one that is killed before has no connection to lose.
            self._children.tell(event.id, Serve(), signal.SIGTERM)
        elif isinstance(event, ev.WorkerExited):
            self._children.forget(event.id)

    # what is done

    def _perform(self, todo: list[act.Action]) -> None:
        for action in todo:
            match action:
                case act.Spawn():
                    self._inbox.append(self._spawn(action))
                case act.Retire(id=id, drain=drain):
                    self._children.tell(id, Leave(drain), signal.SIGTERM)
                case act.Hurry(id=id):
                    self._children.tell(id, Hurry(), signal.SIGTERM)
                case act.Dump(id=id, deadline=deadline):
                    self._children.dump(id, deadline)
                case act.Cancel(id=id):
                    self._children.cancel(id)
                case act.Kill(id=id):
                    self._children.kill(id)
                case act.LoadConfig():
                    self._inbox.append(self._load_config())
                case act.ReopenLogFiles():
                    self._reopen_logs()
                case act.Notify(status=status, ready=ready, reloading=reloading, stopping=stopping):
                    self._notifier.send(status=status, ready=ready, reloading=reloading, stopping=stopping)
                case act.ReloadEnded():
                    self._verbs.on_reload_ended(action)
                case act.TryTarget():
                    self._try_target()
                case act.DropTarget():
                    self._drop_target()
                case act.Exec():
                    self._is_exec_due = True  # once everything that has happened was told
                case act.UpgradeEnded():
                    self._verbs.on_upgrade_ended(action)
                case act.ShutDoors():
                    self._doors.shut(monotonic())
                case act.Settle(generation=generation):
                    self._doors.settle(self._outfit_of(generation).listeners, self._children)
                case act.Say():
                    self._say(action)
                case act.Exit(code=code):
                    self._exit_code = code
                case _:
                    assert_never(action)

    def _spawn(self, spawn: act.Spawn) -> ev.Event:
        born_with = self._outfit_of(spawn.generation)
        if born_with.trouble:
            return ev.ForkFailed(spawn.id, born_with.trouble)
        in_use = {record.generation for record in self._mind.records} | {self._mind.generation, self._mind.serving}
        for generation in set(self._outfits) - in_use - {spawn.generation}:
            del self._outfits[generation]
        return self._children.spawn(spawn, born_with, self._not_for_children(born_with.listeners))

    def _outfit_of(self, generation: int) -> Outfit:
        return self._outfits.setdefault(generation, self._outfit)

    def _not_for_children(self, listeners: tuple[Listener, ...]) -> list[Callable[[], None]]:
        """What a child closes: everything that is the master's alone, and the listeners of other generations."""
        closers: list[Callable[[], None]] = [self._wakeup.close, self._epoll.close, self._notifier.close]
        closers += self._doors.others(listeners)
        closers += [self._trial.let_go] if self._trial else []
        return [*closers, self._fittings.let_go]

    def _load_config(self) -> ev.Event:
        old = self._resolved.settings
        try:
            self._resolved, self._outfit = readings.read_anew(
                self._resolved, self._launch.folder, self._doors, self._handed, self._outfit, self._change_fittings
            )
        except ForkserveError as error:
            return ev.ConfigRejected("; ".join(str(error).splitlines()))
        except outfit.HALF_DEPLOYED as error:  # this program, which is whole, serves on
            return ev.ConfigRejected(f"a part of forkserve that they need is broken on the disk: {error}")
        new = self._resolved.settings
        title.set_name(new.proc_name)
        self._shown = 0
        return ev.ConfigLoaded(readings.policy_of(new), resize=old.workers != new.workers)

    def _change_fittings(self, resolved: Resolved, undo: ExitStack) -> Callable[[], None]:
        if not self._may_change_fittings:
            return self._fittings.mend
        change = self._fittings.change(resolved.settings, self._epoll, self._verbs.handle, undo)

        def commit() -> None:
            change()
            self._fittings.mend()
            self._may_change_fittings = False

        return commit

    def _reopen_logs(self) -> None:
        try:
            log.file.reopen()
            outfit.give_logs(self._outfit.settings, self._outfit.identity)
        except (OSError, ForkserveError) as error:
            cause = error.strerror if isinstance(error, OSError) else str(error)
            log.error("log could not be reopened; the old file stays in use", path=log.file.path, cause=cause)
        self._children.tell_all_to_reopen()

    # becoming another program

    def _try_target(self) -> None:
        try:
            self._trial = Trial(self._launch, self._hand_over())
        except OSError as error:
            self._inbox.append(ev.TargetRefused(f"the new program cannot be tried: {error.strerror}"))

    def _drop_target(self) -> None:
        if self._trial is not None:
            self._trial.drop()
            self._trial = None

    def _exec(self) -> None:
        """Become the target, with every signal blocked; what comes meanwhile waits in the kernel for it."""
        mask = signals.block_all()
        try:
            came = self._wakeup.read()
            if came:  # still ours to meet; the next round tries again
                self._on_signals(came)
                self._drain_inbox()
                return
            self._is_exec_due = False
            if self._mind.upgrading:
                self._notifier.flush()
                exec_target(self._launch, self._hand_over())
        except ForkserveError as error:
            self._tell(ev.ExecFailed(str(error)))
            self._drain_inbox()
        finally:
            signals.restore(mask)

    def _hand_over(self) -> over.Handover:
        return take_stock(
            self._mind, self._resolved, self._outfits, self._doors, self._handed, self._children, self._fittings,
            self._verbs, self._began_at,
        )  # fmt: skip

    def _say(self, say: act.Say) -> None:
        fields = dict(say.fields)
        child = self._children.get(say.id)
        if child is not None:
            fields["pid"] = child.pid
        log.say(say.level, say.sentence, fields, say.detail)

    def _status(self) -> dict[str, Any]:
        now = monotonic()
        return snapshot(self._mind, self._children, self._doors.all, self._resolved.settings, now, self._began_at)

    def _show_title(self) -> None:
        if self._shown != self._mind.generation:
            self._shown = self._mind.generation
            title.set_title("master", self._shown)


def _jitter() -> float:
    """Return 0..1, anew at each call; the random module would cost a millisecond of every start."""
    return int.from_bytes(os.urandom(4)) / 0xFFFFFFFF
