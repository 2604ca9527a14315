"""A unix socket whose end can be told from a cut: the last byte of each request stays unread until its answer is whole.

A TCP connection that must not end by a plain FIN ends by a reset (SO_LINGER); a unix socket knows that option and does
nothing with it. But when one is closed with something unread in its queue, whoever closes it, its peer reads what was
sent and then ECONNRESET: net/unix/af_unix.c, unix_release_sock(). So also when the worker is killed. Runs in a worker;
used where the end of the connection may be the end of a body: HTTP/1.0, uwsgi, SCGI, FastCGI.
"""

import _socket

_PEEK = _socket.MSG_PEEK
_NOW = _socket.MSG_DONTWAIT
_NEW_HTTP = b" HTTP/1.1\r\n"  # whose bodies have an end of their own


class HoldingSocket(_socket.socket):
    """Such a socket. A client that speaks HTTP/1.1 frees it of all this with its first request."""

    _held = 0  # bytes that were given to the caller and are still in the queue: 0 or 1
    is_free = False

    def recv(self, nbytes: int, flags: int = 0) -> bytes:
        """Read once; see recv(2)."""
        if self.is_free:
            return _socket.socket.recv(self, nbytes, flags)
        held = self._held
        data = _socket.socket.recv(self, nbytes + held, flags | _PEEK)
        if len(data) <= held:
            if not held:
                return b""
            self.release()
            return self.recv(nbytes, flags)
        self.is_free = _NEW_HTTP in data
        self._consume(len(data))
        return data[held:]

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        """Read once into a buffer; see recv(2)."""
        if self.is_free:
            return _socket.socket.recv_into(self, buffer, nbytes, flags)
        held = self._held
        view = memoryview(buffer)[: nbytes or len(buffer)]
        got = _socket.socket.recvmsg_into(self, [bytearray(held), view], 0, flags | _PEEK)[0]
        if got <= held:
            if not held:
                return 0
            self.release()
            return self.recv_into(buffer, nbytes, flags)
        self._consume(got)
        return got - held

    def release(self) -> None:
        """Take the byte that was left, so that the end is a plain end."""
        if self._held:
            self._held = 0
            _socket.socket.recv(self, 1, _NOW)

    def _consume(self, count: int) -> None:
        """Take all but the last of ``count`` bytes that were looked at; of a free socket the last one too."""
        self._held = 0 if self.is_free else 1
        left = count - self._held
        while left:
            left -= len(_socket.socket.recv(self, left, _NOW))
