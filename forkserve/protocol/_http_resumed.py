"""A second ear for llhttp: what a parser calls that starts in the middle of a request. Knows no parser."""

from typing import TYPE_CHECKING

from forkserve.protocol.types import KEEP_ALIVE

if TYPE_CHECKING:
    from forkserve.protocol.http import Decoder


def resumed_head(length: int, flags: int) -> bytes:
    """Spell the head that such a parser is told first: how the body is framed, and whether the connection stays."""
    framing = b"Transfer-Encoding: chunked" if length < 0 else b"Content-Length: %d" % length
    return b"POST / HTTP/1.1\r\n%b\r\n%b\r\n" % (framing, b"" if flags & KEEP_ALIVE else b"Connection: close\r\n")


class Resumed:
    """The callbacks of such a parser: deaf to the head it is told, then the decoder's own."""

    def __init__(self, decoder: "Decoder") -> None:
        self._decoder = decoder
        self._deaf = True
        self.on_body = decoder.on_body
        self.on_message_begin = decoder.on_message_begin
        self.on_message_complete = decoder.on_message_complete

    def on_url(self, part: bytes) -> None:
        """Pass on the target, but for the one that was told."""
        if not self._deaf:
            self._decoder.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass on a field, but for those that were told."""
        if not self._deaf:
            self._decoder.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hear from now on."""
        if self._deaf:
            self._deaf = False
        else:
            self._decoder.on_headers_complete()
