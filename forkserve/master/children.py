"""The processes behind the mind's records: fork them, speak with them, signal them, reap them. Runs in the master.

What they say and how they end comes back as events; whom to spawn, retire or kill is the mind's decision.
"""

import select
import signal
from collections.abc import Callable, Iterable, Iterator

from forkserve.birth import Birth, ChildMain
from forkserve.log import log
from forkserve.master import actions as act
from forkserve.master import events as ev
from forkserve.master import process
from forkserve.master.outfit import Outfit
from forkserve.typed import Struct
from forkserve.unix import signals, usage
from forkserve.unix.channel import Channel, pair
from forkserve.unix.messages import DOWN, UP, BootFailure, Down, Look, Ready, Reopen, Retiring, Stuck, Tired
from forkserve.unix.orphan import Lifeline
from forkserve.unix.relay import Relay
from forkserve.unix.scoreboard import GENERATION, PID, Row, Scoreboard


class Child(Struct):
    """One process."""

    id: int
    slot: int
    pid: int
    channel: Channel
    row: Row


class Children:
    """All that are not reaped."""

    def __init__(self, epoll: select.epoll, board: Scoreboard, main: ChildMain) -> None:
        self._epoll = epoll
        self._board = board
        self._main = main
        self._lifeline = Lifeline()
        self._relay = Relay()
        self._by_id: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._by_fd: dict[int, Child] = {}

    def close(self) -> None:
        """Let go of what the children shared, at the end of the service."""
        self._lifeline.close()
        self._relay.close()

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
            ours, theirs = pair()
        except OSError as error:
            return ev.ForkFailed(spawn.id, f"no channel: {error.strerror}")
        row = self._board.row(spawn.slot)
        row.clear()
        row.ints[GENERATION] = spawn.generation
        settings = outfit.settings
        relay = self._relay if settings.relay else None
        birth = Birth(
            spawn.slot, spawn.generation, settings, outfit.listeners, theirs, row, self._lifeline, relay,
            outfit.context,
        )  # fmt: skip
        others = [child.channel.close for child in self._by_id.values()]
        others += [] if settings.relay else [self._relay.close]
        try:
            pid = process.fork(lambda: self._main(birth), [*leave_behind, *others, ours.close, self._lifeline.let_go])
        except OSError as error:
            ours.close()
            theirs.close()
            return ev.ForkFailed(spawn.id, error.strerror or str(error))
        theirs.close()
        row.ints[PID] = pid
        child = Child(spawn.id, spawn.slot, pid, ours, row)
        self._by_id[spawn.id] = self._by_pid[pid] = self._by_fd[ours.fileno()] = child
        self._epoll.register(ours.fileno(), select.EPOLLIN)
        return ev.Forked(spawn.id)

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

    def _tell_others_to_look(self, stuck: Child) -> None:
        for child in self._by_id.values():
            if child is not stuck and not child.channel.closed:
                child.channel.send(DOWN.encode(Look()))

    def dump(self, id: int) -> None:
        """Make a child write its stacks."""
        child = self._by_id.get(id)
        if child is not None:
            log.error("worker was asked for its stacks", pid=child.pid, slot=child.slot, **usage.explain(child.pid))
            process.send(child.pid, signals.DUMP)
            process.send(child.pid, signal.SIGCONT)

    def kill(self, id: int) -> None:
        """SIGKILL a child."""
        child = self._by_id.get(id)
        if child is not None:
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
                case Stuck():
                    self._tell_others_to_look(child)
                case None:
                    log.warning("unknown message from a child", pid=child.pid, bytes=len(raw))
        if child.channel.closed:
            self._hang_up(child)

    def reap(self) -> Iterator[ev.Event]:
        """Yield how children ended, were stopped or continued; an ending child's last words come first."""
        for pid, change in process.reap():
            child = self._by_pid.get(pid)
            if child is None:
                if isinstance(change, process.Ended):
                    log.info("reaped a process that is not ours", pid=pid, code=change.code, signal=change.signal)
                continue
            match change:
                case process.Ended(code=code, signal=number):
                    if not child.channel.closed:
                        yield from self.hear(child.channel.fileno())
                    yield ev.WorkerExited(child.id, code, number)
                case process.Stopped():
                    yield ev.WorkerStopped(child.id)
                case process.Continued():
                    yield ev.WorkerContinued(child.id)

    def forget(self, id: int) -> None:
        """Drop a child whose end was told."""
        child = self._by_id.pop(id, None)
        if child is not None:
            del self._by_pid[child.pid]
            self._hang_up(child)
            child.row.clear()

    def _hang_up(self, child: Child) -> None:
        fd = next((fd for fd, known in self._by_fd.items() if known is child), None)
        if fd is not None:
            del self._by_fd[fd]
            child.channel.close()  # epoll forgets it; the death itself is CHLD's to tell
