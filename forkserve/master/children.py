"""The processes behind the mind's records: fork them, speak with them, signal them, reap them. Runs in the master.

What they say and how they end comes back as events; whom to spawn, retire or kill is the mind's decision.
"""

import mmap
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from forkserve.birth import Birth, ChildMain
from forkserve.errors import ExitCode
from forkserve.log import log
from forkserve.master import actions as act
from forkserve.master import events as ev
from forkserve.master import handover as over
from forkserve.master import process
from forkserve.master.outfit import Outfit
from forkserve.master.relief import Relief
from forkserve.typed import Struct
from forkserve.unix import privileges, signals, stacks, usage
from forkserve.unix.bell import Bell
from forkserve.unix.channel import Channel, pair
from forkserve.unix.messages import (
    DOWN,
    UP,
    BootFailure,
    Down,
    Dumped,
    Look,
    Ready,
    Reopen,
    Retiring,
    Spent,
    Stuck,
    Tired,
    boot_failure,
)
from forkserve.unix.orphan import Lifeline
from forkserve.unix.relay import Relay
from forkserve.unix.scoreboard import GENERATION, ORDERED, PID, SERVES, SLOTS, Row, Scoreboard
from forkserve.unix.surroundings import arrange, enter


class Child(Struct):
    """One process."""

    id: int
    slot: int
    pid: int
    channel: Channel
    row: Row
    stacks: int = -1  # where it writes them; -1: into the log, as a worker of an older forkserve
    bell: Bell | None = None
    seen: int = 0  # for Relief
    rung: int = 0
    is_strange: bool = False  # it has said what nobody understands


