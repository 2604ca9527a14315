"""The way out of a connection: what its client does not take at once is kept and written by the loop.

Only an app that produces faster than its client reads is made to wait, once memory and the file are full. Runs in a
worker; what a response is written to (wsgi.response.Out).
"""

import _socket
import os
import select
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from forkserve.log import log
from forkserve.worker.backlog import BURST_BYTES, Backlog, CutShort, Region
from forkserve.worker.state import RUNNING, State
from forkserve.wsgi.response import PeerGone

if TYPE_CHECKING:
    from forkserve.worker.loop import Loop
    from forkserve.worker.tls import TlsTransport

    Transport = _socket.socket | TlsTransport

# One recv or send, whatever the file status flags: sockets made by accept need no extra call to become non-blocking.
NOW = _socket.MSG_DONTWAIT
_SEND_NOW = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
_MORE = _SEND_NOW | _socket.MSG_MORE


class Outlet:
    """One connection's way out. ``sock`` is a socket, or what TLS makes of one."""

    _writable_only = False  # of the class until it changes, which costs nothing to make; so there is a __dict__

    __slots__ = ("__dict__", "_backlog", "_loop", "_send", "fd", "peer", "sock", "state")

    sock: "_socket.socket | TlsTransport"
    fd: int
    peer: object
    state: State
    _loop: "Loop"
    _send: Callable[[bytes | memoryview, int], int]
    _backlog: Backlog | None  # what the client has not taken yet; None: nothing

    def send(self, data: bytes, flags: int = _SEND_NOW) -> None:
        """Give ``data`` to the kernel; what it does not take now is kept. Raises PeerGone."""
        if self._backlog is not None:
            self._keep(data, 0)
            return
        try:
            sent = self._send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._gone(error)
        if sent != len(data):
            self._keep(data, sent)

    def send_last(self, data: bytes) -> None:
        """The same with what the connection is closed after, at once: the end leaves in the same segment (3 us)."""
        self.send(data, _MORE)

    def send_both(self, head: bytes, data: bytes) -> None:
        """The same for two pieces at once."""
        if self._backlog is not None:
            self._keep(head, 0)
            self._keep(data, 0)
            return
        try:
            sent = self.sock.sendmsg((head, data), (), _SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._gone(error)
        if sent < len(head):
            self._keep(head, sent)
            self._keep(data, 0)
        elif sent - len(head) < len(data):
            self._keep(data, sent - len(head))

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> None:
        """Send ``head``, then a part of an open file, which may be closed as soon as this returns. Raises PeerGone."""
        self._never_wait()
        if self._backlog is None and head:
            try:
                sent = self._send(head, _MORE)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._gone(error)
            head = head[sent:]
        region = Region(fd, offset, count, owned=False)
        if self._backlog is None and not head:
            try:
                left = BURST_BYTES
                while left > 0:
                    left -= region.send(self._send_now, self._sendfile_fd)
                    if not region.count:
                        return
            except BlockingIOError:
                pass
            except OSError as error:
                self._gone(error)
        backlog = self._kept()
        try:
            if head:
                backlog.keep(memoryview(head))
            region.fd, region.owned = os.dup(fd), True
        except OSError as error:
            self._gone(error)
        backlog.keep_region(region)

    def write_kept(self) -> bool:
        """Write as much of what is kept as is taken now; whether that was all. Raises PeerGone."""
        if self._backlog is None:
            return True
        try:
            self._backlog.write(self._send_now, self._sendfile_fd)
        except BlockingIOError:
            return False
        except OSError as error:
            self._gone(error)
        self._backlog = None
        return True

    @property
    def _sendfile_fd(self) -> int:
        """The descriptor that the kernel can send files to; -1: it is not told what TLS makes of them."""
        return self.fd if isinstance(self.sock, _socket.socket) else -1

    def close(self) -> None:
        """Close now; the app, should it run, meets PeerGone at its next byte."""
        raise NotImplementedError

    def lose(self) -> None:
        """The client cannot be answered any more."""
        self.close()

    def _send_now(self, data: bytes | memoryview) -> int:
        return self._send(data, _SEND_NOW)

    def _gone(self, error: OSError) -> NoReturn:
        if isinstance(error, CutShort):
            log.error("response could not be sent whole; connection closed", cause=str(error))
        self.lose()
        raise PeerGone(f"the client has left: {error.strerror or error}") from None

    def _never_wait(self) -> None:
        """sendfile knows no flags: it does not wait where the socket does not. (Sockets of accept begin as they do.)"""
        if self._sendfile_fd >= 0:
            os.set_blocking(self._sendfile_fd, False)

    def _kept(self) -> Backlog:
        if self.fd < 0:  # or what an app that caught PeerGone still writes would be kept for nobody
            raise PeerGone("the client has left")
        backlog = self._backlog
        if backlog is None:
            self._never_wait()
            backlog = self._backlog = Backlog(self._loop.spool_limit)
        return backlog

    def _keep(self, data: bytes, sent: int) -> None:
        """Keep what the client does not take; once memory and file are full the app waits for it."""
        backlog = self._kept()
        try:
            backlog.keep(memoryview(data)[sent:])
        except OSError as error:
            log.error("response could not be stored; connection closed", cause=error.strerror)
            self._gone(error)
        while self._backlog is not None and self._backlog.is_full and self.state is RUNNING:
            if not self._wait_for_room():
                log.info(
                    "client takes nothing; connection closed",
                    after_s=self._loop.send_timeout_s, peer=peer_name(self.peer),
                )  # fmt: skip
                self.lose()
                raise PeerGone("the client takes nothing of the response")
            self.write_kept()

    def _wait_for_room(self) -> bool:
        """Wait until the client takes more; not on the app's time, or a slow client would get the worker killed."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        began = monotonic()
        deadline = self._loop.stop_clock()
        has_room = bool(poll.poll(milliseconds(self._loop.send_timeout_s)))
        self._loop.go_on(deadline, monotonic() - began)
        return has_room

    def watch(self, writable: bool) -> None:
        """Wait for room to write instead of for requests, or the other way round."""
        if writable is not self._writable_only:
            self._writable_only = writable
            self._loop.epoll.modify(self.fd, select.EPOLLOUT if writable else select.EPOLLIN)


def milliseconds(seconds: float) -> float | None:
    """Spell a bound as poll wants it; None: for ever."""
    return None if seconds == float("inf") else seconds * 1000


def peer_name(peer: object) -> str:
    """Spell a peer as accept gives it."""
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return "unix"
