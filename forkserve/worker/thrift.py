"""The last requests of a worker with `max_requests`: none is begun beyond it, and no client loses one by that.

Near the limit each connection is read with a look at how many requests are left. One that has begun to send a request,
or that cannot move (TLS, `relay = false`), has one of them set aside; who has none is left unread, and moves to a
sibling or waits in the accept queue for the replacement. Of a pipeline one request is read at a time, so that the rest
can move too. Where no replacement comes, as the app cannot boot any more, the limit is given up: better a worker beyond
its limit than none. Runs in a worker, driven by its loop.
"""

import _socket
from collections.abc import Callable
from functools import partial
from select import EPOLLIN
from typing import TYPE_CHECKING, cast

from forkserve.log import log
from forkserve.protocol.http import Decoder
from forkserve.worker.outlet import NOW
from forkserve.worker.state import BODY, HEAD, IDLE, LINGERING, OPENING, WRITING

if TYPE_CHECKING:
    from forkserve.worker.connection import Connection
    from forkserve.worker.entrance import Entrance
    from forkserve.worker.loop import Loop
    from forkserve.worker.movable import Movable

_HEAD_BYTES = 16 * 1024
_NOBODY_COMES_S = 10.0
_LOOK_S = 0.5
_NEVER = float("inf")


class Thrift:
    """The last stretch of one worker, which may begin ``most`` requests in all."""

    def __init__(self, loop: "Loop", entrance: "Entrance", most: float) -> None:
        self._loop = loop
        self._entrance = entrance
        self._most = most
        self._held: set[Connection] = set()  # not read, and not looked at by epoll
        self._spent_since = _NEVER
        self._look_again_at = 0.0
        for fd in entrance.fds:
            loop.readers[fd] = partial(self._on_door, fd)
        for connection in loop.connections.values():
            if connection.state is not OPENING:
                loop.readers[connection.fd] = self.reader_for(connection, loop.readers[connection.fd])

    def reader_for(self, connection: "Connection", reader: Callable[[], None]) -> Callable[[], None]:
        """Return what is to be called when a connection is readable, where else ``reader`` would be."""
        return partial(self._read, connection, reader)

    def has_room(self) -> bool:
        """Whether a newcomer's request can still be one of ours."""
        return self._left(None) > 0

    def admits(self, connection: "Connection") -> bool:
        """Whether a request of this connection may be read now; else it is left to others, unread."""
        left = self._left(connection)
        if left <= 0:
            self._turn_away(connection)
            return False
        if not connection.is_movable and left <= 1:
            connection.stays = False  # there is none for its next request
        return True

    def goes_on(self, connection: "Connection") -> bool:
        """Whether the next request of a pipeline may begin; else its connection moves, or ends where it cannot."""
        if self._left(connection) > 0:
            if self.forget(connection):
                self._look_at(connection)
            return True
        if connection._decoder.ready:
            connection._decoder.ready.clear()
            connection.linger()
        else:
            self._turn_away(connection)
        return False

    def lift(self) -> None:
        """Let the limit be: the service stops, or nobody comes to replace us."""
        self._most = _NEVER
        for connection in self._held:
            if connection.fd >= 0:
                self._look_at(connection)
                if connection.has_rest:
                    connection.await_turn()
        self._held.clear()

    def look(self, now: float, patience_s: float) -> None:
        """Try again what could not move. Give up the limit if nobody has come to replace us."""
        if now < self._look_again_at:
            return
        self._look_again_at = now + _LOOK_S
        for connection in list(self._held):
            if connection.fd < 0:
                self._held.discard(connection)
            else:
                self._held.discard(connection)
                self._look_at(connection)
                self._turn_away(connection)
        if self._loop.requests < self._most:
            self._spent_since = _NEVER
        elif self._spent_since == _NEVER:
            self._spent_since = now
        elif now - self._spent_since > max(_NOBODY_COMES_S, patience_s) and not self._loop.is_retiring:
            log.warning("max_requests is passed: no replacement has become ready", requests=self._loop.requests)
            self.lift()

    def _on_door(self, fd: int) -> None:
        """Somebody waits at a door."""
        if self.has_room():
            self._entrance.on_readable(fd)
        else:
            self._entrance.leave_to_siblings()

    def forget(self, connection: "Movable") -> bool:
        """Hold a connection no longer, which goes; whether it was held, and so is not in epoll."""
        was_held = connection in self._held
        self._held.discard(cast("Connection", connection))
        return was_held

    def _read(self, connection: "Connection", reader: Callable[[], None]) -> None:
        if self.forget(connection):  # it is overdue, or has to make room
            self._look_at(connection)
        if connection.state is IDLE:
            if connection.has_rest:  # nothing is read before that is served
                connection.take_turn()
                return
            if not self.admits(connection):
                return
            if self._can_be_peeked(connection):
                self._read_one(connection)
                return
        reader()

    def _can_be_peeked(self, connection: "Connection") -> bool:
        loop = self._loop
        is_plain = connection._tls is None and (connection._held is None or connection._held.is_free)
        return is_plain and isinstance(connection._decoder, Decoder) and not (loop.is_busy or loop.is_full)

    def _read_one(self, connection: "Connection") -> None:
        """Read to the end of the first head, and leave what follows it where it is."""
        sock = connection.sock
        assert isinstance(sock, _socket.socket)
        try:
            data = _socket.socket.recv(sock, _HEAD_BYTES, NOW | _socket.MSG_PEEK)
            end = data.find(b"\r\n\r\n")
            data = _socket.socket.recv(sock, len(data) if end < 0 else end + 4, NOW)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            connection.take(data)
        else:
            connection.close()

    def _left(self, connection: "Connection | None") -> float:
        """How many requests can still begin, but for those that are set aside for the others."""
        connections = self._loop.connections
        left = self._most - self._loop.requests
        if left > len(connections) + 1:
            return left - len(connections)
        return left - sum(_set_aside(other) for other in connections.values() if other is not connection)

    def _turn_away(self, connection: "Connection") -> None:
        """Leave a connection unread: it moves, now or later."""
        if connection.pass_on():
            return
        if connection.is_movable:
            if connection not in self._held:
                self._loop.epoll.unregister(connection.fd)
                self._held.add(connection)
        else:
            connection.linger()  # there were more of them than requests left

    def _look_at(self, connection: "Connection") -> None:
        self._loop.epoll.register(connection.fd, EPOLLIN)


def _set_aside(connection: "Connection") -> int:
    """How many requests of this connection must still be served here."""
    state = connection.state
    if state is LINGERING:
        return 0
    parsed = len(connection._decoder.ready)
    if state is BODY or state is OPENING or state is HEAD:
        return parsed + 1
    if state is IDLE:
        return 0 if connection.is_movable else 1
    stays = connection.stays and not (state is WRITING and connection._then_close)
    return parsed + (1 if stays and not connection.is_movable else 0)
