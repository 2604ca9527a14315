"""The hands of the master: wait, tell the mind what happened, do what it says; what comes of that is the next event.

Single-threaded and small; it never runs user code, never parses a request and never waits for anything but epoll.
"""

import os
import select
import signal
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, assert_never

from forkserve import __version__
from forkserve.accesslog import check_format
from forkserve.birth import ChildMain
from forkserve.config.resolve import Resolved, diff
from forkserve.config.settings import Settings
from forkserve.config.values import parse_share
from forkserve.errors import ExitCode, ForkserveError, SettingsError
from forkserve.log import log
from forkserve.master import actions as act
from forkserve.master import events as ev
from forkserve.master import process
from forkserve.master.children import Child, Children
from forkserve.master.control import Control
from forkserve.master.doors import Doors
from forkserve.master.outfit import Outfit, tls_context
from forkserve.master.records import Stage
from forkserve.master.status import snapshot
from forkserve.master.supervisor import Supervisor
from forkserve.master.verbs import Verbs
from forkserve.net import address, inherit
from forkserve.net.listener import Listener
from forkserve.unix import signals, title, usage
from forkserve.unix.messages import Hurry, Leave, Serve
from forkserve.unix.notify import Notifier
from forkserve.unix.pidfile import Pidfile
from forkserve.unix.scoreboard import BEGAN, DEADLINE, Scoreboard

# What each signal asks for, in the order in which several that came together are met: stop before reload before scale
# before reopen. CHLD is not here: it is no wish.
WISHES: dict[signal.Signals, ev.Wish] = {
    signal.SIGQUIT: ev.Stop(),
    signal.SIGINT: ev.Stop(),
    signal.SIGTERM: ev.Drain(),
    signal.SIGHUP: ev.Reload(),
    signal.SIGTTIN: ev.Scale(by=1),
    signal.SIGTTOU: ev.Scale(by=-1),
    signal.SIGUSR1: ev.ReopenLogs(),
}

_OVERSLEPT_S = 1.0
_NOTIFY_AGAIN_S = 0.1  # a service manager whose queue is full is asked again after this
_WEIGH_S = 1.0  # how often memory is looked at, where it has a hard limit
_LONGEST_WAIT_S = 86400.0  # epoll_wait counts milliseconds in an int


