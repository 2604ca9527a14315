"""The hands of the master: wait, tell the mind what happened, do what it says; what comes of that is the next event.

Single-threaded and small; it never runs user code, never parses a request and never waits for anything but epoll.
"""

import os
import select
import signal
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import assert_never

from forkserve import __version__
from forkserve.birth import Birth, ChildMain
from forkserve.config.resolve import Resolved, diff
from forkserve.config.settings import Effect, Settings
from forkserve.errors import ExitCode, ForkserveError, SettingsError
from forkserve.log import log
from forkserve.master import actions as act
from forkserve.master import events as ev
from forkserve.master import process
from forkserve.master.records import Stage
from forkserve.master.supervisor import Supervisor
from forkserve.net import address, inherit
from forkserve.net.listener import Listener, bind_all
from forkserve.typed import Struct
from forkserve.unix import signals, title, usage
from forkserve.unix.channel import Channel, pair
from forkserve.unix.messages import DOWN, UP, BootFailure, Hurry, Leave, Ready, Reopen, Retiring, Serve
from forkserve.unix.notify import Notifier
from forkserve.unix.pidfile import Pidfile
from forkserve.unix.scoreboard import BEGAN, DEADLINE, GENERATION, PID, Row, Scoreboard

# What each signal asks for. CHLD is not here: it is no wish, it only wakes the loop, which reaps in every round.
WISHES: dict[signal.Signals, ev.Wish] = {
    signal.SIGHUP: ev.Reload(),
    signal.SIGTTIN: ev.Scale(by=1),
    signal.SIGTTOU: ev.Scale(by=-1),
    signal.SIGTERM: ev.Drain(),
    signal.SIGINT: ev.Stop(),
    signal.SIGQUIT: ev.Stop(),
    signal.SIGUSR1: ev.ReopenLogs(),
}
# Which of several that came together is met first: stop before reload before scale before reopen.
_PRECEDENCE = (
    signal.SIGQUIT,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
)

_OVERSLEPT_S = 1.0
_NOTIFY_AGAIN_S = 0.1  # a service manager whose queue is full is asked again after this
_LONGEST_WAIT_S = 86400.0  # epoll_wait counts milliseconds in an int


class Child(Struct):
    """The process behind a record of the mind."""

    id: int
    slot: int
    pid: int
    channel: Channel
    row: Row


