"""The worker's loop: one epoll over channel, signals, listeners and connections; requests run inline.

Orders of the master are met between requests, never inside one. A worker that runs a request is not in epoll_wait, so
the kernel gives new connections to its idle siblings. Runs in a worker; knows nothing of the app but how to call it.
"""

import errno
import select
import signal
from collections.abc import Callable, Sequence
from functools import partial
from select import EPOLLIN
from time import monotonic

from forkserve.accesslog import AccessLog
from forkserve.config.settings import Settings
from forkserve.log import log, one_line
from forkserve.net.listener import Listener
from forkserve.protocol.types import Limits
from forkserve.unix.channel import Channel
from forkserve.unix.messages import DOWN, UP, Hurry, Leave, Look, Reopen, Retiring, Serve, Stuck, Tired
from forkserve.unix.scoreboard import DEADLINE, Row
from forkserve.unix.signals import Wakeup
from forkserve.worker.connection import Connection, State
from forkserve.worker.fatigue import Fatigue
from forkserve.wsgi.app import App
from forkserve.wsgi.environ import connection_template, listener_template
from forkserve.wsgi.input import BodyMakerFor
from forkserve.wsgi.response import Response

_BUFFER_BYTES = 64 * 1024
_SWEEP_S = 1.0
_FEW = 16
_SHOW_S = 1.0
_LONGEST_WAIT_S = 86400.0  # epoll_wait counts milliseconds in an int
# While the service stops, an idle connection this young is not cut: its next request may be on its way.
_STOP_PATIENCE_S = 1.0
# Nothing is wrong with the listener itself: the process, the machine or the peer lacks something for a moment.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_PAUSE_S = 0.5
_ACCEPT = EPOLLIN | select.EPOLLEXCLUSIVE