class Children:
    """All that are not reaped."""

    def __init__(self, epoll: select.epoll, main: ChildMain, old: over.Handover | None = None) -> None:
        """Begin with none, or with those of the master that we were; what it could not hear yet is still to be read."""
        self._epoll = epoll
        self._board = Scoreboard(old.board) if old else Scoreboard()
        self._spooled = memoryview(mmap.mmap(-1, 8 * SLOTS)).cast("q")  # workers of a master that we were have another
        self._main = main
        self._by_id: dict[int, Child] = {}
        self._lifeline = Lifeline(old.lifeline if old else None)
        self.relay = Relay(old.relay if old else None)
        self.relief = Relief(self._by_id.values, Bell(old.call if old else -1))
        epoll.register(self.relief.call.fd, select.EPOLLIN)
        self._by_pid: dict[int, Child] = {}
        self._by_fd: dict[int, Child] = {}
        for known in old.children if old else ():
            self._resume(known)

    def hand_over(self) -> list[over.OldChild]:
        """Write down who lives."""
        found = []
        for child in self._by_id.values():
            channel = -1 if child.channel.closed else child.channel.fileno()
            bell = -1 if child.bell is None else child.bell.fd
            found.append(over.OldChild(child.id, child.slot, child.pid, channel, child.stacks, bell))
        return found

    @property
    def shared(self) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """The descriptors of the scoreboard, the lifeline and the relay."""
        return self._board.fd, self._lifeline.ends, self.relay.ends

    def close(self) -> None:
        """Let go of what the children shared, at the end of the service."""
        self._lifeline.close()
        self.relay.close()
        self.relief.call.close()
        self._board.let_go()

    def get(self, id: int) -> Child | None:
        """The child of this id, if it is not reaped."""
        return self._by_id.get(id)

    def spawn(
        self,
        spawn: act.Spawn,
        outfit: Outfit,
        leave_behind: Iterable[Callable[[], None]],
    ) -> ev.Event:
        """Fork a child; it closes by ``leave_behind`` what is the master's. Returns Forked or ForkFailed."""
        try:
            written = stacks.make()
        except OSError as error:
            return ev.ForkFailed(spawn.id, f"no room for its stacks: {error.strerror}")
        bell = None
        try:
            if outfit.settings.relay and outfit.settings.threads == 1:
                bell = Bell()
            ours, theirs = pair()
        except OSError as error:
            os.close(written)
            if bell is not None:
                bell.close()
            return ev.ForkFailed(spawn.id, f"no channel: {error.strerror}")
        row = self._board.row(spawn.slot)
        row.clear()
        row.ints[GENERATION] = spawn.generation
        self._spooled[spawn.slot] = 0
        settings = outfit.settings
        birth = Birth(
            spawn.slot, spawn.generation, settings, tuple(one for one in outfit.listeners if one.is_open), theirs, row,
            self._board.siblings(spawn.slot), self._lifeline, self.relay,
            written, bell, self.relief.call, self._spooled, outfit.context,
        )  # fmt: skip
        others = [child.channel.close for child in self._by_id.values()]
        others += [partial(os.close, child.stacks) for child in self._by_id.values() if child.stacks >= 0]
        others += [child.bell.close for child in self._by_id.values() if child.bell is not None]
        others += [ours.close, self._lifeline.let_go, self._board.let_go]
        try:
            pid = process.fork(lambda: self._begin(birth, outfit), [*leave_behind, *others])
        except OSError as error:
            ours.close()
            theirs.close()
            os.close(written)
            if bell is not None:
                bell.close()
            return ev.ForkFailed(spawn.id, error.strerror or str(error))
        theirs.close()
        row.ints[PID] = pid
        self._add(Child(spawn.id, spawn.slot, pid, ours, row, written, bell))
        return ev.Forked(spawn.id)

    def _begin(self, birth: Birth, outfit: Outfit) -> int:
        """In the child: go to the folder of its generation and become who it shall be, before the user's code."""
        try:
            if outfit.folder:
                enter(outfit.folder, os.environ)
        except OSError as error:
            if not os.path.isabs(birth.settings.chdir):  # else nobody needs it
                return _refuse(birth, f"the folder of this generation, {outfit.folder!r}: {error.strerror}")
        try:
            outfit.identity.take()
        except OSError as error:
            who = f"user = {birth.settings.user!r}, group = {birth.settings.group!r}"
            return _refuse(birth, f"{who}: refused: {error.strerror}")
        if birth.settings.no_new_privs:
            try:
                privileges.gain_none()
            except OSError as error:
                return _refuse(birth, f"no_new_privs: refused: {error.strerror}; set it to false")
        arrange(birth.settings.env, birth.settings.pythonpath)
        return self._main(birth)

    def _add(self, child: Child) -> None:
        self._by_id[child.id] = self._by_pid[child.pid] = child
        self.relief.begin()
        if not child.channel.closed:
            self._by_fd[child.channel.fileno()] = child
            self._epoll.register(child.channel.fileno(), select.EPOLLIN)

    def _resume(self, known: over.OldChild) -> None:
        if known.channel >= 0:
            channel = Channel(socket.socket(fileno=known.channel))
        else:
            channel, _ = pair()
            channel.close()
        bell = None if known.bell < 0 else Bell(known.bell)
        self._add(Child(known.id, known.slot, known.pid, channel, self._board.row(known.slot), known.stacks, bell))

    def tell(self, id: int, message: Down, instead: signal.Signals) -> None:
        """Give a child an order, or, if its channel is full or gone, a signal instead; a stopped one is continued."""
        child = self._by_id.get(id)
        if child is not None:
            if not child.channel.send(DOWN.encode(message)):
                process.send(child.pid, instead)
            process.send(child.pid, signal.SIGCONT)

    def tell_all_to_reopen(self) -> None:
        """Ask every child to open its log files anew."""
        for child in self._by_id.values():
            if not child.channel.closed:
                child.channel.send(DOWN.encode(Reopen()))

    def tell_all_to_look(self) -> None:
        """Have every child look whether its listeners listen by now."""
        for id in self._by_id:
            self.tell(id, Look(), signal.SIGTERM)

    def _tell_others_to_look(self, stuck: Child) -> None:
        for child in self._by_id.values():
            if child is not stuck and not child.channel.closed:
                child.channel.send(DOWN.encode(Look()))

    def dump(self, id: int, deadline: float) -> None:
        """Make a child write its stacks; ``deadline`` of the request that is overdue, 0: it is about the child."""
        child = self._by_id.get(id)
        if child is not None:
            child.row.doubles[ORDERED] = deadline
            log.error("worker was asked for its stacks", pid=child.pid, slot=child.slot, **usage.explain(child.pid))
            process.send(child.pid, signals.DUMP)
            process.send(child.pid, signal.SIGCONT)
            self._tell_others_to_look(child)  # the kernel may have woken it alone for who waits

    def _tell_stacks(self, child: Child) -> None:
        """Log what it has written; in one record, and as the one who writes it."""
        text = stacks.take(child.stacks) if child.stacks >= 0 else ""
        if text:
            log.error("worker was asked for its stacks and wrote them", detail=text, pid=child.pid, slot=child.slot)

    def cancel(self, id: int) -> None:
        """Make a child that boots end, by the signal that has it write its stacks: nobody wants to read them."""
        child = self._by_id.get(id)
        if child is not None:
            if child.stacks >= 0:
                os.close(child.stacks)
                child.stacks = -1
            process.send(child.pid, signals.DUMP)
            process.send(child.pid, signal.SIGCONT)

    def kill(self, id: int) -> None:
        """SIGKILL a child."""
        child = self._by_id.get(id)
        if child is not None:
            self._tell_stacks(child)
            process.send(child.pid, signal.SIGKILL)

    def hear(self, fd: int) -> Iterator[ev.Event]:
        """Yield what the child on this descriptor has said; nothing if there is none."""
        child = self._by_fd.get(fd)
        if child is None:
            return
        for raw in child.channel.receive():
            match UP.decode(raw):
                case Ready():
                    yield ev.WorkerReady(child.id)
                case BootFailure(error=error, traceback=text, exit_code=code):
                    yield ev.BootFailed(child.id, error, text, code)
                case Retiring(reason=reason):
                    yield ev.WorkerRetiring(child.id, reason, told=reason == signal.SIGTERM.name)
                case Tired(reason=reason):
                    yield ev.WorkerTired(child.id, reason)
                case Dumped():
                    self._tell_stacks(child)
                case Spent():
                    yield ev.WorkerSpent(child.id)
                case Stuck():
                    self._tell_others_to_look(child)
                case None:
                    if not child.is_strange:
                        child.is_strange = True
                        log.warning("unknown message from a child", pid=child.pid, bytes=len(raw))
        if child.channel.closed:
            self._hang_up(child)

    def reap(self, trial: Callable[[int, process.Ended], ev.Event | None]) -> Iterator[ev.Event]:
        """Yield how children ended, were stopped or continued; an ending child's last words come first.

        ``trial`` is asked about strangers: what it answers is yielded too.
        """
        for pid, change in process.reap():
            child = self._by_pid.get(pid)
            if child is None:
                if not isinstance(change, process.Ended):
                    continue
                if (event := trial(pid, change)) is not None:
                    yield event
                else:
                    log.info("reaped a process that is not ours", pid=pid, code=change.code, signal=change.signal)
                continue
            match change:
                case process.Ended(code=code, signal=number):
                    if number:  # the kernel may have woken it alone for who waits
                        self._tell_others_to_look(child)
                    if not child.channel.closed:
                        yield from self.hear(child.channel.fileno())
                    self._tell_stacks(child)
                    yield ev.WorkerExited(child.id, code, number, child.row.begun > 0, self._serves(child))
                case process.Stopped():
                    yield ev.WorkerStopped(child.id)
                case process.Continued():
                    yield ev.WorkerContinued(child.id)

    def _serves(self, child: Child) -> bool:
        """Whether this child, or one of its generation that lives, has ended a request."""
        generation = child.row.ints[GENERATION]
        return any(other.row.ended and other.row.ints[GENERATION] == generation for other in self._by_id.values())

    def forget(self, id: int) -> None:
        """Drop a child whose end was told."""
        child = self._by_id.pop(id, None)
        if child is not None:
            del self._by_pid[child.pid]
            if child.row.ints[PID] == child.pid:  # its row may be its successor's by now
                self._spooled[child.slot] = 0
                child.row.ints[SERVES] = 0
            self._hang_up(child)
            if child.stacks >= 0:
                os.close(child.stacks)
            if child.bell is not None:
                child.bell.close()

    def _hang_up(self, child: Child) -> None:
        fd = next((fd for fd, known in self._by_fd.items() if known is child), None)
        if fd is not None:
            del self._by_fd[fd]
            child.channel.close()  # epoll forgets it; the death itself is CHLD's to tell


def _refuse(birth: Birth, line: str) -> int:
    """In the child: say why it cannot be born."""
    birth.channel.send(UP.encode(boot_failure(line, "", ExitCode.FAILURE)))
    return ExitCode.FAILURE
