"""What one read brings beyond the end of a request: it waits as bytes until that request is answered.

The half of protocol/http.py that bounds what one connection may have: one request at a time is read, however many came
at once, and what is no body is counted. llhttp cannot be stopped, so it is given no more than one request: up to an
empty line, and for a body of known length up to its end.
"""

from forkserve.protocol._http_known import Recall
from forkserve.protocol._http_raw import RawHead
from forkserve.protocol.types import TOO_LARGE, Body, Limits, Refused

END = b"\r\n\r\n"  # of a head, and of a chunked body; llhttp takes no other
# Of a chunked body one piece has at least so many bytes, or one full of empty lines would cost a call for each.
_CHUNKED_BYTES = 1024


class Rest(Recall):
    """The part of a connection's decoder that reads no further than it has to."""

    waiting = b""  # what follows the request in `ready`, unread
    body_began = False
    _body: Body | None = None
    _body_length = 0  # as announced; -1: only its end will tell
    _head_bytes = 0  # of the request that is read: what came by every later call of feed()
    _silent_bytes = 0  # of a chunked body: what came since its last data
    _target = b""
    _raw: RawHead
    _limits: Limits
    _small_bytes: int

    def _parse(self, data: bytes | memoryview) -> None:
        """Have llhttp read ``data``."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Read what waits, up to the end of the next request. Raises Refused."""
        while self.waiting and not self.ready and not self._ended:
            data = self.waiting
            if not self.idle:
                self.waiting = b""
            else:
                data = data.lstrip(b"\r\n")  # llhttp lets empty lines be before a request: RFC 9112 section 2.2
                end = data.find(END) + 4
                if end < 4:
                    end = len(data)
                data, self.waiting = data[:end], data[end:]
                if self._known is not None and len(data) <= self._small_bytes and self._recall(data):
                    break
            self._parse(data)
        if self._ended:
            self.waiting = b""

    def _first_of(self, data: bytes | memoryview) -> bytes | memoryview:
        """Return as much of ``data`` as belongs to the request that is read, or little more; the rest waits."""
        if not self.body_began:
            end = bytes(data).find(END, 0, -len(END)) + len(END)
            is_inside = end >= len(END)
        elif self._body is None:
            return data
        elif self._body_length >= 0:
            end = self._body_length - self._body.length
            is_inside = end < len(data)
        else:
            end = bytes(data).find(END, _CHUNKED_BYTES, -len(END)) + len(END)
            is_inside = end >= len(END)
        if not is_inside:
            return data
        self.waiting = bytes(data[end:])
        return data[:end]

    def _measure_progress(self, fed: int) -> None:
        """Bound what one request may send that is no body: its head, chunk extensions, trailer fields.

        What comes now counts from the next call on: it may be body, and is read before it is known.
        """
        most = self._limits.head_bytes
        if self._head_bytes > most or self._silent_bytes > most:
            raise Refused(TOO_LARGE, f"the head or the trailer has more than {most} bytes")
        if self.body_began:
            self._silent_bytes += fed
        elif len(self._target) > self._limits.line_bytes:
            raise Refused("414 URI Too Long", f"the request line has more than {self._limits.line_bytes} bytes")
        else:
            self._head_bytes += fed
