"""The way out of a connection: what its client does not take at once is kept, and written as soon as it takes more.

By the app's next piece, by the flusher while the app is silent, by the loop when it is done. Only an app that produces
faster than its client reads is made to wait, once memory and the file are full. Runs in a worker; what a response is
written to (wsgi.response.Out). How its end is told from a cut: RFC 9112 section 8, socket(7) SO_LINGER.
"""

import _socket
import os
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT, POLLOUT, poll
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from forkserve.log import log
from forkserve.worker.backlog import BURST_BYTES, Backlog, CutShort, Region, TakesNothing
from forkserve.worker.state import RUNNING, State
from forkserve.wsgi.out import PeerGone
from forkserve.wsgi.response import Response

if TYPE_CHECKING:
    from forkserve.worker.holding import HoldingSocket
    from forkserve.worker.loop import Loop
    from forkserve.worker.tls import TlsTransport

    Transport = _socket.socket | TlsTransport

# One recv or send, whatever the file status flags: sockets made by accept need no extra call to become non-blocking.
NOW = _socket.MSG_DONTWAIT
_SEND_NOW = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
_MORE = _SEND_NOW | _socket.MSG_MORE
_RESET, _FIN = b"\x01\0\0\0\0\0\0\0", bytes(8)  # struct linger: how close() ends the connection
_LONGEST_WAIT_S = 86400.0  # poll counts milliseconds in an int


