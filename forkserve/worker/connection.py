"""One connection: its socket, its state, the bytes it still owes. Runs in a worker, driven by its loop.

A connection is in one state; every state but RUNNING has a deadline, which the loop looks at once a second. Reading
and writing never wait: what has not arrived yet or is not taken yet costs memory, not the worker. Only an app that
produces faster than its client reads is made to wait, once BACKLOG_BYTES are kept for that client.
"""

import _socket
import select
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.protocol.http import CONTINUE, Decoder
from forkserve.protocol.types import KEEP_ALIVE, Environ, Refused
from forkserve.unix.scoreboard import DEADLINE
from forkserve.wsgi.response import PeerGone, Response, clock, plain_answer, respond

if TYPE_CHECKING:
    from forkserve.worker.loop import Loop

BACKLOG_BYTES = 1 << 20
LINGER_S = 2.0  # how long the last response may travel before a reset could overtake it: RFC 9112 section 9.6
_LINGER_BYTES = 64 << 20  # a refused upload goes on until its sender looks; reading this much takes 10 ms

# One recv or send, whatever the file status flags: sockets made by accept need no extra call to become non-blocking.
_NOW = _socket.MSG_DONTWAIT
_SEND_NOW = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL


class State(Enum):
    """Where a connection stands."""

    IDLE = "idle"  # nothing of a (next) request has arrived
    HEAD = "head"
    BODY = "body"
    RUNNING = "running"
    WRITING = "writing"  # the app is done; the client has not taken everything
    LINGERING = "lingering"  # all is said; waiting for the client to close


# An attribute of an Enum class costs twice a global's look-up.
IDLE, HEAD, BODY, RUNNING, WRITING, LINGERING = State


