"""The way in of a connection, where bodies are concerned: they arrive at their client's pace, and need room.

Runs in a worker, driven by its loop; the streamed kind, which the app reads while it arrives, is in worker/upload.py.
"""

from select import EPOLLIN
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.protocol.http import CONTINUE
from forkserve.protocol.types import Environ, Refused
from forkserve.worker.movable import Movable
from forkserve.worker.outlet import NOW, peer_name
from forkserve.worker.state import BODY, RUNNING
from forkserve.wsgi.out import PeerGone

if TYPE_CHECKING:
    from forkserve.worker.upload import Upload

_HURRY_S = 0.25


class Inlet(Movable):
    """A connection whose requests have bodies."""

    # Of the class until they change, see Connection.
    stays: bool  # after its next response
    _body_since = 0.0
    _body_bytes = 0
    _paused_at = 0.0
    _upload: "Upload | None" = None  # the body that the app reads while it arrives

    __slots__ = ()

    def _refuse(self, refused: Refused) -> None:
        raise NotImplementedError

    def owes_more(self) -> bool:
        """Whether it goes on for a while though the worker leaves: more requests have been received already."""
        raise NotImplementedError

    def told(self) -> Environ:
        """What is known of the request that arrives, as an environ."""
        return self._decoder.told()

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read of it, since there is no room for the body."""
        return self in self._loop.spool.paused

    def _pause(self) -> None:
        """Read nothing for now: there is no room for the body. The client waits, as long as for anything else."""
        loop = self._loop
        if self in loop.spool.paused:
            self.close()  # the kernel tells of nothing but the client's end
        else:
            loop.spool.paused.add(self)
            self._paused_at = monotonic()
            loop.epoll.modify(self.fd, 0)
            loop.spool.complain()

    def go_on_reading(self) -> None:
        """Read again, if there is room now. Called by the loop once a second."""
        loop = self._loop
        if self.fd < 0 or self._decoder.has_room():
            loop.spool.paused.discard(self)
            self._body_since += monotonic() - self._paused_at  # it was not the client who was slow
            if self.fd >= 0:
                loop.epoll.modify(self.fd, EPOLLIN)
                loop.readers[self.fd]()  # TLS may hold bytes that epoll does not show

    def _await_body(self, got: int) -> None:
        """Part of a body has arrived. The deadline is for the next part; a trickle is cut as well as silence."""
        loop = self._loop
        now = monotonic()
        if self.state is not BODY:
            self.state = BODY
            self.fresh = False
            self._body_since = now
            self._body_bytes = 0
        elif loop.body_min_rate:
            took_s = now - self._body_since
            self._body_bytes += got
            if took_s > loop.body_timeout_s and self._body_bytes < loop.body_min_rate * took_s:
                self._refuse(Refused("408 Request Timeout", f"the body came slower than {loop.body_min_rate} bytes/s"))
                return
        self.deadline = now + loop.body_timeout_s
        if self._decoder.wants_continue:
            self._decoder.wants_continue = False
            try:
                self.send(CONTINUE)
            except PeerGone:
                pass

    def sends_slowly(self, now: float) -> bool:
        """Whether less of the body has come than `body_min_rate`, which where others wait holds from the beginning."""
        took_s = now - self._body_since
        return took_s > _HURRY_S and self._body_bytes < self._loop.body_min_rate * took_s

    # for a body that is streamed

    def receive(self, buffer: bytearray) -> int:
        """Read once, for who reads a body in the app's place. Raises BlockingIOError, OSError."""
        backlog = self._backlog
        if backlog is None:
            return self.sock.recv_into(buffer, 0, NOW)
        with backlog.lock:  # TLS reads and writes with one state
            return self.sock.recv_into(buffer, 0, NOW)

    def reads_for(self, upload: "Upload") -> bool:
        """Whether the request of this body is the one that runs: its app may keep the body for longer."""
        return self._upload is upload and self.state is RUNNING

    def break_off(self, status: str, reason: str) -> None:
        """No more of the body will come: answer its request, unless ``status`` is empty or the app has begun to."""
        response = self.response
        if response is None or response.is_broken:
            return
        if status:
            log.info("request refused", status=status, reason=reason, peer=peer_name(self.peer))
        else:
            log.info("request broken off", reason=reason, peer=peer_name(self.peer))
        try:
            response.break_off(status)
        except PeerGone:
            pass

    def body_is_whole(self, wants_keep_alive: bool) -> None:
        """All of a streamed body has arrived: the response that is not begun need not be the last any more."""
        response = self.response
        if response is not None and not response.head_sent:
            self._upload = None
            stays = self.stays or self.owes_more()
            response.keep_alive = stays and wants_keep_alive and not response.closes
