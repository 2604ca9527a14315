"""One connection: its state, its requests, its end. Runs in a worker, driven by its loop.

Reading and writing never wait: what has not arrived yet or is not taken yet costs memory, not the worker. A connection
that waits for a request belongs to no worker in particular: it can be passed on to another one by the relay.
"""

import _socket
import errno
from select import EPOLLIN
from time import monotonic
from typing import TYPE_CHECKING, cast

from forkserve.log import log
from forkserve.protocol.types import KEEP_ALIVE, Environ, Refused
from forkserve.unix.scoreboard import BEGAN, DEADLINE, WATCHED
from forkserve.worker.door import HAS_WORDS, hear_words
from forkserve.worker.lines import Unlogged, note_later, note_now, note_refusal
from forkserve.worker.outlet import NOW, peer_name
from forkserve.worker.pipeline import Pipeline
from forkserve.worker.state import BODY, HEAD, IDLE, LINGERING, OPENING, RUNNING, WRITING
from forkserve.wsgi.out import PeerGone
from forkserve.wsgi.response import Response, plain_answer, respond

if TYPE_CHECKING:
    from forkserve.accesslog import AccessLog
    from forkserve.worker.door import Door
    from forkserve.worker.holding import HoldingSocket
    from forkserve.worker.loop import Loop
    from forkserve.worker.tls import TlsTransport

LINGER_S = 2.0  # how long the last response may travel before a reset could overtake it: RFC 9112 section 9.6
_HEAD_BYTES = 16 * 1024  # of a read where a request begins
_BODY_BYTES = 48 * 1024  # of one amid a body: what follows the body waits in memory
_CLOSED = OSError(errno.EPIPE, "the connection was closed")


