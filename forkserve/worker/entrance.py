"""How connections come into a worker: from its listeners, and from siblings by the relay.

A worker that runs a request is not in epoll_wait, so the kernel gives newcomers to idle siblings. Knows of a connection
only how it begins.
"""

import errno
import os
from collections.abc import Callable, Sequence
from select import EPOLLEXCLUSIVE, EPOLLIN, POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.net.address import Family
from forkserve.net.listener import Listener
from forkserve.protocol.types import Environ
from forkserve.unix.messages import UP, Stuck
from forkserve.unix.relay import Moved, Relay
from forkserve.worker.connection import Connection
from forkserve.worker.door import Door, kind_of_door, protocol_of
from forkserve.worker.state import BODY, HEAD, IDLE, OPENING, WRITING

if TYPE_CHECKING:
    import ssl

    from forkserve.unix.channel import Channel
    from forkserve.worker.loop import Loop

_FEW = 16
_FEW_ASKED = 4  # whoever has sent a request is served at once
_SAY_AGAIN_S = 60.0
_UNSEEN_S = 0.25
_SILENT_S = 1.0
_TURNS_ALONE = 8
_TELL_AGAIN_S = 0.02
# Nothing is wrong with the listener itself: the process, the machine or the peer lacks something for a moment.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
EXHAUSTED_PAUSE_S = 0.5
_ACCEPT = EPOLLIN | EPOLLEXCLUSIVE
_NEVER = float("inf")


