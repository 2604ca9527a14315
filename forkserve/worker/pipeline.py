"""The part of a connection that reads requests which came together: one after the other, with turns for everybody else.

What is received behind a request waits as bytes until that is answered. Runs in a worker, driven by its loop.
"""

import _socket
from select import POLLERR, POLLHUP, poll
from time import monotonic
from typing import TYPE_CHECKING, cast

from forkserve.log import log
from forkserve.protocol.types import Refused
from forkserve.worker.inlet import Inlet
from forkserve.worker.outlet import NOW, peer_name
from forkserve.worker.state import BODY, HEAD, IDLE, WRITING
from forkserve.worker.turns import TURN_S, nothing

if TYPE_CHECKING:
    from forkserve.worker.connection import Connection
    from forkserve.worker.tls import TlsTransport


class Pipeline(Inlet):
    """A connection whose client may send many requests at once."""

    # Of the class until they change, see Connection.
    waits = False  # ready, and unread until it is its turn, or there is a thread
    _refused: Refused | None = None  # to be answered when the good requests before it are
    _tls: "TlsTransport | None" = None

    __slots__ = ()

    def on_readable(self) -> None:
        """Bytes, or the end of them, have arrived."""
        raise NotImplementedError

    def _serve(self) -> None:
        """Run the first complete request."""
        raise NotImplementedError

    def _await_more(self, got: int) -> None:
        """Part of a request has arrived."""
        raise NotImplementedError

    @property
    def has_rest(self) -> bool:
        """Whether a request, or the beginning of one, has been received behind the one that was served last."""
        return bool(self._decoder.waiting or self._decoder.ready)

    def _take_rest(self, began: float) -> None:
        """Serve what was received behind a request, while the turn lasts that began then; refuse what is bad in it."""
        decoder = self._decoder
        loop = self._loop
        while decoder.waiting or decoder.ready:
            if loop.requests >= loop.near_requests and not loop.goes_on(cast("Connection", self)):
                return
            if monotonic() - began > TURN_S:
                self.await_turn()
                return
            if not decoder.ready:
                try:
                    decoder.go_on()
                except (Refused, OSError) as error:
                    self._cannot_read(error)
                    return
                if not decoder.ready:
                    break
            self._serve()
            if self.state is not IDLE or self.fd < 0:
                return
        if self._refused is not None:
            self._refuse(self._refused)
        elif not decoder.idle:
            self._await_more(0)

    def await_turn(self) -> None:
        """Go on after everybody else had a turn. Until then nothing more is read."""
        self.waits = True
        self._loop.readers[self.fd] = nothing
        self._loop.turns.append(self)

    def take_turn(self) -> None:
        """Go on with a pipeline."""
        self.waits = False
        if self.has_left():
            self.leave_unserved()
            return
        tls = self._tls
        self._loop.read_with(cast("Connection", self), self.on_readable if tls is None else self.on_readable_tls)
        self._take_rest(monotonic())
        if tls is not None and self._has_pending(tls):
            self.on_readable_tls()

    def has_left(self) -> bool:
        """Whether nobody is there any more to be answered: the connection was reset; or closed, which a unix socket
        tells apart from the end of what its client sends. That end alone is no proof: it may wait for its answer."""
        if self._tls is None and self.peer:  # TCP; a poll costs four times as much
            return cast("_socket.socket", self.sock).getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) != 0
        waiting = poll()
        waiting.register(self.fd, 0)
        return any(events & (POLLERR | POLLHUP) for _, events in waiting.poll(0))

    def leave_unserved(self) -> None:
        """Forget a request that waited until its client had left."""
        log.debug("client left before its request began", peer=peer_name(self.peer))
        self._decoder.ready.clear()
        self.close()

    def owes_more(self) -> bool:
        """Whether it goes on for a while though the worker leaves: more requests have been received already."""
        loop = self._loop
        if not loop.is_retiring or monotonic() > loop.pipelines_until:
            return False
        return self.has_rest or self.has_unread()

    def has_unread(self) -> bool:
        """Whether the kernel, or TLS, has bytes of the client that nobody has read."""
        if self._tls is not None:
            return self._tls.has_unread()
        if self._held is not None and not self._held.is_free:
            return False  # it always has
        try:
            return bool(_socket.socket.recv(cast("_socket.socket", self.sock), 1, NOW | _socket.MSG_PEEK))
        except OSError:
            return False

    def on_readable_tls(self) -> None:
        """The same where TLS may hold bytes that epoll does not show."""
        tls = self._tls
        assert tls is not None
        began = monotonic()
        self.on_readable()
        while self._has_pending(tls) and not self.is_paused:
            if monotonic() - began > TURN_S:
                self.await_turn()
                return
            self.on_readable()

    def _has_pending(self, tls: "TlsTransport") -> bool:
        return self.fd >= 0 and self.state is not WRITING and not self.waits and tls.pending()

    def _cannot_read(self, error: Refused | OSError) -> None:
        """Answer the good requests that came before a bad one, then the bad one."""
        if not isinstance(error, Refused):  # the disk is broken; where it is merely full nothing is read
            log.error("request body could not be stored", cause=error)
            error = Refused("503 Service Unavailable", str(error))
        self._refused = error
        self._decoder.waiting = b""  # what follows means nothing
        if self._decoder.ready:
            self._serve()
        if self.fd >= 0 and self.state in (IDLE, HEAD, BODY):
            self._take_rest(monotonic())