class Connection:
    """One accepted connection."""

    __slots__ = (
        "_decoder", "_kept", "_kept_bytes", "_linger_left", "_loop", "_recv_into", "_refused", "_send", "_then_close",
        "_writable_only", "deadline", "fd", "fresh", "peer", "sock", "state",
    )  # fmt: skip

    def __init__(self, loop: "Loop", fd: int, family: int, peer: object, template: Environ) -> None:
        self.sock = sock = _socket.socket(family, _socket.SOCK_STREAM, 0, fd)
        self.fd = fd
        self.peer = peer
        self.fresh = True  # no request yet: the first one has the time-out of a head from the accept on
        self.state = IDLE
        self.deadline = monotonic() + loop.header_timeout_s
        self._loop = loop
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._decoder = Decoder(template, loop.limits, loop.make_body)
        self._kept: list[memoryview] = []  # what the client has not taken yet, in order
        self._kept_bytes = 0
        self._then_close = False
        self._refused: Refused | None = None  # to be answered when the good requests before it are
        self._writable_only = False
        self._linger_left = _LINGER_BYTES

    # driven by the loop

    def on_readable(self) -> None:
        """Bytes, or the end of them, have arrived."""
        loop = self._loop
        try:
            got = self._recv_into(loop.buffer, 0, _NOW)
        except BlockingIOError:
            return
        except OSError:
            got = 0
        if got == 0:
            self.close()
            return
        if self.state is LINGERING:
            self._linger_left -= got
            if self._linger_left <= 0:
                self.close()
            return
        decoder = self._decoder
        try:
            decoder.feed(loop.view[:got])
        except Refused as error:
            self._finish_then_refuse(error)
            return
        except OSError as error:  # the body's file: disk full, no descriptor left
            log.error("request body could not be stored", cause=error)
            self._finish_then_refuse(Refused("503 Service Unavailable", str(error)))
            return
        if decoder.ready:
            self._serve()
            if self.state is not IDLE or self.fd < 0:
                return
        if not decoder.idle:
            self._await_more()

    def _finish_then_refuse(self, refused: Refused) -> None:
        """Answer the good requests that came before a bad one, then the bad one."""
        self._refused = refused
        if self._decoder.ready:
            self._serve()
        if self.fd >= 0 and self.state in (IDLE, HEAD, BODY):
            self._refuse(refused)

    def _await_more(self) -> None:
        """Part of a request has arrived."""
        if self._decoder.body_began:
            self._await_body()
        elif self.state is IDLE:
            self.state = HEAD
            if not self.fresh:  # else the time for the first head runs since the accept
                self.deadline = monotonic() + self._loop.header_timeout_s

    def on_writable(self) -> None:
        """The client takes more: write what is kept, then go on where the response left off."""
        try:
            self._write_kept()
        except PeerGone:
            self.close()
            return
        if self._kept:
            self.deadline = monotonic() + self._loop.send_timeout_s
            return
        self._watch(False)
        if self._then_close:
            self.linger()
            return
        self.state = IDLE
        self.deadline = monotonic() + self._loop.keepalive_s
        if self._decoder.ready:
            self._serve()
            if self.state is not IDLE or self.fd < 0:
                return
        if self._refused is not None:
            self._refuse(self._refused)
        elif not self._decoder.idle:
            self._await_more()

    def on_overdue(self) -> None:
        """The deadline of the state has passed."""
        if self.state is IDLE:
            deadline = self.deadline
            self.on_readable()  # a request may have arrived while another one ran: it is not cut
            if self.fd >= 0 and self.state is IDLE and self.deadline == deadline:
                self.close()
        elif self.state is HEAD or self.state is BODY:
            self._refuse(Refused("408 Request Timeout", f"the client was too slow with its {self.state.value}"))
        else:
            self.close()

    def linger(self) -> None:
        """Close for writing; read to the end of what still comes, for a moment, so that no reset eats the response."""
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.state = LINGERING
        self.deadline = monotonic() + LINGER_S

    def close(self) -> None:
        """Close now; the app, should it run, meets PeerGone at its next byte."""
        if self.fd >= 0:
            del self._loop.connections[self.fd]
            del self._loop.readers[self.fd]
            self.fd = -1
            self._decoder.close()
            self._kept.clear()
            self.sock.close()  # epoll forgets it by itself: this was the only descriptor of it

    # requests

    def _serve(self) -> None:
        """Run every complete request, in order, as long as the client keeps up."""
        loop = self._loop
        ready = self._decoder.ready
        self.fresh = False
        while ready:
            request = ready.pop(0)
            environ, line, flags = request
            self.state = RUNNING
            now = monotonic()
            if now >= clock.until:
                clock.refresh(now)
            if now >= loop.show_busy_at:
                loop.show_busy(now, line)
            loop.requests += 1
            loop.begin(now + loop.timeout_s, now, loop.requests, line)
            response = loop.running = Response(request, self, loop.keep_alive and flags & KEEP_ALIVE != 0)
            respond(loop.app, environ, response)
            loop.running = None
            loop.deadline[DEADLINE] = 0.0
            if loop.access is not None:
                loop.access.note(environ, response, monotonic() - now)
            if self._kept or not response.keep_alive:
                self._after(response, flags)
                return
        self.state = IDLE
        self.deadline = now + loop.keepalive_s

    def _after(self, response: Response, flags: int) -> None:
        """Go on after a response that is the last one, or that the client has not taken yet."""
        if response.exit is not None:
            self._loop.leave(f"the app raised {type(response.exit).__name__}")
        if self.fd < 0:
            return
        if response.aborted:
            self._abort()
        elif self._kept:
            self._await_room(then_close=not response.keep_alive)
        elif flags & KEEP_ALIVE:
            self.linger()
        else:
            self.close()  # the client announced the end: nothing of it is under way that a reset could answer

    def _await_room(self, *, then_close: bool) -> None:
        self.state = WRITING
        self._then_close = then_close
        self.deadline = monotonic() + self._loop.send_timeout_s
        self._watch(True)

    def _await_body(self) -> None:
        self.state = BODY
        self.fresh = False
        self.deadline = monotonic() + self._loop.body_timeout_s
        if self._decoder.wants_continue:
            self._decoder.wants_continue = False
            try:
                self.send(CONTINUE)
            except PeerGone:
                self.close()

    def _refuse(self, refused: Refused) -> None:
        """Answer what cannot be served, and close."""
        log.info("request refused", status=refused.status, reason=refused.reason, peer=peer_name(self.peer))
        self._decoder.close()
        try:
            self.send(plain_answer(refused.status))
        except PeerGone:
            self.close()
            return
        if self._kept:
            self._await_room(then_close=True)
        else:
            self.linger()

    def _abort(self) -> None:
        """Break off with a reset, so that the client sees it: the plain end could be the end of the body (HTTP/1.0)."""
        try:
            self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        except OSError:
            pass
        self.close()

    # Out: what a response is written to

    def send(self, data: bytes) -> None:
        """Give ``data`` to the kernel; what it does not take now is kept. Raises PeerGone."""
        if self._kept:
            self._keep(data)
            return
        try:
            sent = self._send(data, _SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._gone(error)
        if sent != len(data):
            self._keep(data, sent)

    def send_both(self, head: bytes, data: bytes) -> None:
        """The same for two pieces at once."""
        if self._kept:
            self._keep(head)
            self._keep(data)
            return
        try:
            sent = self.sock.sendmsg((head, data), (), _SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._gone(error)
        if sent < len(head):
            self._keep(head, sent)
            self._keep(data)
        elif sent - len(head) < len(data):
            self._keep(data, sent - len(head))

    def _gone(self, error: OSError) -> None:
        self.close()
        raise PeerGone(f"the client has left: {error.strerror}") from None

    def _keep(self, data: bytes, sent: int = 0) -> None:
        """Keep what the client does not take; beyond BACKLOG_BYTES the app waits for it."""
        self._kept.append(memoryview(data)[sent:])
        self._kept_bytes += len(data) - sent
        while self._kept_bytes > BACKLOG_BYTES and self.state is RUNNING:
            if not self._wait_for_room(self._loop.send_timeout_s):
                log.info(
                    "client takes nothing; connection closed",
                    after_s=self._loop.send_timeout_s, peer=peer_name(self.peer),
                )  # fmt: skip
                self.close()
                raise PeerGone("the client takes nothing of the response")
            self._write_kept()

    def _wait_for_room(self, timeout_s: float) -> bool:
        """Wait until the client takes more; not on the app's time, or a slow client would get the worker killed."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        words = self._loop.deadline
        deadline, began = words[DEADLINE], monotonic()
        words[DEADLINE] = 0.0
        has_room = bool(poll.poll(None if timeout_s == float("inf") else timeout_s * 1000))
        words[DEADLINE] = deadline + monotonic() - began
        return has_room

    def _write_kept(self) -> None:
        """Write of what is kept as much as the kernel takes. Raises PeerGone."""
        while self._kept:
            piece = self._kept[0]
            try:
                sent = self._send(piece, _SEND_NOW)
            except BlockingIOError:
                return
            except OSError as error:
                self._gone(error)
            self._kept_bytes -= sent
            if sent == len(piece):
                self._kept.pop(0)
            else:
                self._kept[0] = piece[sent:]
                return

    def _watch(self, writable: bool) -> None:
        """Wait for room to write instead of for requests, or the other way round."""
        if writable is not self._writable_only:
            self._writable_only = writable
            self._loop.epoll.modify(self.fd, select.EPOLLOUT if writable else select.EPOLLIN)


def peer_name(peer: object) -> str:
    """Spell a peer as accept gives it."""
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return "unix"