class Entrance:
    """The doors of one worker, and the relay as one more."""

    def __init__(
        self,
        loop: "Loop",
        settings: Settings,
        listeners: Sequence[Listener],
        relay: Relay | None,
        channel: "Channel",
        context: "ssl.SSLContext | None",
        *,
        generation: int,
        slot: int,
    ) -> None:
        self._loop = loop
        self._channel = channel
        extend = loop.timer.extend_deadline

        def make_door(one: Listener) -> Door:
            door = kind_of_door(one)(
                one, settings, context, loop.kind,
                generation=generation, slot=slot, extend_deadline=extend, spool=loop.spool,
            )  # fmt: skip
            door.template["forkserve.retire"] = loop.ask_for_replacement
            return door

        self._make_door: Callable[[Listener], Door] = make_door
        doors = [make_door(one) for one in listeners]
        self._doors = {door.fileno(): door for door in doors}
        self._by_name = {door.name: door for door in reversed(doors)}  # one that stands in comes after its like
        self._asleep = {fd for fd, door in self._doors.items() if not door.listener.listens}
        self._abstract = {fd for fd, door in self._doors.items() if door.listener.address.family is Family.ABSTRACT}
        self._relay = relay
        if relay is not None:
            relay.reserve()
        self._relay_fd = -1 if relay is None else relay.fileno()
        self.fds = frozenset([*self._doors, *([] if relay is None else [self._relay_fd])])
        self._most_connections = settings.worker_connections
        self.is_open = False
        # Alone, as far as we know, we need no fair share. More than one of a kind would come to a pool that was scaled
        # up. Saves 1.5 us of the 30 that a connection costs.
        self._most_turns = 1 if settings.workers > 1 else _TURNS_ALONE
        self._turns = 1
        self.open_again_at = _NEVER  # not before the master says Serve
        self._said_at = self._full_said_at = -_NEVER
        self._tell_again_at = 0.0

    def open(self) -> None:
        """Take newcomers from now on."""
        self.is_open = True
        for fd in self.fds - self._asleep:
            self._loop.epoll.register(fd, _ACCEPT)
        self._wake()

    def _wake(self) -> None:
        """Begin with the listeners that only were bound when we were born: another one stood in for them."""
        for fd in [fd for fd in self._asleep if self._doors[fd].listener.listens]:
            self._asleep.remove(fd)
            if self.is_open:
                self._loop.epoll.register(fd, _ACCEPT)

    def close(self, *, exhausted: bool = False) -> None:
        """Leave newcomers to the siblings. What is queued now may have woken only us: it is ours to take."""
        if self.is_open:
            for fd in self.fds - self._asleep:
                self._loop.epoll.unregister(fd)
            self.is_open = False
            if not exhausted:
                self._take_queued()

    def drain(self) -> None:
        """The service stops: the listeners are shut, and who is queued is still taken."""
        for door in self._doors.values():
            door.accept_late()

    def leave_to_siblings(self) -> None:
        """Take nobody any more, though the kernel may have woken us alone for who waits: the others are told."""
        if self.is_open:
            self.close(exhausted=True)
            self._channel.send(UP.encode(Stuck()))

    def rest(self) -> None:
        """Leave newcomers to the siblings, until there is a thread for them. Not between the events of one wake-up: it
        may have come to us alone."""
        self.close(exhausted=True)

    def may_open(self, now: float) -> bool:
        """Whether a closed entrance can be opened again."""
        if now < self.open_again_at or self._loop.is_busy:
            return False
        return len(self._loop.connections) < self._most_connections or self._make_room()

    def on_readable(self, fd: int) -> None:
        """Somebody waits at this door."""
        if not self.is_open:
            return
        if not self._admit(fd):
            self._leave_if_shut(fd)
            self._leave_if_ended(fd)
            return
        if not self.is_open:
            return
        # At the end of the listener's wait queue again: without this one worker gets nearly every connection
        # (measured on 4 idle workers: 160/0/0/0 of 160, with it 40/40/40/40). EPOLLEXCLUSIVE cannot be modified.
        self._turns -= 1
        if self._turns <= 0:
            self._turns = self._most_turns
            self._loop.epoll.unregister(fd)
            self._loop.epoll.register(fd, _ACCEPT)

    def _leave_if_shut(self, fd: int) -> None:
        """Leave an abstract socket with an empty queue in a stop: nobody can come, yet it reads as readable for ever
        (Listener.shut)."""
        if fd in self._abstract and self.is_open and self._loop.is_retiring:
            self._loop.epoll.unregister(fd)
            self.fds -= {fd}

    def _leave_if_ended(self, fd: int) -> None:
        """Let go of a listener that has ended for everybody (Listener.end): it stood in for another one until a reload
        was over, or the service stops."""
        door = self._doors.get(fd)
        if door is not None and fd in self.fds - self._asleep and not door.listener.listens:
            self._loop.epoll.unregister(fd)
            self.fds -= {fd}
            # The port becomes free; the number stays ours, since the loop knows it as that of a door.
            os.dup2(self._loop.epoll.fileno(), fd, inheritable=False)

    def look(self) -> None:
        """Look at every door once."""
        self._wake()
        for fd in self.fds - self._asleep:
            if self.is_open:
                self._loop.readers[fd]()

    def tell_of_newcomer(self, fd: int) -> None:
        """Have the siblings look: somebody waits at this door, and the kernel may have woken us alone, who run a
        request. In the attendant's thread. Nobody is taken for others: who waits keeps his place."""
        now = monotonic()
        if self.is_open and fd in self.fds and now >= self._tell_again_at:
            self._tell_again_at = now + _TELL_AGAIN_S
            self._channel.send(UP.encode(Stuck()))

    def take_next(self) -> bool:
        """Take one more of the queues, whether open or not; False when they are empty."""
        return any(self._admit(fd) for fd in self.fds - self._asleep)

    def let_go(self) -> None:
        """Close this process's copies, in a child that the app has forked."""
        for door in self._doors.values():
            door.listener.close()
        if self._relay is not None:
            self._relay.close()

    def _admit(self, fd: int) -> bool:
        """Take one connection; False if there was none."""
        loop = self._loop
        try:
            if fd == self._relay_fd:
                is_taken = self._take_over()
            else:
                is_taken = True
                door = self._doors[fd]
                new_fd, peer = door.accept()
                template = door.template_for(peer)
                connection = door.kind(loop, new_fd, door.family, peer, door, template)
                loop.add(connection)
                if door.has_opening:
                    loop.readers[new_fd] = self._opening(connection, door, template)
        except BlockingIOError:
            return False  # a sibling was faster
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return False  # else the peer was: ECONNABORTED and its like, accept(2)
        if not is_taken:
            return False
        if len(loop.connections) >= self._most_connections and not self._make_room():
            self.close(exhausted=self._most_turns > 1)  # alone: whoever waits can wait for us
        return True

    def _opening(self, connection: Connection, door: Door, template: Environ) -> Callable[[], None]:
        from forkserve.worker.opening import Opening  # lazy: neither TLS nor PROXY is usual behind a web server

        return Opening(connection, door, self._loop, template).on_ready

    def _take_over(self) -> bool:
        """Take a connection that a sibling has passed on; False if there was none."""
        assert self._relay is not None
        taken = self._relay.take()
        if taken is None:
            return False
        fd, moved = taken
        connection = self._adopt(fd, moved)
        if (
            connection is not None
            and connection.fd >= 0
            and connection.state in (OPENING, IDLE, HEAD)
            and not connection.waits
        ):
            if connection.has_left():
                connection.leave_unserved()
                return True
            self._loop.readers[fd]()  # it moved since it was ready; another request would only have it moved again
            if moved.left_s <= 0 and connection.fd >= 0 and connection.deadline <= monotonic():
                connection.on_overdue()  # who moves often may never be where the clock is looked at
        return True

    def _adopt(self, fd: int, moved: Moved) -> Connection | None:
        """Look after a connection that has been on its way; None: it may not come."""
        door = self._by_name.get(moved.door) or self._door_alike(moved.door)
        if moved.unopened and not door.admits(moved.peer or ""):
            os.close(fd)
            return None
        template = door.template_for(moved.peer)
        template |= moved.facts
        connection = door.kind(self._loop, fd, moved.family, moved.peer, door, template)
        self._loop.add(connection)
        if not moved.unopened:
            connection.go_on(moved)
        elif door.has_opening:
            self._loop.readers[fd] = self._opening(connection, door, template)
        return connection

    def _door_alike(self, name: str) -> Door:
        """Find a door that speaks like one that is none of ours: a reload has changed the listeners. Where none does,
        one is made to which nobody new can come: a connection goes on in the protocol that it began with."""
        spoken = protocol_of(name)
        doors = self._doors.values()
        alike = next((door for door in doors if protocol_of(door.name) == spoken), None)
        if alike is None:
            place = name.removeprefix(f"{spoken}://")
            there = next((one for one in doors if one.name.endswith(place)), None) or next(iter(doors))
            like = there.listener
            alike = self._by_name[name] = self._make_door(Listener(like.address, like.socket, name, like.inode))
        return alike

    def _make_room(self) -> bool:
        """Close a connection that keeps nobody busy; False if the newcomer must wait.

        First those between two requests, the one that has waited longest before the others; then those that wait for
        their first one; then those that dawdle with a body or a response. Each is read once more before, since a
        request may have come. Who was active just now is asked to leave with its next response.
        """
        loop = self._loop
        now = monotonic()
        self._complain(now)
        waiting = [c for c in loop.connections.values() if (c.state is IDLE or c.state is HEAD) and not c.waits]
        waiting = [c for c in waiting if not c.has_rest]
        # Who came just now has perhaps sent all of it, and we have not looked yet.
        ripe = [c for c in waiting if self._waits_since(c) < now - _UNSEEN_S]
        ripe.sort(key=lambda c: (c.fresh or c.state is HEAD, self._waits_since(c)))
        for connection in ripe[:_FEW_ASKED]:
            if connection.fd >= 0 and self._close_if_silent(connection):
                return True
        dawdling = [c for c in loop.connections.values() if self._dawdles(c, now)]
        if dawdling:
            min(dawdling, key=lambda connection: connection.deadline).close()
        elif self._somebody_waits():
            asked = next((c for c in sorted(waiting, key=self._waits_since) if c.stays), None)
            if asked is not None:
                asked.stays = False
        return len(loop.connections) < self._most_connections

    def _close_if_silent(self, connection: Connection) -> bool:
        """Read once more, and close a connection if nothing has come; whether it is gone."""
        deadline = connection.deadline
        connection.stays = False
        self._loop.readers[connection.fd]()
        if connection.fd >= 0 and connection.state in (IDLE, HEAD) and connection.deadline == deadline:
            connection.close()
        return connection.fd < 0

    def _somebody_waits(self) -> bool:
        waiting = poll()
        for fd in self.fds:
            waiting.register(fd, POLLIN)
        return bool(waiting.poll(0))

    def _complain(self, now: float) -> None:
        """Say that the table is full; once a minute."""
        if now - self._full_said_at > _SAY_AGAIN_S:
            self._full_said_at = now
            log.warning("worker_connections is reached; idle clients make room", limit=self._most_connections)

    def _dawdles(self, connection: Connection, now: float) -> bool:
        """Whether its client holds us up amid a body or a response."""
        loop = self._loop
        if connection.state is BODY and not connection.is_paused:
            return connection.sends_slowly(now) or connection.deadline - loop.body_timeout_s < now - _SILENT_S
        return connection.state is WRITING and connection.deadline - loop.send_timeout_s < now - _SILENT_S

    def _waits_since(self, connection: Connection) -> float:
        """Since when a connection waits for its request: its deadline does not tell, since the time-outs differ."""
        is_kept = connection.state is IDLE and not connection.fresh
        limit_s = self._loop.keepalive_s if is_kept else self._loop.header_timeout_s
        return connection.deadline - limit_s if limit_s != _NEVER else -_NEVER  # nobody knows: who came first

    def _take_queued(self) -> None:
        """Accept what is queued now; a worker that is merely full takes no more than a few beyond its limit."""
        most = _NEVER if self._loop.is_retiring else self._most_connections + _FEW
        # A retiring worker would only pass on again what it took of the relay.
        fds = self.fds - self._asleep
        for fd in self._doors.keys() & fds if self._loop.is_retiring else fds:
            while len(self._loop.connections) < most and self._admit(fd):
                pass

    def _pause(self, error: OSError) -> None:
        """Stop for a moment instead of spinning on a queue that cannot be taken from."""
        now = monotonic()
        self.close(exhausted=True)
        self._channel.send(UP.encode(Stuck()))  # the kernel has woken us alone for who waits there
        self.open_again_at = now + EXHAUSTED_PAUSE_S
        if now - self._said_at > 10:
            self._said_at = now
            log.error("cannot accept; waiting", cause=error.strerror, connections=len(self._loop.connections))
