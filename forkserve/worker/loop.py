"""The worker's loop: one epoll over channel, signals, doors, relay and connections; requests run inline.

Orders of the master are met between requests, never inside one. Runs in a worker; knows nothing of the app but how to
call it.
"""

import signal
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from select import EPOLLIN, epoll
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.accesslog import AccessLog
from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.net.listener import Listener
from forkserve.protocol.types import READ_BYTES
from forkserve.unix.bell import Bell
from forkserve.unix.borrowed import Borrowed
from forkserve.unix.channel import Channel
from forkserve.unix.messages import DOWN, UP, Hurry, Leave, Look, Reopen, Retiring, Serve, Tired
from forkserve.unix.relay import Relay
from forkserve.unix.scoreboard import BEGAN, SERVES, Row, Siblings
from forkserve.unix.signals import Wakeup
from forkserve.worker import logs
from forkserve.worker.attendant import Attendant
from forkserve.worker.connection import Connection
from forkserve.worker.entrance import EXHAUSTED_PAUSE_S, Entrance
from forkserve.worker.fatigue import Fatigue
from forkserve.worker.flusher import Flusher
from forkserve.worker.room import Room
from forkserve.worker.shown import Shown
from forkserve.worker.state import IDLE, WRITING
from forkserve.worker.thrift import Thrift
from forkserve.worker.timer import Limits, Timer
from forkserve.worker.turns import Turns
from forkserve.wsgi.app import App
from forkserve.wsgi.out import PeerGone
from forkserve.wsgi.response import Response

if TYPE_CHECKING:
    import ssl


_SWEEP_S = 1.0
# Ends of overdue connections in one round: slow clients that came together are overdue together, and 2,000 refusals at
# one go would hold up everybody else for 200 ms.
_MOST_OVERDUE = 50
_LONGEST_WAIT_S = 86400.0  # epoll_wait counts milliseconds in an int
# While the service stops, an idle connection this young is not cut: its next request may be on its way.
STOP_PATIENCE_S = 1.0
_NEVER = float("inf")
_FD = itemgetter(0)  # of an event
_MOST_EVENTS = 64  # of one round: epoll.poll takes 12 KiB from the heap where it is not told


