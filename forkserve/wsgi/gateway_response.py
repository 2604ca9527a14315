"""A response towards a gateway: as wsgi/response.py makes it, spelled by an encoder of protocol/gateway.py.

Framing is the gateway protocol's: only Content-Length is among the fields, where the length is known. Where it is not,
and the protocol has no end of its own, the end of the connection is the end of the body. Every whole response ends with
what the encoder says; one that broke off does not, so that the gateway sees it. Runs in a worker.
"""

from typing import Protocol

from forkserve.log import log
from forkserve.protocol.gateway import Encoder
from forkserve.protocol.types import HEAD_ONLY
from forkserve.wsgi.clock import clock
from forkserve.wsgi.files import FileWrapper
from forkserve.wsgi.headers import NO_BODY
from forkserve.wsgi.out import Out
from forkserve.wsgi.response import Response, plain_answer


class GatewayOut(Out, Protocol):
    """Where such a response's bytes go."""

    def take_encoder(self) -> Encoder:
        """Return the encoder of the request that is served."""


class GatewayResponse(Response):
    """One response in the making. Its request is never one of HTTP/1.1 by its flags, so put() takes no short cut."""

    _is_ended: bool = False  # what the app still yields is too much
    _known: int = -1  # length of a file that is sent whole, where the app announced none

    out: GatewayOut
    _taken: Encoder | None = None

    @property
    def _encoder(self) -> Encoder:
        """The encoder of this answer, taken when it begins; there is no answer without a head."""
        if self._taken is None:
            self._taken = self.out.take_encoder()
        return self._taken

    def _piece(self, data: bytes) -> bytes:
        """Wrap a part of the body; the last one brings the end, since respond() does not call end() then."""
        piece = self._encoder.wrap(data)
        if self.body_bytes == self.length and not self._is_ended:
            self._is_ended = True
            piece += self._encoder.end()
        return piece

    def put_file(self, file: FileWrapper) -> bool:
        """Send a file as the body, by the kernel; False: it must be read, as any other body."""
        if self._encoder.plain_body:
            return Response.put_file(self, file)
        region = None if self.head_sent else file.region()
        if region is not None and self.length < 0:
            self._known = region[2]
            file.limit(region[2])
        if self.length >= 0:
            file.limit(self.length - self.body_bytes)  # more of the file than was announced is no fault
        return False

    def _head(self, whole: int) -> bytes:
        """Decide the framing and spell the head."""
        if not self._status_line:
            raise AssertionError("the app sent its body before it called start_response")
        self.head_sent = True
        framing = b""
        self._mute = self.request[2] & HEAD_ONLY != 0
        if self.code in NO_BODY:
            framing = self._bodiless()
        elif self.length < 0:
            if whole < 0:
                whole = self._known
            # The empty body of a HEAD says nothing of the length that GET would have.
            if whole > 0 or (whole == 0 and not self._mute):
                framing = b"Content-Length: %d\r\n" % whole
                self.length = whole
            elif not self._mute:
                if not self._encoder.ends_body:
                    self.keep_alive = False  # the end of the connection is the end of the body
                if not self.keep_alive:  # web servers take it for that even where the protocol has an end of its own
                    self.out.guard_end()
        stamp = self._stamp() if self._own_date or self._own_server else clock.both
        head = self._encoder.head(self._status_line, (*self._lines, stamp, framing))
        return head + self._encoder.end() if self._mute else head

    def end(self) -> None:
        """The app has said all: send what is owed."""
        if not self.head_sent:
            head = self._head(0)
            self.out.send(head + self._encoder.end() if self.length == 0 and not self._mute else head)
        if self._mute or self.length == 0:
            return  # its end left with its head
        if self.body_bytes < self.length:
            self.keep_alive = False
            log.warning("app sent less than its Content-Length; connection closed", **self._about())
        elif self.length < 0:
            ending = self._encoder.end()
            if ending:
                self.out.send(ending)

    def own_page(self, status: str) -> bytes:
        """Spell a whole response of the server's own in the app's place, such as for a time-out."""
        return refusal(self._encoder, status, head_only=self.request[2] & HEAD_ONLY != 0)


def refusal(encoder: Encoder, status: str, *, head_only: bool = False) -> bytes:
    """Spell a whole response of the server's own, such as for "400 Bad Request"."""
    head, _, text = plain_answer(status).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    kept = [line + b"\r\n" for line in lines if not line.startswith(b"Connection:")]
    return encoder.head(first + b"\r\n", kept) + encoder.wrap(b"" if head_only else text) + encoder.end()
