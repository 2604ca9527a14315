"""The part of a connection that moves: from the worker that holds it to whichever is idle first, by the relay.

A connection moves between two requests, or with a head that is not whole; what came of that goes along, and so do
requests of a pipeline that have not begun. Runs in a worker.
"""

from time import monotonic
from typing import TYPE_CHECKING

from forkserve.protocol.http import Decoder
from forkserve.unix.relay import MOST_BYTES, Moved
from forkserve.worker.outlet import Outlet
from forkserve.worker.state import HEAD, IDLE

if TYPE_CHECKING:
    from forkserve.worker.door import Door

_NO_FACTS: dict[str, str] = {}  # of a connection without a PROXY header


class Movable(Outlet):
    """A connection as the relay sees it."""

    facts = _NO_FACTS

    __slots__ = ("_decoder", "_door", "deadline", "fresh")

    _decoder: Decoder
    _door: "Door"
    deadline: float
    fresh: bool

    def take(self, data: bytes | memoryview) -> None:
        """Go on with bytes that have arrived."""
        raise NotImplementedError

    @property
    def is_movable(self) -> bool:
        """Whether another worker could go on with it."""
        return self._loop.relay is not None and self._door.is_plain

    def go_on(self, moved: Moved) -> None:
        """Go on where a sibling left off."""
        self.fresh = moved.fresh
        self.facts = moved.facts
        if moved.received:
            self.take(moved.received)
        if self.state is IDLE or self.state is HEAD:
            self.deadline = monotonic() + moved.left_s

    def offer(self) -> bool:
        """Give it to a sibling that has time; False: it stays here, since nobody has, or it cannot move."""
        return self._loop.siblings.have_time() and self.pass_on()

    def pass_on(self) -> bool:
        """Give this connection to whichever worker is idle first; False: it stays here."""
        if (self.state is not IDLE and self.state is not HEAD) or self._decoder.ready:
            return False
        received = self._decoder.unread()
        relay = self._loop.relay
        if relay is None or received is None or len(received) > MOST_BYTES or not self.is_movable:
            return False
        peer = self.peer[:2] if isinstance(self.peer, tuple) else None
        left_s = self.deadline - monotonic()
        moved = Moved(self._door.name, self._door.family, peer, self.fresh, left_s, received, self.facts)
        if self._held is not None:
            self._held.release()  # or it would be read once more
        if not relay.put(self.fd, moved):
            return False
        thrift = self._loop.thrift
        if thrift is None or not thrift.forget(self):
            self._loop.epoll.unregister(self.fd)  # which else knows it for as long as anybody has it open: epoll(7)
        self.close()
        return True