class Master:
    """One master, from its start to its exit code."""

    def __init__(self, resolved: Resolved, child: ChildMain) -> None:
        self._resolved = resolved
        self._child_main = child
        self._mind = Supervisor(_policy(resolved.settings), _jitter)
        self._doors = Doors()
        self._outfit = Outfit(resolved.settings, ())  # that a new generation gets
        self._outfits: dict[int, Outfit] = {}  # by generation: a respawn gets that of its own
        self._inbox: deque[ev.Event] = deque()
        self._exit_code: int | None = None
        self._shown = ""
        self._calm_until = 0.0  # after an oversleep nobody is looked at for overdue requests before this
        self._weigh_at = 0.0
        self._began_at = monotonic()

    def run(self) -> int:
        """Serve until told to stop; returns the exit code. Raises ForkserveError for what fails before serving."""
        settings = self._resolved.settings
        process.fill_standard_descriptors()
        signals.normalise()
        self._wakeup = signals.Wakeup(signals.MASTER)
        self._notifier = Notifier.from_environment()
        self._handed = inherit.handed_in()
        title.set_name(settings.proc_name)
        _setup_log(settings)
        self._pidfile = Pidfile(settings.pidfile) if settings.pidfile else None
        try:
            log.info("forkserve started", version=__version__, app=settings.app, workers=settings.workers)
            wanted = self._wanted(self._resolved)
            context = tls_context(settings)
            self._outfit = Outfit(settings, self._doors.prepare(wanted, settings.backlog), context)
            for unwanted in inherit.close_unwanted(self._handed, wanted):
                log.warning("socket handed in is not used; closed", address=unwanted, instead=", ".join(settings.bind))
            self._live(settings)
        finally:
            self._doors.close()
            if self._pidfile is not None:
                self._pidfile.remove()
        assert self._exit_code is not None
        if self._exit_code == ExitCode.OK:  # else the reason was said last, and stays last
            log.info("stopped")
        return self._exit_code

    def _wanted(self, resolved: Resolved) -> tuple[address.Address, ...]:
        if self._handed and "bind" not in resolved.origins:
            return self._handed
        return tuple(address.parse(text) for text in resolved.settings.bind)

    def _live(self, settings: Settings) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._wakeup.read_fd, select.EPOLLIN)
        self._children = Children(self._epoll, Scoreboard(), self._child_main)
        self._verbs = Verbs(self._wish, self._status)
        where = settings.control_socket
        self._control = Control(where, self._epoll, self._verbs.handle) if where else None
        try:
            self._perform(self._mind.start(monotonic()))
            self._drain_inbox()
            while self._exit_code is None:
                self._show_title()
                self._round()
        finally:
            if self._control is not None:
                self._control.close()
            self._children.close()
            self._epoll.close()

    def _round(self) -> None:
        """Wait once, and meet what came."""
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
        for fd, _ in ready:
            if self._control is not None and self._control.knows(fd):
                self._control.on_event(fd)
            else:
                self._inbox.extend(self._children.hear(fd))
        self._drain_inbox()
        if due is not None and now >= due:
            self._weigh(now)
            self._tell(ev.Ticked(self._overdue(now)))
            self._drain_inbox()

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
        timeouts = [outfit.settings.timeout for outfit in self._outfits.values() if outfit.settings.timeout]
        moments += [now + min(timeouts)] if timeouts else []
        moments += [now + _NOTIFY_AGAIN_S] if self._notifier.waiting else []
        moments += [max(now, self._weigh_at)] if self._resolved.settings.max_worker_memory_hard else []
        return min((moment for moment in moments if moment is not None and moment != float("inf")), default=None)

    def _watched(self) -> list[Child]:
        """The children whose requests have a deadline that nobody has acted on yet."""
        serving = [record.id for record in self._mind.records if record.stage in (Stage.READY, Stage.RETIRING)]
        return [child for id in serving if (child := self._children.get(id)) is not None]

    def _overdue(self, now: float) -> tuple[ev.Overdue, ...]:
        if now < self._calm_until:
            return ()
        found = []
        for child in self._watched():
            deadline, began = child.row.doubles[DEADLINE], child.row.doubles[BEGAN]
            if 0.0 < deadline <= now:
                found.append(ev.Overdue(child.id, now - began if began else 0.0, child.row.line))
        return tuple(found)

    def _weigh(self, now: float) -> None:
        """Report the children beyond the hard limit of memory."""
        limit = self._resolved.settings.max_worker_memory_hard
        if not limit or now < self._weigh_at:
            return
        self._weigh_at = now + _WEIGH_S
        for child in self._watched():
            rss = usage.resident_bytes(child.pid)
            if rss > limit:
                self._inbox.append(ev.WorkerTooBig(child.id, rss, limit))
        self._drain_inbox()

    # what happens

    def _on_signals(self) -> None:
        came = self._wakeup.read()
        for number, wish in WISHES.items():
            if number in came:
                self._inbox.append(wish)
        for number in (signal.SIGUSR2, signal.SIGWINCH):
            if number in came:
                log.info("signal ignored", signal=number.name)
        if signal.SIGCHLD in came:
            self._inbox.extend(self._children.reap())

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
                case act.Dump(id=id):
                    self._children.dump(id)
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
                case act.ShutDoors():
                    self._doors.shut()
                case act.Settle(generation=generation):
                    self._doors.settle(self._outfit_of(generation).listeners)
                case act.Say():
                    self._say(action)
                case act.Exit(code=code):
                    self._exit_code = code
                case _:
                    assert_never(action)

    def _spawn(self, spawn: act.Spawn) -> ev.Event:
        outfit = self._outfit_of(spawn.generation)
        in_use = {record.generation for record in self._mind.records} | {self._mind.generation, self._mind.serving}
        for generation in set(self._outfits) - in_use - {spawn.generation}:
            del self._outfits[generation]
        return self._children.spawn(spawn, outfit, self._not_for_children(outfit.listeners))

    def _outfit_of(self, generation: int) -> Outfit:
        return self._outfits.setdefault(generation, self._outfit)

    def _not_for_children(self, listeners: tuple[Listener, ...]) -> list[Callable[[], None]]:
        """What a child closes: everything that is the master's alone, and the listeners of other generations."""
        closers: list[Callable[[], None]] = [self._wakeup.close, self._epoll.close, self._notifier.close]
        closers += [listener.close for listener in self._doors.all if listener not in listeners]
        if self._control is not None:
            closers.append(self._control.let_go)
        return closers + ([self._pidfile.close] if self._pidfile is not None else [])

    def _load_config(self) -> ev.Event:
        old = self._resolved.settings
        try:
            resolved = self._resolved.reload()
            check_format(resolved.settings.access_log_format)
            _setup_log(resolved.settings)
            try:
                context = tls_context(resolved.settings)
                listeners = self._doors.prepare(self._wanted(resolved), resolved.settings.backlog)
            except ForkserveError:
                _setup_log(old)
                raise
        except ForkserveError as error:
            return ev.ConfigRejected("; ".join(str(error).splitlines()))
        new = resolved.settings
        self._resolved, self._outfit = resolved, Outfit(new, listeners, context)
        for change in diff(old, new):
            old_text, new_text = change.spelled()
            log.info("setting changed", name=change.name, old=old_text, new=new_text, applies_to=change.applies_to)
        title.set_name(new.proc_name)
        self._shown = ""
        return ev.ConfigLoaded(_policy(new), resize=old.workers != new.workers)

    def _reopen_logs(self) -> None:
        try:
            log.file.reopen()
        except OSError as error:
            log.error("log could not be reopened; the old file stays in use", path=log.file.path, cause=error.strerror)
        self._children.tell_all_to_reopen()

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
        shown = f"{self._mind.generation} {self._mind.phase.value}"
        if shown != self._shown:
            self._shown = shown
            title.set_title("master", self._mind.generation)


def _jitter() -> float:
    """Return 0..1, anew at each call; the random module would cost a millisecond of every start."""
    return int.from_bytes(os.urandom(4)) / 0xFFFFFFFF


def _policy(settings: Settings) -> ev.Policy:
    surge = settings.reload_surge
    return ev.Policy(
        size=settings.workers,
        surge=1 if surge.endswith("%") else int(parse_share(surge, 0)),
        surge_percent=int(surge[:-1]) if surge.endswith("%") else 0,
        boot_timeout_s=settings.boot_timeout,
        grace_s=settings.graceful_timeout,
        reload_retries=settings.reload_retries,
        reload_timeout_s=settings.reload_timeout,
        reload_settle_s=settings.reload_settle,
        timeout_s=settings.timeout,
        drain_delay_s=settings.drain_delay,
    )


def _setup_log(settings: Settings) -> None:
    try:
        log.setup(settings.errorlog, settings.loglevel)
    except OSError as error:
        raise SettingsError(f"errorlog = {settings.errorlog!r}: cannot be opened: {error.strerror}") from None
