"""The channel: one SOCK_SEQPACKET socketpair between the master and a child; its end means that the other died.

Non-blocking on both sides, close-on-exec. Whole messages or nothing (unix(7)). Carries bytes; messages.py says what.
"""

import socket
from collections.abc import Iterator

_LARGEST = 256 * 1024
_MOST_AT_ONCE = 64


class Channel:
    """One end."""

    __slots__ = ("_socket", "closed")

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self.closed = False

    def fileno(self) -> int:
        """The descriptor, for epoll."""
        return self._socket.fileno()

    def send(self, message: bytes) -> bool:
        """Send one message; False when the other end is gone or does not read: nothing is waited for."""
        try:
            self._socket.send(message)
        except OSError:
            return False
        return True

    def receive(self) -> Iterator[bytes]:
        """Yield the messages that have arrived, up to a number: who sends without end must not keep us here, and epoll
        tells of the rest. Afterwards ``closed`` tells whether the other end is gone."""
        for _ in range(_MOST_AT_ONCE):
            if self.closed:
                return
            try:
                message = self._next()
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self.closed = True
                return
            yield message

    def _next(self) -> bytes:
        try:
            return self._socket.recv(_LARGEST)
        except ConnectionResetError:
            # The other end was closed with something of ours unread. The kernel tells that once, and before what the
            # other had said, which is still there.
            return self._socket.recv(_LARGEST)

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    """Make a channel: the master's end and the child's. Raises OSError."""
    upper, lower = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(upper), Channel(lower)
