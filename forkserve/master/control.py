"""The control socket: one JSON line in, JSON lines out. Runs in the master, inside its epoll; never waits.

Only the master's own user and root are heard (SO_PEERCRED). A path is made with mode 0600, under a temporary name, and
is never taken from a living instance; `auto` is an abstract name with the PID in it, which cannot be taken at all.
Bounded: few connections, short requests; one descriptor is kept in reserve, so that it answers when none is left.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forkserve.errors import BindError, InUseError
from forkserve.log import log
from forkserve.master import handover as over
from forkserve.net import address
from forkserve.net.address import Address, Family
from forkserve.net.listener import Listener, Owner, bind_all
from forkserve.typed import from_json, replaced, to_json

_MOST_CONNECTIONS = 16
_MOST_REQUEST_BYTES = 4096
_QUIET_S = 10.0  # between two lines about refused connections
_MOST_REPLY_BYTES = 1 << 20
# Said once for each new connection: one that cannot be accepted for now must not make the master spin.
_ONCE = select.EPOLLIN | select.EPOLLET

Reply = Callable[[dict[str, Any], bool], None]  # one line of the answer, and whether it is the last
Handler = Callable[[dict[str, Any], Reply], None]


def auto_address(pid: int) -> Address:
    """Return the abstract address that a master of this PID listens at.

    PIDs are unique within a PID namespace, abstract names within a network namespace: so both are in the name.
    """
    try:
        namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:  # no /proc
        namespace = 0
    return Address(Family.ABSTRACT, path=f"forkserve/{namespace}/{pid}")


def place_of(where: str) -> Address:
    """Return the address that the setting means, a path or "auto", as an exec spells and reads it. Raises BindError."""
    if where == "auto":
        return auto_address(os.getpid())
    guard = "./" if where.startswith("@") else ""  # else it would read as an abstract name
    try:
        return address.parse(f"unix://{guard}{where}")
    except ValueError as error:
        raise BindError(f"control_socket = {where!r}: {error}") from None


def listen(where: str) -> Listener:
    """Listen at ``where``, a path or "auto". Raises BindError.

    Anybody can have taken the name of "auto": then it is another one, which is found by who knows our PID.
    """
    try:
        place = place_of(where)
        try:
            return _bind(place)
        except InUseError:
            if where != "auto":
                raise
            other = replaced(place, path=f"{place.path}/{os.urandom(8).hex()}")
            log.warning("name of the control socket is taken; another one is used", address=str(other))
            return _bind(other)
    except BindError as error:
        raise BindError(f"control_socket = {where!r}: {str(error).partition(': ')[2]}") from None


def _bind(place: Address) -> Listener:
    return bind_all([place], _MOST_CONNECTIONS, Owner(mode=0o600))[0]


class Control:
    """The socket and its few connections."""

    def __init__(self, listener: Listener, epoll: select.epoll, handler: Handler) -> None:
        """Go on with what listens, see ``listen``."""
        self._listener = listener
        self._epoll = epoll
        self._handler = handler
        self._connections: dict[int, _Connection] = {}
        self._reserve = -1
        self._quiet_until = 0.0
        self._take_reserve()
        epoll.register(self._listener.socket.fileno(), _ONCE)

    def knows(self, fd: int) -> bool:
        """Whether an event of this descriptor is ours."""
        return fd in self._connections or fd == self._listener.socket.fileno()

    def on_event(self, fd: int) -> None:
        """Go on with what this descriptor is ready for."""
        connection = self._connections.get(fd)
        if connection is None:
            self._accept_some()
        else:
            connection.on_event()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._listener.address

    def hand_over(self, waiting: Iterable[tuple[int, Reply]]) -> tuple[over.Door, list[over.OldClient]]:
        """Write down where it listens and who is connected; ``waiting``: for which reloads."""
        numbers = {connection.fd: 0 for connection in self._connections.values()}
        for number, reply in waiting:
            for connection in self._connections.values():
                if connection.reply == reply:
                    numbers[connection.fd] = number
        listener = self._listener
        door = over.Door(str(listener.address), listener.name, listener.socket.fileno(), listener.inode)
        return door, [connection.hand_over(numbers[fd]) for fd, connection in self._connections.items()]

    def resume(self, clients: Iterable[over.OldClient]) -> Iterator[tuple[int, Reply]]:
        """Go on with who was connected; yields who waits for which reload."""
        for client in clients:
            connection = _Connection(socket.socket(fileno=client.fd), self._epoll, self._handler, self._forget)
            self._connections[client.fd] = connection
            self._epoll.register(client.fd, select.EPOLLIN)
            connection.resume(client)
            if client.reload:
                yield client.reload, connection.reply

    def move(self, listener: Listener) -> None:
        """Listen there instead; who is connected stays."""
        self._epoll.unregister(self._listener.socket.fileno())
        self._listener.close(unlink=True)
        self._listener = listener
        self._epoll.register(listener.socket.fileno(), _ONCE)

    def mend(self) -> bool:
        """Make the file again where it is gone; returns whether it was. Raises BindError."""
        if not self._listener.has_lost_path:
            return False
        listener = _bind(self._listener.place)
        listener.address = self.address  # as the settings call it
        self.move(listener)
        return True

    def close(self) -> None:
        """Close everything, at the end of the service."""
        for connection in list(self._connections.values()):
            connection.close()
        self._listener.close(unlink=True)
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def let_go(self) -> None:
        """Close this process's copies, as a new child does."""
        for connection in self._connections.values():
            connection.let_go()
        self._listener.close()
        if self._reserve >= 0:
            os.close(self._reserve)

    def _accept_some(self) -> None:
        for _ in range(_MOST_CONNECTIONS):
            if not self._accept():
                return
        self._look_again()

    def _look_again(self) -> None:
        """Have epoll say in its next round whether somebody waits."""
        self._epoll.modify(self._listener.socket.fileno(), _ONCE)

    def _accept(self) -> bool:
        """Let one client in or send it away; False if there was none, or no descriptor for it or for the next."""
        sock = self._accept_one()
        if sock is not None and (not _is_friend(sock) or not self._has_room()):
            self._say_refused()
            sock.close()
        elif sock is not None:
            sock.setblocking(False)
            fd = sock.fileno()
            self._connections[fd] = _Connection(sock, self._epoll, self._handler, self._forget)
            self._epoll.register(fd, select.EPOLLIN)
        if self._reserve < 0:
            self._take_reserve()
        # Without a reserve the next one would take the place of this one, which has had no time to ask.
        return sock is not None and self._reserve >= 0

    def _has_room(self) -> bool:
        return len(self._connections) < _MOST_CONNECTIONS or self._drop_idle()

    def _drop_idle(self) -> bool:
        """Close the oldest connection that has not asked anything yet; False if there is none."""
        idle = next((connection for connection in self._connections.values() if not connection.asked), None)
        if idle is not None:
            idle.close()
        return idle is not None

    def _say_refused(self) -> None:
        """Anybody on the machine may knock at an abstract name: the log must not be theirs to fill."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            log.warning("control connection refused", connections=len(self._connections))

    def _accept_one(self) -> socket.socket | None:
        try:
            return self._listener.socket.accept()[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return None
        # No descriptor is left: the operator who asks why must be answered all the same.
        if self._reserve < 0 and not self._drop_idle():
            return None  # the end of a connection makes us look again
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            return self._listener.socket.accept()[0]
        except OSError:
            return None

    def _take_reserve(self) -> None:
        try:
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass  # none is left; the next connection that ends leaves one

    def _forget(self, fd: int) -> None:
        del self._connections[fd]
        if self._reserve < 0:
            self._take_reserve()
        self._look_again()


class _Connection:
    """One client: a request line, then the lines of its answer."""

    def __init__(
        self, sock: socket.socket, epoll: select.epoll, handler: Handler, forget: Callable[[int], None]
    ) -> None:
        sock.setblocking(False)  # whatever the default is
        self._socket = sock
        self._fd = sock.fileno()
        self._epoll = epoll
        self._handler = handler
        self._forget = forget
        self._request = b""
        self.asked = False
        self._owed = b""
        self._ended = False

    def on_event(self) -> None:
        if self._owed:
            self._write()
        else:
            self._read()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._socket.close()
            self._forget(fd)

    def let_go(self) -> None:
        self._socket.close()

    @property
    def fd(self) -> int:
        return self._fd

    def hand_over(self, reload: int) -> over.OldClient:
        return over.OldClient(self._fd, self._request, self.asked, self._owed, self._ended, reload)

    def resume(self, client: over.OldClient) -> None:
        """Go on where the master that we were was with this client."""
        self._request, self.asked = client.request, client.asked
        self._owed, self._ended = client.owed, client.ended
        if self._owed:
            self._write()

    def reply(self, line: dict[str, Any], last: bool) -> None:
        """Send one line; the connection closes after the last."""
        if self._fd < 0 or self._ended:
            return
        self._owed += to_json(line) + b"\n"
        self._ended = last
        if len(self._owed) > _MOST_REPLY_BYTES:
            self.close()
        else:
            self._write()

    def _read(self) -> None:
        try:
            piece = self._socket.recv(_MOST_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.close()
            return
        if self.asked:
            return  # one request per connection: whatever follows is not read as another
        self._request += piece
        line, newline, _ = self._request.partition(b"\n")
        if newline:
            self.asked = True
            request = from_json(line)
            if isinstance(request, dict):
                self._handler(request, self.reply)
            else:
                self.reply({"ok": False, "error": "expected one JSON object on one line"}, True)
        elif len(self._request) >= _MOST_REQUEST_BYTES:
            self.reply({"ok": False, "error": f"the request has more than {_MOST_REQUEST_BYTES} bytes"}, True)

    def _write(self) -> None:
        try:
            self._owed = self._owed[self._socket.send(self._owed) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._owed:
            self._epoll.modify(self._fd, select.EPOLLOUT)
        elif self._ended:
            self.close()
        else:
            self._epoll.modify(self._fd, select.EPOLLIN)


def _is_friend(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (0, os.geteuid())