class Outlet:
    """One connection's way out. ``sock`` is a socket, or what TLS makes of one."""

    # Of the class until they change, which costs nothing to make; so there is a __dict__.
    _writable_only = False
    _is_guarded = False
    answered = b""  # the request whose response its client has not taken whole: method, target, version
    unsent = 0  # bytes that the app gave for a client that had left by then
    _held: "HoldingSocket | None" = None

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
        backlog = self._backlog  # looked at once: the flusher may have emptied it a moment later
        if backlog is not None and self._keep_behind(backlog, data):
            return
        try:
            sent = self._send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.unsent = len(data)
            self._gone(error)
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def send_last(self, data: bytes) -> None:
        """The same with what the connection is closed after, at once: the end leaves in the same segment (3 us)."""
        self.send(data, _MORE)

    def send_both(self, head: bytes, data: bytes) -> None:
        """The same for two pieces at once."""
        backlog = self._backlog
        if backlog is not None and self._keep_behind(backlog, head, data):
            return
        try:
            sent = self.sock.sendmsg((head, data), (), _SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.unsent = len(data)
            self._gone(error)
        if sent < len(head):
            self._keep(memoryview(head)[sent:], data)
        elif sent - len(head) < len(data):
            self._keep(memoryview(data)[sent - len(head) :])

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> None:
        """Send ``head``, then a part of an open file, which may be closed as soon as this returns. Raises PeerGone."""
        self._never_wait()
        if self._backlog is None and head:
            try:
                sent = self._send(head, _MORE)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.unsent = count
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
                self.unsent = region.count
                self._gone(error)
        self._keep_file(head, region)

    def write_kept(self) -> bool:
        """Write as much of what is kept as is taken now; whether that was all. Raises PeerGone."""
        backlog = self._backlog
        if backlog is None:
            return True
        try:
            with backlog.lock:
                return self._backlog is not backlog or self._write(backlog)
        except OSError as error:
            self._gone(error)

    def flush(self, backlog: Backlog) -> None:
        """Write what is kept, while the app runs. In the flusher's thread, with the lock."""
        try:
            self._write(backlog)
        except OSError as error:
            self._loop.flusher.leave(self, backlog)
            backlog.fail(error)

    def give_up(self, backlog: Backlog) -> None:
        """Forget what is kept: the client takes nothing. In the flusher's thread, with the lock."""
        self._loop.flusher.leave(self, backlog)
        backlog.fail(TakesNothing("the client takes nothing of the response"))

    def flush_meanwhile(self) -> None:
        """Have what is kept written by somebody else, while the app does what gives no piece."""
        backlog = self._backlog
        if backlog is not None and self.state is RUNNING:
            with backlog.lock:
                if self._backlog is backlog and backlog.error is None:
                    self._loop.flusher.watch(self, backlog)

    def take_back(self) -> None:
        """Let nobody but the caller write what is kept from now on: the app has ended."""
        backlog = self._backlog
        if backlog is not None:
            with backlog.lock:
                self._loop.flusher.leave(self, backlog)

    def drop_kept(self, error: OSError) -> None:
        """Forget what is kept; who still has something for this client meets ``error``."""
        backlog = self._backlog
        if backlog is not None:
            with backlog.lock:
                self._loop.flusher.leave(self, backlog)
                backlog.fail(error)
                self.unsent += backlog.unsent
                backlog.unsent = 0

    # how its end looks

    def guard_end(self) -> None:
        """Let every end be a reset until release_end: the end of the connection will be that of the body, so that a
        cut would look like the whole. Whoever cuts it, and be it the end of the process."""
        self._is_guarded = True
        self._set_linger(_RESET)

    def release_end(self) -> None:
        """All has been given to the kernel: the end may look like one."""
        if self._is_guarded:
            self._is_guarded = False
            self._set_linger(_FIN)
        if self._held is not None:
            self._held.release()

    def cut(self) -> None:
        """The process ends in this moment: what is not whole shall look cut. TLS needs a word for that."""
        if self._is_guarded and not isinstance(self.sock, _socket.socket):
            self.sock.alert()

    def _set_linger(self, value: bytes) -> None:
        try:
            self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, value)
        except OSError:  # it was closed, or reset by its client
            pass

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

    @property
    def response(self) -> Response | None:
        """The response of the request that runs."""
        raise NotImplementedError

    @property
    def head_sent(self) -> bool:
        """Whether the response of the request that runs has begun to leave."""
        return self.response is not None and self.response.head_sent

    def pause_clock(self) -> float:
        """Take the running request's deadline away for a moment: what follows is not on the app's time."""
        raise NotImplementedError

    def resume_clock(self, deadline: float, waited_s: float) -> None:
        """Give it back, so much later."""
        raise NotImplementedError

    def restart_clock(self) -> None:
        """The app has given a part of its response: its time for the next one begins."""
        raise NotImplementedError

    def wait_for(self, event: int, bound_s: float) -> bool:
        """Wait until poll(2) tells of ``event``, for so long at most; not on the app's time, or a slow client would
        get the worker killed."""
        waiting = poll()
        waiting.register(self.fd, event)
        began = monotonic()
        deadline = self.pause_clock()
        try:
            while True:
                left_s = max(0.0, began + bound_s - monotonic())
                if waiting.poll(min(left_s, _LONGEST_WAIT_S) * 1000):
                    return True
                if left_s <= _LONGEST_WAIT_S:
                    return False
        finally:
            self.resume_clock(deadline, monotonic() - began)

    def watch(self, writable: bool) -> None:
        """Wait for room to write instead of for requests, or the other way round."""
        if writable is not self._writable_only:
            self._writable_only = writable
            self._loop.epoll.modify(self.fd, EPOLLOUT if writable else EPOLLIN)

    def _send_now(self, data: bytes | memoryview) -> int:
        return self._send(data, _SEND_NOW)

    def _gone(self, error: OSError) -> NoReturn:
        if isinstance(error, CutShort):
            log.error("response could not be sent whole; connection closed", cause=str(error))
        elif isinstance(error, TakesNothing):
            self.say_stalled()
        self.drop_kept(error)
        self.lose()
        raise PeerGone(f"the client has left: {error.strerror or error}") from None

    def say_stalled(self) -> None:
        """Log that the client is given up."""
        log.info(
            "client takes nothing; connection closed", after_s=self._loop.send_timeout_s, peer=peer_name(self.peer)
        )

    @property
    def kept_bytes(self) -> int:
        """How much of a response its client has not taken."""
        backlog = self._backlog
        return 0 if backlog is None else backlog.size

    def _never_wait(self) -> None:
        """sendfile knows no flags: it does not wait where the socket does not. (Sockets of accept begin as they do.)"""
        if self._sendfile_fd >= 0:
            os.set_blocking(self._sendfile_fd, False)

    # what is kept

    def _write(self, backlog: Backlog) -> bool:
        """Write as much as is taken now; whether nothing is kept any more. Raises OSError; with the lock."""
        try:
            backlog.write(self._send_now, self._sendfile_fd)
        except BlockingIOError:
            return False
        self._loop.flusher.leave(self, backlog)
        self._backlog = None
        return True

    def _keep_behind(self, backlog: Backlog, *pieces: bytes) -> bool:
        """Keep pieces behind what is still kept once the client takes no more of it; False: all of that has left."""
        try:
            with backlog.lock:
                if self._backlog is not backlog:
                    return False
                waits = backlog.is_watched and monotonic() < backlog.try_at
                if not waits and self._write(backlog):
                    return False
                for piece in pieces:
                    backlog.keep(piece)
        except OSError as error:
            self.unsent = sum(map(len, pieces))
            self._gone(error)
        self._go_on_keeping(backlog)
        return True

    def _keep(self, *pieces: bytes | memoryview) -> None:
        """Keep what the client does not take."""
        backlog = self._new_backlog()
        for piece in pieces:
            backlog.keep(piece)
        self._backlog = backlog
        self._go_on_keeping(backlog)

    def _keep_file(self, head: bytes, region: Region) -> None:
        """Keep the rest of a file: by a descriptor of our own, or, where there is none, until the client has it."""
        backlog = self._backlog
        if backlog is None:
            backlog = self._new_backlog()
        with backlog.lock:
            if backlog.error is not None:
                self._gone(backlog.error)
            if head:
                backlog.keep(head)
            try:
                region.fd, region.owned = os.dup(region.fd), True
            except OSError as error:
                self._loop.spool.complain(error.strerror or str(error))
            backlog.keep_region(region)
            self._backlog = backlog
        while not region.owned and region.count and not self.write_kept():
            self._make_app_wait(backlog)

    def _new_backlog(self) -> Backlog:
        if self.fd < 0:  # or what an app that caught PeerGone still writes would be kept for nobody
            raise PeerGone("the client has left")
        self._never_wait()
        return Backlog(self._loop.spool, self._loop.spool_limit)

    def _go_on_keeping(self, backlog: Backlog) -> None:
        """Once memory and the file are full the app waits for its client; else somebody writes while it goes on."""
        if self.state is not RUNNING:
            return  # the loop looks after it
        while self._backlog is backlog and backlog.is_full:
            self._loop.spool.complain()
            self._make_app_wait(backlog)
            self.write_kept()
        response = self.response
        if response is not None and not response.is_complete:
            self.flush_meanwhile()

    def _make_app_wait(self, backlog: Backlog) -> None:
        """Wait until the client takes more. Raises PeerGone when it does not."""
        with backlog.lock:
            self._loop.flusher.leave(self, backlog)
        if not self.wait_for(POLLOUT, self._loop.send_timeout_s):
            self._gone(TakesNothing("the client takes nothing of the response"))


def peer_name(peer: object) -> str:
    """Spell a peer as accept gives it."""
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return "unix"
