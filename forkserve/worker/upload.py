"""A body that the app reads while it arrives: the way from the socket to `wsgi.input`. Runs in a worker.

Waiting for the client is not on the app's time, and bounded by `body_timeout`. A client that leaves, falls silent,
breaks the framing or sends too much makes the app's read fail: a body that is cut short must not look whole. The
client gets the same answer as where bodies are gathered, whatever the app makes of it.
"""

import errno
from select import POLLIN
from typing import TYPE_CHECKING

from forkserve.protocol.http import CONTINUE, Decoder
from forkserve.protocol.types import KEEP_ALIVE, Body, Refused, Request
from forkserve.wsgi.out import BodyBroken, PeerGone
from forkserve.wsgi.streaming import StreamedBody, stream

if TYPE_CHECKING:
    from forkserve.worker.connection import Connection
    from forkserve.worker.loop import Loop

_BUFFER_BYTES = 48 * 1024  # what follows the body waits in memory
_SLOW = "the client was too slow with its body"


class Upload:
    """One such body. Until all of it has arrived the response is the connection's last."""

    def __init__(
        self, connection: "Connection", loop: "Loop", decoder: Decoder, request: Request, body: Body | None
    ) -> None:
        assert isinstance(body, StreamedBody)
        environ, line, flags = request
        self._connection = connection
        self._loop = loop
        self._wants_keep_alive = flags & KEEP_ALIVE != 0
        self._decoder = decoder
        self._body = body
        self._environ = environ
        self._buffer = bytearray(_BUFFER_BYTES)
        self._failed: tuple[int, str] | None = None
        environ["wsgi.input"] = stream(body, self._bring_more)
        self.request: Request = (environ, line, flags & ~KEEP_ALIVE)

    def _bring_more(self) -> None:
        """Wait for the next bytes; raises BodyBroken when none will come."""
        if self._failed is not None:
            raise BodyBroken(*self._failed)
        connection = self._connection
        if not connection.reads_for(self):
            raise OSError(errno.ECONNRESET, "the request has ended; what follows on its connection is none of its body")
        if self._decoder.wants_continue:
            self._decoder.wants_continue = False
            if not connection.head_sent:  # else it would stand amid the response: RFC 9110 section 15.2
                try:
                    connection.send(CONTINUE)
                except PeerGone:
                    raise self._broken(errno.ECONNRESET, "the client has left") from None
        got = self._wait_and_read()
        ready = self._decoder.ready
        try:
            self._decoder.feed(memoryview(self._buffer)[:got])
        except Refused as refused:
            if not self._is_served(ready):
                raise self._broken(errno.EPROTO, refused.reason, refused.status) from None
            return  # what follows it is bad: its response is the last
        if self._is_served(ready):
            connection.body_is_whole(self._wants_keep_alive)

    def _is_served(self, ready: list[Request]) -> bool:
        """Whether our request is whole; then it is taken from those that are ready, since it is being served."""
        is_whole = self._body.is_whole and bool(ready) and ready[0][0] is self._environ
        if is_whole:
            ready.pop(0)
        return is_whole

    def _broken(self, number: int, reason: str, status: str = "") -> BodyBroken:
        """Note that no more will come, and answer with ``status``, if the client is there; return what to raise."""
        self._failed = (number, reason)
        self._connection.break_off(status, reason)
        return BodyBroken(number, reason)

    def _wait_and_read(self) -> int:
        connection = self._connection
        while True:
            if connection.fd < 0:
                raise self._broken(errno.ECONNRESET, "the client has left")
            try:
                got = connection.receive(self._buffer)
            except BlockingIOError:
                if not connection.wait_for(POLLIN, self._loop.body_timeout_s):
                    raise self._broken(errno.ETIMEDOUT, _SLOW, "408 Request Timeout") from None
                continue
            except OSError as error:
                raise self._broken(errno.ECONNRESET, f"the client has left: {error.strerror}") from None
            if not got:
                raise self._broken(errno.ECONNRESET, "the client left in the middle of its body")
            return got