class Master:
    """One master, from its start to its exit code."""

    def __init__(self, resolved: Resolved, child: ChildMain) -> None:
        self._resolved = resolved
        self._child_main = child
        self._mind = Supervisor(_policy(resolved.settings), _jitter)
        self._children: dict[int, Child] = {}
        self._ids: dict[int, int] = {}  # pid -> id
        self._settings_of: dict[int, Settings] = {}  # by generation: a respawn gets the settings of its own
        self._inbox: deque[ev.Event] = deque()
        self._exit_code: int | None = None
        self._shown = ""
        self._are_doors_shut = False
        self._calm_until = 0.0  # after an oversleep nobody is looked at for overdue requests before this

    def run(self) -> int:
        """Serve until told to stop; returns the exit code. Raises ForkserveError for what fails before serving."""
        settings = self._resolved.settings
        signals.normalise()
        self._wakeup = signals.Wakeup(signals.MASTER)
        self._notifier = Notifier.from_environment()
        handed = inherit.handed_in()
        title.set_name(settings.proc_name)
        _setup_log(settings)
        self._pidfile = Pidfile(settings.pidfile) if settings.pidfile else None
        try:
            self._listeners = self._bind(settings, handed)
            try:
                self._live()
            finally:
                for listener in self._listeners:
                    listener.close(unlink=True)
        finally:
            if self._pidfile is not None:
                self._pidfile.remove()
        assert self._exit_code is not None
        if self._exit_code == ExitCode.OK:  # else the reason was said last, and stays last
            log.info("stopped")
        return self._exit_code

    def _bind(self, settings: Settings, handed: tuple[address.Address, ...]) -> tuple[Listener, ...]:
        wanted = tuple(address.parse(text) for text in settings.bind)
        if handed and "bind" not in self._resolved.origins:
            wanted = handed
        listeners = tuple(bind_all(wanted, settings.backlog))
        log.info("forkserve started", version=__version__, app=settings.app, workers=settings.workers)
        for listener in listeners:
            log.info("listening", address=listener.name)
        for unwanted in inherit.close_unwanted(handed, wanted):
            log.warning("socket handed in is not used; closed", address=unwanted, instead=", ".join(settings.bind))
        return listeners

    def _live(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._wakeup.read_fd, select.EPOLLIN)
        self._board = Scoreboard()
        self._perform(self._mind.start(monotonic()))
        self._drain_inbox()
        while self._exit_code is None:
            self._show_title()
            began = monotonic()
            due = self._next_look(began)
            ready = self._epoll.poll(None if due is None else min(max(0.0, due - began), _LONGEST_WAIT_S))
            now = monotonic()
            if due is not None and now - max(due, began) > _OVERSLEPT_S:
                self._calm_until = now + _OVERSLEPT_S
                log.warning("master overslept; nobody is killed this round", by_s=now - due)
                self._inbox.append(ev.Ticked(overslept=True))
            # Signals first: a TERM to the whole group is the end of the service, not of each worker by itself.
            self._on_signals()
            self._notifier.flush()
            by_fd = {child.channel.fileno(): child for child in self._children.values() if not child.channel.closed}
            for fd, _ in ready:
                if fd in by_fd:
                    self._on_channel(by_fd[fd])
            self._drain_inbox()
            if due is not None and now >= due:
                self._tell(ev.Ticked(self._overdue(now)))
                self._drain_inbox()
        self._epoll.close()

    # waiting

    def _next_look(self, now: float) -> float | None:
        """The moment at which something may be overdue.

        An idle worker has no deadline yet, and the request it may get in the next moment has one no sooner than
        after the shortest time-out: looking again by then is soon enough, so an idle service hardly wakes its master.
        """
        moments = [self._mind.next_deadline()]
        for child in self._watched():
            deadline = child.row.doubles[DEADLINE]
            moments.append(max(deadline, self._calm_until) if deadline else None)
        timeouts = [settings.timeout for settings in self._settings_of.values() if settings.timeout]
        moments += [now + min(timeouts)] if timeouts else []
        moments += [now + _NOTIFY_AGAIN_S] if self._notifier.waiting else []
        return min((moment for moment in moments if moment is not None and moment != float("inf")), default=None)

    def _watched(self) -> list[Child]:
        """The children whose requests have a deadline that nobody has acted on yet."""
        stages = (Stage.READY, Stage.RETIRING)
        return [self._children[r.id] for r in self._mind.records if r.stage in stages and r.id in self._children]

    def _overdue(self, now: float) -> tuple[ev.Overdue, ...]:
        if now < self._calm_until:
            return ()
        found = []
        for child in self._watched():
            row = child.row
            deadline, began = row.doubles[DEADLINE], row.doubles[BEGAN]
            if 0.0 < deadline <= now:
                found.append(ev.Overdue(child.id, now - began if began else 0.0, row.line))
        return tuple(found)

    # what happens

    def _on_signals(self) -> None:
        came = self._wakeup.read()
        for number in _PRECEDENCE:
            if number in came:
                self._inbox.append(WISHES[number])
        for number in (signal.SIGUSR2, signal.SIGWINCH):
            if number in came:
                log.info("signal ignored", signal=number.name)
        if signal.SIGCHLD in came:
            self._reap()

    def _reap(self) -> None:
        for pid, code, number in process.reap():
            id = self._ids.pop(pid, None)
            if id is None:
                log.info("reaped a process that is not ours", pid=pid, code=code, signal=number)
                continue
            child = self._children[id]
            self._on_channel(child)  # its last words come before its death
            self._inbox.append(ev.WorkerExited(id, code, number))

    def _on_channel(self, child: Child) -> None:
        if child.channel.closed:
            return
        for raw in child.channel.receive():
            match UP.decode(raw):
                case Ready():
                    self._inbox.append(ev.WorkerReady(child.id))
                case BootFailure(error=error, traceback=text, exit_code=code):
                    self._inbox.append(ev.BootFailed(child.id, error, text, code))
                case Retiring(reason=reason):
                    self._inbox.append(ev.WorkerRetiring(child.id, reason))
                case None:
                    log.warning("unknown message from a child", pid=child.pid, bytes=len(raw))
        if child.channel.closed:
            child.channel.close()  # epoll forgets it; the death itself is CHLD's to tell

    def _drain_inbox(self) -> None:
        while self._inbox:
            self._tell(self._inbox.popleft())

    def _tell(self, event: ev.Event) -> None:
        self._perform(self._mind.handle(event, monotonic()))
        if isinstance(event, ev.WorkerReady):
            self._let_serve(event.id)
        elif isinstance(event, ev.WorkerExited):
            self._forget(event.id)

    def _let_serve(self, id: int) -> None:
        """Have a child accept once the mind counts it as READY: one that is killed before has no connection to lose."""
        if any(record.id == id and record.stage is Stage.READY for record in self._mind.records):
            self._children[id].channel.send(DOWN.encode(Serve()))

    def _forget(self, id: int) -> None:
        child = self._children.pop(id, None)
        if child is not None:
            child.channel.close()
            child.row.clear()

    # what is done

    def _perform(self, todo: list[act.Action]) -> None:
        for action in todo:
            match action:
                case act.Spawn():
                    self._spawn(action)
                case act.Retire(id=id, drain=drain):
                    if drain:
                        self._shut_doors()
                    self._order(id, DOWN.encode(Leave(drain)), signal.SIGTERM)
                case act.Hurry(id=id):
                    self._order(id, DOWN.encode(Hurry()), signal.SIGTERM)
                case act.Dump(id=id):
                    self._dump(id)
                case act.Kill(id=id):
                    if id in self._children:
                        process.send(self._children[id].pid, signal.SIGKILL)
                case act.LoadConfig():
                    self._load_config()
                case act.ReopenLogFiles():
                    self._reopen_logs()
                case act.Notify():
                    self._notifier.send(
                        status=action.status, ready=action.ready, reloading=action.reloading, stopping=action.stopping
                    )
                case act.Say():
                    self._say(action)
                case act.Exit(code=code):
                    self._exit_code = code
                case _:
                    assert_never(action)

    def _spawn(self, spawn: act.Spawn) -> None:
        settings = self._settings_of.setdefault(spawn.generation, self._resolved.settings)
        for generation in [g for g in self._settings_of if g not in self._generations_in_use() | {spawn.generation}]:
            del self._settings_of[generation]
        try:
            ours, theirs = pair()
        except OSError as error:
            self._inbox.append(ev.ForkFailed(spawn.id, f"no channel: {error.strerror}"))
            return
        row = self._board.row(spawn.slot)
        row.clear()
        row.ints[GENERATION] = spawn.generation
        birth = Birth(spawn.slot, spawn.generation, settings, self._listeners, theirs, row)
        try:
            pid = process.fork(lambda: self._child_main(birth), [*self._not_for_children(), ours.close])
        except OSError as error:
            ours.close()
            theirs.close()
            self._inbox.append(ev.ForkFailed(spawn.id, error.strerror or str(error)))
            return
        theirs.close()
        row.ints[PID] = pid
        self._children[spawn.id] = Child(spawn.id, spawn.slot, pid, ours, row)
        self._ids[pid] = spawn.id
        self._epoll.register(ours.fileno(), select.EPOLLIN)
        self._inbox.append(ev.Forked(spawn.id))

    def _generations_in_use(self) -> set[int]:
        return {record.generation for record in self._mind.records} | {self._mind.generation, self._mind.serving}

    def _not_for_children(self) -> list[Callable[[], None]]:
        """What a child closes: everything that is the master's alone."""
        closers = [self._wakeup.close, self._epoll.close, self._notifier.close]
        closers += [child.channel.close for child in self._children.values()]
        return closers + ([self._pidfile.close] if self._pidfile is not None else [])

    def _shut_doors(self) -> None:
        """Let nobody in any more, before workers take for the last time what is queued."""
        if not self._are_doors_shut:
            self._are_doors_shut = True
            for listener in self._listeners:
                listener.shut()

    def _order(self, id: int, message: bytes, instead: signal.Signals) -> None:
        child = self._children.get(id)
        if child is None:
            return
        if not child.channel.send(message):
            process.send(child.pid, instead)
        process.send(child.pid, signal.SIGCONT)  # a stopped one would not hear it

    def _dump(self, id: int) -> None:
        child = self._children.get(id)
        if child is None:
            return
        log.error("worker was asked for its stacks", pid=child.pid, slot=child.slot, **usage.explain(child.pid))
        process.send(child.pid, signals.DUMP)
        process.send(child.pid, signal.SIGCONT)

    def _load_config(self) -> None:
        old = self._resolved.settings
        try:
            resolved = self._resolved.reload()
            _setup_log(resolved.settings)
        except ForkserveError as error:
            self._inbox.append(ev.ConfigRejected("; ".join(str(error).splitlines())))
            return
        self._resolved = resolved
        new = resolved.settings
        for change in diff(old, new):
            when = "new workers" if change.effect is Effect.RELOAD else "the next start"
            log.info("setting changed", name=change.name, old=change.old, new=change.new, applies_to=when)
        title.set_name(new.proc_name)
        self._shown = ""
        self._inbox.append(ev.ConfigLoaded(_policy(new), resize=old.workers != new.workers))

    def _reopen_logs(self) -> None:
        try:
            log.file.reopen()
        except OSError as error:
            log.error("log could not be reopened; the old file stays in use", path=log.file.path, cause=error.strerror)
        for child in self._children.values():
            if not child.channel.closed:
                child.channel.send(DOWN.encode(Reopen()))

    def _say(self, say: act.Say) -> None:
        fields = dict(say.fields)
        child = self._children.get(say.id)
        if child is not None:
            fields["pid"] = child.pid
        log.say(say.level, say.sentence, fields, say.detail)

    def _show_title(self) -> None:
        shown = f"{self._mind.generation} {self._mind.phase.value}"
        if shown != self._shown:
            self._shown = shown
            title.set_title("master", self._mind.generation)


def _jitter() -> float:
    """Return 0..1, anew at each call; the random module would cost a millisecond of every start."""
    return int.from_bytes(os.urandom(4)) / 0xFFFFFFFF


def _policy(settings: Settings) -> ev.Policy:
    return ev.Policy(
        size=settings.workers,
        surge=settings.reload_surge,
        boot_timeout_s=settings.boot_timeout,
        grace_s=settings.graceful_timeout,
        reload_retries=settings.reload_retries,
        reload_timeout_s=settings.reload_timeout,
    )


def _setup_log(settings: Settings) -> None:
    try:
        log.setup(settings.errorlog, settings.loglevel)
    except OSError as error:
        raise SettingsError(f"errorlog = {settings.errorlog!r}: cannot be opened: {error.strerror}") from None