class Loop:
    """One worker at work, from ready to its last response."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        listeners: Sequence[Listener],
        channel: Channel,
        wakeup: Wakeup,
        row: Row,
        *,
        generation: int,
        slot: int,
        access: AccessLog | None,
        title: Callable[[str], None],
    ) -> None:
        self.app = app
        self.requests = 0
        self.begin = row.begin
        self.deadline = row.doubles
        self.access = access
        self.connections: dict[int, Connection] = {}
        self.readers: dict[int, Callable[[], None]] = {}  # what to do when a descriptor is readable
        self.running: Response | None = None
        self.buffer = bytearray(_BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.limits = Limits(
            settings.limit_request_line, settings.limit_request_fields, settings.limit_request_field_size
        )
        self.make_body = BodyMakerFor(settings.limit_request_body)
        self.keep_alive = settings.keepalive > 0
        self.keepalive_s = settings.keepalive
        self.timeout_s = settings.timeout or float("inf")
        self.header_timeout_s = settings.header_timeout or float("inf")
        self.body_timeout_s = settings.body_timeout or float("inf")
        self.send_timeout_s = settings.send_timeout or float("inf")
        self.epoll = select.epoll()
        self._most_connections = settings.worker_connections
        self._channel = channel
        self._wakeup = wakeup
        self._listeners = {
            listener.socket.fileno(): (
                listener,
                listener_template(
                    *listener.server, generation=generation, slot=slot, extend_deadline=self.extend_deadline
                ),
            )
            for listener in listeners
        }
        self._fatigue = Fatigue(settings)
        self._accepting = False
        self._retiring = False
        self._draining = False
        self._title = title
        self._busy_shown = False
        self.show_busy_at = 0.0  # not more often than once a second
        self._accept_again_at = float("inf")  # not before the master says Serve
        self._exhausted_said_at = float("-inf")
        self._sweep_at = float("inf")
        self._special = {channel.fileno(): self._on_channel, wakeup.read_fd: self._on_signal}
        self.readers |= self._special
        self.readers |= {fd: partial(self._on_listener, fd) for fd in self._listeners}

    def run(self) -> None:
        """Serve from the master's word on, until told to leave and everything begun is finished."""
        for fd in self._special:
            self.epoll.register(fd, EPOLLIN)
        connections = self.connections
        readers = self.readers
        poll = self.epoll.poll
        access, fatigue = self.access, self._fatigue
        is_mortal = fatigue.is_mortal
        while not self._retiring or connections or self._take_next():
            for fd, events in poll(_SWEEP_S if connections else self._patience_s()):
                reader = readers.get(fd)
                if events == EPOLLIN and reader is not None:
                    reader()
                else:
                    self._on_other(fd)
            if access is not None:
                access.flush()
            if self.requests >= fatigue.look_at_requests:
                self._check_fatigue()
            # What the clock asks for is looked at once a second; a wake-up for one small request must stay cheap.
            now = monotonic()
            if now >= self._sweep_at or not self._accepting or (is_mortal and not connections):
                self._look_at_clock(now)
            if self._busy_shown:
                self._show("idle")

    def extend_deadline(self, seconds: float) -> None:
        """Let the running request take ``seconds`` more from now on: ``environ["forkserve.extend_deadline"](60)``."""
        if not 0 < seconds < float("inf"):
            raise ValueError(f"extend_deadline takes a number of seconds above 0, not {seconds!r}")
        if self.deadline[DEADLINE]:  # else no request runs
            self.deadline[DEADLINE] = max(self.deadline[DEADLINE], monotonic() + seconds)

    def show_busy(self, now: float, line: bytes) -> None:
        """Show the running request in the process title; at most once a second, since it costs a microsecond."""
        self.show_busy_at = now + _SHOW_S
        self._busy_shown = True
        self._title("busy " + one_line(line.decode("latin-1"))[:80])

    def _show(self, what: str) -> None:
        self._busy_shown = False
        self._title(what if not self._retiring else "retiring")

    def _check_fatigue(self) -> None:
        reason = self._fatigue.check(self.requests, monotonic())
        if reason and not self._retiring:
            self._channel.send(UP.encode(Tired(reason)))

    def leave(self, reason: str) -> None:
        """Retire by our own decision; the master is told, so that it replaces us."""
        if not self._retiring:
            self._channel.send(UP.encode(Retiring(reason)))
            self.retire(drain=False)

    def retire(self, *, drain: bool) -> None:
        """Finish what was begun and take nothing new; ``drain``: the service stops, what is queued is answered first.

        In a reload idle connections stay for their next request, answered with Connection: close, or until the
        keep-alive time-out that their client expects anyway: none is cut short. A stop does not wait that long.
        """
        self._retiring = True
        self._draining = drain
        self.keep_alive = False
        self._show("retiring")
        self._sweep_at = now = monotonic()
        if not drain:
            self._close_door()
            return
        # The door stays open, but the master lets nobody in any more: each worker takes one of the queue when it is
        # free, as ever, so that a slow request delays only itself.
        for connection in self.connections.values():
            if connection.state is State.IDLE:
                since = connection.deadline - (self.header_timeout_s if connection.fresh else self.keepalive_s)
                connection.deadline = min(connection.deadline, max(now, since + _STOP_PATIENCE_S))

    def hurry(self) -> None:
        """Leave now: drop what waits, idle, half-read or half-taken."""
        self.retire(drain=False)
        for connection in list(self.connections.values()):
            connection.close()

    def let_go(self) -> None:
        """Close this process's copies of what is the worker's, in a child that the app has forked."""
        self.epoll.close()
        for connection in self.connections.values():
            connection.sock.close()

    # accepting

    def _open_door(self) -> None:
        for fd in self._listeners:
            self.epoll.register(fd, _ACCEPT)
        self._accepting = True

    def _close_door(self, *, exhausted: bool = False) -> None:
        """Leave the listeners to the siblings. What is queued now may have woken only us: it is ours to take."""
        if self._accepting:
            for fd in self._listeners:
                self.epoll.unregister(fd)
            self._accepting = False
            if not exhausted:
                self._take_queued()

    def _on_listener(self, fd: int) -> None:
        if not self._accepting or not self._accept(fd) or not self._accepting:
            return
        # At the head of the listener's wait queue again: without this one worker gets nearly every connection
        # (measured on 4 idle workers: 160/0/0/0 of 160, with it 40/40/40/40). EPOLLEXCLUSIVE cannot be modified.
        self.epoll.unregister(fd)
        self.epoll.register(fd, _ACCEPT)

    def _accept(self, fd: int) -> bool:
        """Accept one connection; False if there was none."""
        listener, template = self._listeners[fd]
        sock = listener.socket
        try:
            new_fd, peer = sock._accept()  # type: ignore[attr-defined]  # socket.accept() without its wrapper object
        except BlockingIOError:
            return False  # a sibling was faster
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause_accepting(error)
            return False  # else the peer was: ECONNABORTED and its like, accept(2)
        connection = Connection(self, new_fd, sock.family, peer, connection_template(template, peer))
        self.connections[new_fd] = connection
        self.readers[new_fd] = connection.on_readable
        self.epoll.register(new_fd, EPOLLIN)
        if len(self.connections) == 1:
            self._sweep_at = monotonic() + _SWEEP_S
        if len(self.connections) >= self._most_connections:
            self._close_door()
        return True

    def _take_queued(self) -> None:
        """Accept what is queued now; a worker that is merely full takes no more than a few beyond its limit."""
        most = float("inf") if self._retiring else self._most_connections + _FEW
        for fd in self._listeners:
            while len(self.connections) < most and self._accept(fd):
                pass

    def _take_next(self) -> bool:
        """When all is finished and the service stops: take one more of the queues; False when they are empty."""
        if self._draining:
            for fd in self._listeners:
                if self._accept(fd):
                    return True
        self._draining = False
        self._close_door()
        return bool(self.connections)

    def _pause_accepting(self, error: OSError) -> None:
        """Stop for a moment instead of spinning on a queue that cannot be taken from."""
        now = monotonic()
        self._close_door(exhausted=True)
        self._channel.send(UP.encode(Stuck()))  # the kernel has woken us alone for who waits there
        self._accept_again_at = now + _EXHAUSTED_PAUSE_S
        if now - self._exhausted_said_at > 10:
            self._exhausted_said_at = now
            log.error("cannot accept; waiting", cause=error.strerror, connections=len(self.connections))

    # time

    def _patience_s(self) -> float | None:
        """How long epoll may wait without connections: for ever, or until the door is opened again or we are old."""
        if not self._accepting and not self._retiring:
            return _EXHAUSTED_PAUSE_S
        left_s = self._fatigue.until - monotonic()
        return None if left_s == float("inf") else min(max(0.0, left_s), _LONGEST_WAIT_S)

    def _look_at_clock(self, now: float) -> None:
        if now >= self._fatigue.until:
            self._check_fatigue()
        if now >= self._sweep_at:
            # One look at every connection a second costs less than keeping a queue per state on every request.
            self._sweep_at = now + _SWEEP_S
            for connection in [c for c in self.connections.values() if c.deadline <= now]:
                connection.on_overdue()
        if (
            not self._accepting
            and (self._draining or not self._retiring)
            and now >= self._accept_again_at
            and len(self.connections) < self._most_connections
        ):
            self._open_door()

    # orders

    def _on_other(self, fd: int) -> None:
        """Meet what is not simply readable: room to write, an error, the end of the master."""
        connection = self.connections.get(fd)
        if connection is not None:
            if connection.state is State.WRITING:
                connection.on_writable()
            else:
                connection.on_readable()
        elif fd in self.readers:
            self.readers[fd]()
        # else: closed earlier in this batch of events

    def _on_channel(self) -> None:
        for raw in self._channel.receive():
            match DOWN.decode(raw):
                case Serve():
                    self._accept_again_at = 0.0  # the door is opened at the end of this round
                    self._fatigue.begin(monotonic())
                case Look():
                    for fd in self._listeners:
                        self._on_listener(fd)
                case Leave(drain=drain):
                    self.retire(drain=drain)
                case Hurry():
                    self.hurry()
                case Reopen():
                    self._reopen_logs()
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
                self._reopen_logs()

    def _reopen_logs(self) -> None:
        files = [log.file] if self.access is None else [log.file, self.access.file]
        for file in files:
            try:
                file.reopen()
            except OSError as error:
                log.error("log could not be reopened; the old file stays in use", path=file.path, cause=error.strerror)