class Loop(Shown):
    """One worker at work, from ready to its last response."""

    kind: type[Connection] = Connection
    is_busy = False  # no thread will be free soon; with one thread nobody could ask

    def __init__(
        self,
        app: App,
        settings: Settings,
        listeners: Sequence[Listener],
        channel: Channel,
        wakeup: Wakeup,
        row: Row,
        siblings: Siblings,
        relay: Relay | None,
        context: "ssl.SSLContext | None",
        bell: Bell | None,
        call: Bell,
        *,
        generation: int,
        slot: int,
        access: AccessLog | None,
        spool: Room,
        title: Callable[[str], None],
    ) -> None:
        self.app = app
        self.requests = 0
        self.begin = row.begin
        self.siblings = siblings
        self._row, self._threads = row, settings.threads
        self.deadline = row.doubles
        self.timer = Timer(Limits(settings), row)
        self.first_s = self.timer.limits.first_s
        self.access = access
        self.connections: dict[int, Connection] = {}
        self.readers: dict[int, Callable[[], None]] = {}  # what to do when a descriptor is readable
        self.turns = Turns()
        self.running: Response | None = None
        self.has_newcomers = False  # somebody waits at a door, and the kernel has told nobody but us
        self.attended = False  # the attendant is at work on the connections, see there
        self.buffer = bytearray(READ_BYTES)
        self.view = memoryview(self.buffer)
        self.keep_alive = settings.keepalive > 0
        self.keepalive_s = settings.keepalive
        self.header_timeout_s = settings.header_timeout or _NEVER
        self.body_timeout_s = settings.body_timeout or _NEVER
        self.body_min_rate = settings.body_min_rate
        self.handshake_timeout_s = settings.handshake_timeout or _NEVER
        self.send_timeout_s = settings.send_timeout or _NEVER
        self.streams = settings.stream_request_body
        self.spool_limit = settings.limit_response_spool
        self.spool = spool
        self.flusher = Flusher(self.send_timeout_s)
        self.epoll = epoll()
        self.poll: Callable[[float | None, int], list[tuple[int, int]]] = self.epoll.poll
        self.is_retiring = self._is_given_up = False
        self._grace_s = settings.graceful_timeout
        self.pipelines_until = _NEVER  # what was received of them by then is answered, though the worker leaves
        self.relay = relay if settings.relay else None  # what an older generation has put there is taken all the same
        self.attendant = None if self.relay is None or bell is None else Attendant(self, bell, call)
        self._entrance = Entrance(self, settings, listeners, relay, channel, context, generation=generation, slot=slot)
        self.tell_of_newcomer = self._entrance.tell_of_newcomer
        self._channel = channel
        self._wakeup = wakeup
        self._borrowed = Borrowed(wakeup, lambda: self.running is not None, logs.tell_raised)
        self._looked_requests = 0  # how many had begun when the signals were looked at
        self.fatigue = Fatigue(settings)
        self.near_requests = self.fatigue.near_requests
        self.thrift: Thrift | None = None  # near `max_requests`
        self._draining = False
        self._title = title
        self._sweep_at, self._wait_s = 0.0, _SWEEP_S  # 0 while there are more overdue connections than one round ends
        self._special = {channel.fileno(): self._on_channel, wakeup.read_fd: self._on_signal}
        self.readers |= self._special
        self.readers |= {fd: partial(self._entrance.on_readable, fd) for fd in self._entrance.fds}

    def have(self, threads: int, row: Row) -> None:
        """Start so many threads for the app: see ThreadedLoop. Here it runs in the loop's own."""

    def run(self) -> None:
        """Serve from the master's word on, until told to leave and everything begun is finished."""
        self._borrowed.take_back()
        for fd in self._special:
            self.epoll.register(fd, EPOLLIN)
        connections = self.connections
        readers = self.readers
        poll = self.poll
        access, fatigue, entrance = self.access, self.fatigue, self._entrance
        is_mortal = fatigue.is_mortal
        doors = entrance.fds
        unwritten = () if access is None else access.lines
        turns = self.turns
        while not self.is_retiring or connections or self._take_next():
            # Lines of the access log wait while there is something to do: under load one write in 90 requests instead
            # of one a round saves 1 us a request.
            batch = poll(0, _MOST_EVENTS) if unwritten or turns else []
            if not batch and not turns:
                if access is not None:
                    access.flush()
                if connections:
                    wait_s: float | None = self._wait_s
                elif self.is_retiring:
                    wait_s = 0.0  # somebody was taken of the queues, and has left by now
                elif entrance.is_open and not is_mortal:
                    wait_s = self._wait_s if self.requests != self._looked_requests else None
                else:
                    wait_s = self._patience_s()
                batch = poll(wait_s, _MOST_EVENTS)
            # Who is new comes last, so that nobody is let in behind a request that keeps the interpreter lock. But the
            # kernel has told us alone: the attendant must know.
            if len(batch) > 1 and not doors.isdisjoint(map(_FD, batch)):
                self.has_newcomers = True
                if len(batch) > 2 or batch[0][0] in doors:
                    batch.sort(key=lambda event: event[0] in doors)
            for fd, events in batch:
                reader = readers.get(fd)
                if events == EPOLLIN and reader is not None:
                    reader()
                else:
                    self._on_other(fd)
            self.has_newcomers = False
            if turns:
                turns.give()
            if self.requests >= fatigue.look_at_requests:
                self._check_fatigue()
            # What the clock asks for is looked at once a second; a wake-up for one small request must stay cheap.
            now = monotonic()
            if now >= self._sweep_at or not entrance.is_open or (is_mortal and not connections):
                self._look_at_clock(now)
            if self._busy_shown:
                self._show("idle")
        if access is not None:
            access.flush()

    # for connections

    def add(self, connection: Connection) -> None:
        """Begin to look after a connection."""
        fd = connection.fd
        self.connections[fd] = connection
        thrift, reader = self.thrift, connection.on_readable
        self.readers[fd] = reader if thrift is None else thrift.reader_for(connection, reader)
        self.epoll.register(fd, EPOLLIN)

    def read_with(self, connection: Connection, reader: Callable[[], None]) -> None:
        """Call ``reader`` from now on when a connection is readable."""
        thrift = self.thrift
        self.readers[connection.fd] = reader if thrift is None else thrift.reader_for(connection, reader)

    def goes_on(self, connection: Connection) -> bool:
        """Whether the next request of a pipeline may begin, near `max_requests`; else its connection ends."""
        self._be_thrifty()
        return self.thrift is None or self.thrift.goes_on(connection)

    @property
    def is_full(self) -> bool:
        """Whether every thread has a request."""
        return False

    @property
    def runs_app(self) -> bool:
        """Whether a request is in the app."""
        return self.running is not None

    def answer_overdue(self) -> bool:
        """Answer 504 where a request is overdue; True: the process can end now. In a signal handler."""
        response = self.running
        if response is not None:
            try:
                response.answer_overdue()
            except PeerGone:
                pass
            if self.access is not None:
                self.access.note(response.request[0], response, monotonic() - self.deadline[BEGAN])
        return True

    # the end

    def ask_for_replacement(self) -> None:
        """Be replaced, the replacement first: ``environ["forkserve.retire"]()``. By any thread; said once is enough."""
        if not self._is_given_up:
            self._is_given_up = True
            self._channel.send(UP.encode(Tired("the app asked for it")))

    def leave(self, reason: str) -> None:
        """Retire by our own decision; the master is told, so that it replaces us."""
        if not self.is_retiring:
            self._channel.send(UP.encode(Retiring(reason)))
            self.retire(drain=False)

    def retire(self, *, drain: bool) -> None:
        """Finish what was begun and take nothing new; ``drain``: the service stops, what is queued is answered first.

        In a reload, connections between two requests are passed on. Those that cannot move stay for their next request,
        or for the keep-alive time-out that their client expects anyway: none is cut short. A stop waits for neither.
        """
        self.is_retiring = True
        self._row.ints[SERVES] = 0
        self._draining = drain
        self._show("retiring")
        self._sweep_at = now = monotonic()
        self.pipelines_until = min(self.pipelines_until, now + self._grace_s / 2)
        if drain:
            self._entrance.drain()
            if self.thrift is not None:
                self.thrift.lift()
        else:
            self._entrance.leave_to_siblings()
        if drain or self.relay is None:
            self.keep_alive = False
        for connection in self.connections.values():
            connection.stays = connection.stays and self.keep_alive and connection.is_movable
            # In a stop the door stays open, but the master lets nobody in any more: each worker takes one of the queue
            # when it is free, as ever, so that a slow request delays only itself.
            if drain and connection.state is IDLE:
                since = connection.deadline - (self.header_timeout_s if connection.fresh else self.keepalive_s)
                connection.deadline = min(connection.deadline, max(now, since + STOP_PATIENCE_S))
        if drain:  # also for those whose request runs now
            self.keepalive_s = min(self.keepalive_s, STOP_PATIENCE_S)

    def hurry(self) -> None:
        """Leave now: drop what waits, idle, half-read or half-taken."""
        self.retire(drain=True)
        self._draining = False
        self._entrance.close(exhausted=True)
        for connection in list(self.connections.values()):
            connection.close()

    def let_go(self) -> None:
        """Close this process's copies of what is the worker's, in a child that the app has forked."""
        self.epoll.close()
        self.flusher.forget()
        self.spool.forget()
        self._entrance.let_go()
        for connection in self.connections.values():
            connection.let_go()

    def _take_next(self) -> bool:
        """When all is finished and the service stops: take one more of the queues; False when they are empty."""
        if self._draining and self._entrance.take_next():
            return True
        self._draining = False
        self._entrance.close()
        return bool(self.connections)

    def _pass_on_waiting(self) -> None:
        """Give every connection between two requests to the siblings; one that cannot go now is tried again."""
        for connection in [c for c in self.connections.values() if c.stays]:
            connection.pass_on()

    # time

    def _patience_s(self) -> float | None:
        """How long epoll may wait without connections: for ever, or until the door is opened again or we are old."""
        if not self._entrance.is_open and not self.is_retiring:
            return EXHAUSTED_PAUSE_S
        left_s = self.fatigue.until - monotonic()
        if self.requests != self._looked_requests:
            left_s = min(left_s, _SWEEP_S)
        return None if left_s == _NEVER else min(max(0.0, left_s), _LONGEST_WAIT_S)

    def _look_at_clock(self, now: float) -> None:
        if now >= self.fatigue.until:
            self._check_fatigue()
        if self.is_retiring and not self._draining:
            self._pass_on_waiting()
        if now >= self._sweep_at:
            # One look at every connection a second costs less than keeping a queue per state on every request.
            overdue = [c for c in self.connections.values() if c.deadline <= now]
            has_more = len(overdue) > _MOST_OVERDUE
            self._sweep_at = now if has_more else now + _SWEEP_S
            self._wait_s = 0.0 if has_more else _SWEEP_S
            self.spool.look()
            self._borrowed.take_back()
            self._looked_requests = self.requests
            for connection in overdue[:_MOST_OVERDUE]:
                if connection.fd >= 0:  # else it was passed on, while one before it ran a request that had arrived
                    connection.on_overdue()
        if not self._entrance.is_open and (self._draining or not self.is_retiring):
            if self.thrift is not None:
                self.thrift.look(now, 3 * self.fatigue.boot_s)
            if (self.thrift is None or self.thrift.has_room()) and self._entrance.may_open(now):
                self._entrance.open()

    def _be_thrifty(self) -> None:
        if self.requests >= self.near_requests and self.thrift is None and not self._draining:
            self.thrift = Thrift(self, self._entrance, self.fatigue.most_requests)

    def _check_fatigue(self) -> None:
        self._be_thrifty()
        if (reason := self.fatigue.check(self.requests, monotonic())) and not self.is_retiring:
            self._channel.send(UP.encode(Tired(reason)))

    # orders

    def _on_other(self, fd: int) -> None:
        """Meet what is not simply readable: room to write, an error, the end of the master."""
        connection = self.connections.get(fd)
        if connection is not None:
            if connection.state is WRITING:
                connection.on_writable()
            else:
                self.readers[fd]()
        elif fd in self.readers:
            self.readers[fd]()
        # else: closed earlier in this batch of events

    def _on_channel(self) -> None:
        for raw in self._channel.receive():
            match DOWN.decode(raw):
                case Serve():
                    self._entrance.open_again_at = 0.0  # the door is opened at the end of this round
                    self._row.ints[SERVES] = self._threads
                    self.fatigue.begin(monotonic())
                    self._be_thrifty()
                case Look():
                    self._entrance.look()
                case Leave(drain=drain):
                    self.retire(drain=drain)
                case Hurry():
                    self.hurry()
                case Reopen():
                    logs.reopen(self.access)
                case None:
                    log.warning("unknown order from the master", bytes=len(raw))
        if self._channel.closed:
            log.warning("master is gone; draining")
            self.epoll.unregister(self._channel.fileno())
            self.retire(drain=True)

    def _on_signal(self) -> None:
        for number in self._wakeup.read():
            if number == signal.SIGTERM:
                self.leave("SIGTERM")
            elif number == signal.SIGUSR1:
                logs.reopen(self.access)
