"""uwsgi, the protocol of uWSGI: one request per connection, a block of variables behind a head of four bytes.

Knows no socket and no app. Of the protocol's many packets only requests are served: others make uWSGI run code,
reload or call procedures, and are refused. Source: "The uwsgi Protocol" of uWSGI's documentation, and what nginx sends.
"""

from collections.abc import Iterable

from forkserve.protocol.gateway import OneRequest, speaks_http
from forkserve.protocol.types import BAD_REQUEST, Refused

HEAD_BYTES = 4  # modifier1: u8, size of the variables: u16 little-endian, modifier2: u8
WSGI = 0
WSGI_CUT_SCRIPT = 30  # the same, and SCRIPT_NAME is still at the beginning of PATH_INFO


class UwsgiEncoder:
    """A response as a gateway reads it from uWSGI: HTTP/1.1, ended by the end of the connection."""

    ends_body = False
    plain_body = True

    def head(self, status_line: bytes, lines: Iterable[bytes]) -> bytes:
        return b"".join((status_line, *lines, b"\r\n"))

    def wrap(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class Decoder(OneRequest):
    """One connection's request."""

    encoder = UwsgiEncoder()
    _modifier = WSGI

    def cuts_script(self) -> bool:
        return self._modifier == WSGI_CUT_SCRIPT

    def read_head(self, head: bytearray) -> int:
        """Read the packet once all of it is there; its head says how long it is."""
        if len(head) < HEAD_BYTES:
            return 0
        self._modifier = head[0]
        if self._modifier not in (WSGI, WSGI_CUT_SCRIPT):
            if speaks_http(head):
                raise Refused(BAD_REQUEST, "HTTP was spoken to a uwsgi address")
            raise Refused(BAD_REQUEST, f"modifier1 is {self._modifier}: only 0 and 30, requests for WSGI, are served")
        end = HEAD_BYTES + (head[1] | head[2] << 8)
        if len(head) < end:
            return 0
        self._read_variables(bytes(memoryview(head)[:end]), end)
        return end

    def _read_variables(self, head: bytes, end: int) -> None:
        pairs = []
        at = HEAD_BYTES
        try:
            while at < end:
                value_at = at + 2 + (head[at] | head[at + 1] << 8)
                next_at = value_at + 2 + (head[value_at] | head[value_at + 1] << 8)
                if next_at > end:
                    raise IndexError
                pairs.append((head[at + 2 : value_at], head[value_at + 2 : next_at]))
                at = next_at
        except IndexError:
            raise Refused(BAD_REQUEST, "a variable reaches beyond the packet") from None
        self.variables.take(pairs)