class Connection(Pipeline):
    """One accepted connection."""

    response_kind: type[Response] = Response
    # What few connections ever change stands on the class: a connection costs 0.3 us less.
    _then_close = False
    _linger_left = 64 << 20  # a refused upload goes on until its sender looks; reading this much takes 10 ms
    unlogged: Unlogged | None = None  # its access line waits for the client

    __slots__ = ("_recv", "stays")

    def __init__(self, loop: "Loop", fd: int, family: int, peer: object, door: "Door", template: Environ) -> None:
        sock = door.socket(family, _socket.SOCK_STREAM, 0, fd)
        if sock.timeout is not None:  # socket.setdefaulttimeout() of the app: it would have our calls wait
            sock.settimeout(None)
        self.sock = sock
        if door.holds:
            self._held = cast("HoldingSocket", sock)
        self.fd = fd
        self.peer = peer
        self.state = IDLE
        self.fresh = True  # no request yet: the first one has the time-out of a head from the accept on
        self.stays = loop.keep_alive  # after its next response
        self.deadline = monotonic() + loop.header_timeout_s
        self._loop = loop
        self._door = door
        self._send = sock.send
        self._recv = sock.recv
        self._backlog = None
        self._decoder = door.decoder_for(peer, template)

    def begin(self, template: Environ, transport: "TlsTransport | None") -> None:
        """Begin to read requests: what came before the first one is through, and has completed the template."""
        loop = self._loop
        self._decoder = self._door.decoder_for(self.peer, template)
        self.state = IDLE
        self.deadline = monotonic() + loop.header_timeout_s
        if transport is None:
            loop.read_with(self, self.on_readable)
            return
        self._recv = transport.recv
        self._send = transport.send
        self._tls = transport
        self.stays = self.stays and not loop.is_retiring
        loop.read_with(self, self.on_readable_tls)

    # driven by the loop

    def on_readable(self) -> None:
        """Bytes, or the end of them, have arrived."""
        if self.state is not IDLE:
            self._read_on()
            return
        try:
            data = self._recv(_HEAD_BYTES, NOW)  # bytes at once: 0.2 us less than to copy them out of the buffer
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.take(data)
        else:
            self.close()

    def _read_on(self) -> None:
        """The same amid a request, where much may come."""
        loop = self._loop
        if self.state is BODY and not self._decoder.has_room():
            self._pause()
            return
        try:
            got = self.sock.recv_into(loop.buffer, _HEAD_BYTES if self.state is HEAD else _BODY_BYTES, NOW)
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
        self.take(loop.view[:got])

    def take(self, data: bytes | memoryview) -> None:
        """Go on with bytes that have arrived."""
        decoder = self._decoder
        try:
            decoder.feed(data)
        except (Refused, OSError) as error:
            self._cannot_read(error)
            return
        if decoder.ready:
            self._serve()
            if self.state is not IDLE or self.fd < 0:
                return
            if decoder.waiting or decoder.ready:
                self._take_rest(self._loop.deadline[BEGAN])
                return
        if not decoder.idle:
            self._await_more(len(data))

    def _await_more(self, got: int) -> None:
        """Part of a request has arrived."""
        if self._decoder.body_began:
            if self._loop.streams:
                self._serve_streaming()
            else:
                self._await_body(got)
        elif self.state is IDLE:
            self.state = HEAD
            if not self.fresh:  # else the time for the first head runs since the accept
                self.deadline = monotonic() + self._loop.header_timeout_s

    def on_writable(self) -> None:
        """The client takes more: write what is kept, then go on where the response left off."""
        try:
            is_done = self.write_kept()
        except PeerGone:
            return
        if not is_done:
            self.deadline = monotonic() + self._loop.send_timeout_s
            return
        self.watch(False)
        self._go_on_after_writing()
        if self._tls is not None and self.fd >= 0 and self.state is not WRITING and self._tls.pending():
            self.on_readable_tls()

    def _go_on_after_writing(self) -> None:
        if self.unlogged is not None:
            note_now(self)
        if self._then_close:
            self.linger()
            return
        self.state = IDLE
        self.deadline = monotonic() + self._loop.keepalive_s
        self._take_rest(monotonic())

    def on_overdue(self) -> None:
        """The deadline of the state has passed."""
        if self.state is IDLE and self.has_rest:
            self.take_turn()
        elif self.state is IDLE:
            deadline = self.deadline
            self._loop.readers[self.fd]()  # a request may have arrived while another one ran: it is not cut
            if self.fd >= 0 and self.state is IDLE and self.deadline == deadline:
                self.close()
        elif self.is_paused:
            self._loop.spool.paused.discard(self)
            self._loop.epoll.modify(self.fd, EPOLLIN)
            self._refuse(Refused("503 Service Unavailable", f"no room for the body: {self._loop.spool.trouble}"))
        elif self.state is HEAD or self.state is BODY:
            self._refuse(Refused("408 Request Timeout", f"the client was too slow with its {self.state.value}"))
        else:
            if self.state is OPENING:
                log.info("connection refused", reason="too slow with its beginning", peer=peer_name(self.peer))
            elif self.state is WRITING:
                self.say_stalled()
            self.close()

    def let_go(self) -> None:
        """Close this process's copies of what is the connection's, in a child that the app has forked."""
        if self._backlog is not None:
            self._backlog.clear()
        self._decoder.close()
        self.sock.close()

    def linger(self) -> None:
        """Close for writing; read to the end of what still comes, for a moment, so that no reset eats the response."""
        self.release_end()
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except BlockingIOError:  # TLS has a last word to say, and there is no room for it yet
            self._await_room(then_close=True)
            return
        except OSError:
            self.close()
            return
        self.state = LINGERING
        self.deadline = monotonic() + LINGER_S

    def part(self) -> None:
        """Close after a whole response, from a client that sends nothing more."""
        self.release_end()
        if self._tls is None or self._tls.say_goodbye():
            self.close()
        else:
            self.linger()  # which waits for room

    def close(self) -> None:
        """Close now; the app, should it run, meets PeerGone at its next byte."""
        fd = self.fd
        if fd >= 0:
            loop = self._loop
            if self._backlog is not None:
                self.drop_kept(_CLOSED)
            if self.unlogged is not None:
                note_now(self)
            if self._held is not None and self.state is IDLE and not self._is_guarded:
                self._held.release()
            del loop.connections[fd]
            del loop.readers[fd]
            self.fd = -1
            self._decoder.close()
            self.sock.close()  # epoll forgets it by itself: this was the only descriptor of it

    # requests

    @property
    def response(self) -> Response | None:
        """The response of the request that runs."""
        return self._loop.running

    @property
    def access(self) -> "AccessLog | None":
        """The access log, if there is one."""
        return self._loop.access

    def pause_clock(self) -> float:
        """Take the running request's deadline away for a moment: what follows is not on the app's time."""
        return self._loop.timer.pause()

    def resume_clock(self, deadline: float, waited_s: float) -> None:
        """Give it back, so much later."""
        self._loop.timer.resume(deadline, waited_s)

    def restart_clock(self) -> None:
        """The app has given a part of its response: its time for the next one begins."""
        self._loop.timer.restart()

    def _serve(self) -> None:
        """Run the first complete request."""
        loop = self._loop
        attendant = loop.attendant
        if self.fresh:  # it may have been in the accept queue for long
            self.fresh = False
            if self.has_left():
                self.leave_unserved()
                return
        request = self._decoder.ready.pop(0)
        environ, line, flags = request
        self.state = RUNNING
        now = monotonic()
        if now >= loop.tick_at:
            loop.on_tick(now, line)
        loop.requests += 1
        loop.begin(now + loop.first_s, now, loop.requests, line)
        if flags & HAS_WORDS:
            hear_words(environ, flags, self._door.forwarders, self.peer)
        response = self.response_kind()
        response.request = request
        response.out = self
        response.keep_alive = flags & KEEP_ALIVE != 0 and (self.stays or self.owes_more())
        loop.running = response
        if attendant is not None and now > loop.deadline[WATCHED] and (len(loop.connections) > 1 or loop.has_newcomers):
            attendant.ask(now)  # here, after we said what runs: the master says that it sleeps, then looks what runs
        respond(loop.app, environ, response)
        loop.running = None
        loop.deadline[DEADLINE] = 0.0
        if loop.attended and attendant is not None:
            attendant.await_end()
        waits = self._backlog is not None
        if loop.access is not None:
            if waits or self.unsent:
                note_later(self, environ, response, now)
            else:
                loop.access.note(environ, response, monotonic() - now)
        if waits or not response.keep_alive:
            self._after(response, flags, waits)
            return
        self.state = IDLE
        self.deadline = monotonic() + loop.keepalive_s

    def _serve_streaming(self) -> None:
        """Run the request whose body has begun to arrive; what the app reads of it is waited for."""
        from forkserve.worker.upload import Upload  # lazy: it is an option

        decoder = self._decoder
        request, body = decoder.begun()
        self._upload = Upload(self, self._loop, decoder, request, body)
        decoder.ready.append(self._upload.request)
        self._serve()
        if self.fd >= 0 and self.state is IDLE and self.has_rest:
            self.await_turn()

    def _after(self, response: Response, flags: int, waits: bool) -> None:
        """Go on after a response that is the last one, or that the client had not taken when the app ended."""
        self.take_back()
        if self.fd < 0:
            return
        self.answered = response.request[1]
        if response.aborted:
            self._abort()
        elif waits and self._backlog is not None and self._backlog.error is not None:
            try:
                self.write_kept()
            except PeerGone:
                pass  # the client was given up while the app was silent: that is said, and it is closed
        elif waits:
            self._await_room(then_close=not response.keep_alive)
        elif flags & KEEP_ALIVE or self._loop.streams:  # a streamed request says that it stays when its body is whole
            self.linger()
        else:
            self.part()  # the client announced the end: nothing of it is under way that a reset could answer

    def _await_room(self, *, then_close: bool) -> None:
        self.state = WRITING
        self._then_close = then_close
        self.deadline = monotonic() + self._loop.send_timeout_s
        self.watch(True)

    def _refuse(self, refused: Refused) -> None:
        """Answer what cannot be served, and close."""
        log.info("request refused", status=refused.status, reason=refused.reason, peer=peer_name(self.peer))
        self._answer_refused(refused, plain_answer(refused.status))

    def _answer_refused(self, refused: Refused, answer: bytes) -> None:
        note_refusal(self, refused.environ or self._decoder.told(), refused.status)
        self._decoder.close()
        try:
            self.send(answer)
        except PeerGone:
            return
        if self._backlog is not None:
            self._await_room(then_close=True)
            return
        note_now(self)
        self.linger()

    def _abort(self) -> None:
        """Break off with a reset, so that the client sees it: the plain end could be the end of the body (HTTP/1.0)."""
        self.guard_end()
        self.close()
