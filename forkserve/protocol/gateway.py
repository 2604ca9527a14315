"""The seam between the protocols of gateways and a connection: the faces of their decoders and encoders.

Knows no socket and no app. A connection that speaks HTTP has no encoder; one behind a gateway takes an encoder for each
answer from its decoder. Here is also what uwsgi and SCGI share: one request per connection.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import Protocol

from forkserve.protocol.cgi import Variables
from forkserve.protocol.types import HEAD_ONLY, Body, BodyMaker, Environ, Limits, Refused, Request


class Encoder(Protocol):
    """One response towards a gateway, spelled as its protocol wants it; plain HTTP has none.

    Framing is the protocol's own: neither chunks nor a Connection field may be among the lines of a head.
    """

    ends_body: bool  # the protocol tells where a body of unknown length ends; else the end of the connection does
    plain_body: bool  # wrap() gives its argument and end() nothing: a file may be sent as it is

    def head(self, status_line: bytes, lines: Iterable[bytes]) -> bytes:
        """Spell a head from an HTTP/1.1 status line and the field lines, each ending in CRLF."""

    def wrap(self, data: bytes) -> bytes:
        """Spell a part of the body."""

    def end(self) -> bytes:
        """Spell the end of a whole response; not sent after one that broke off."""


class Decoder(Protocol):
    """One connection's requests: feed it what arrives, take complete requests from ``ready``."""

    ready: list[Request]
    replies: list[bytes]  # what the protocol answers by itself; to be sent before the answers to what is in ``ready``
    must_close: bool  # nothing more will come: close when the replies, and the answers to ``ready``, are sent
    wants_continue: bool  # never
    body_began: bool  # between a request's head and its end
    waiting: bytes  # what follows the request in ``ready``, unread: nothing is fed before ``go_on`` has read it

    @property
    def idle(self) -> bool:
        """Whether nothing of a next request has arrived."""

    def feed(self, data: bytes | memoryview, /) -> None:
        """Read ``data``; a complete request appears in ``ready``. Raises Refused for what cannot be served."""

    def go_on(self) -> None:
        """Read what waits, up to the end of the next request. Raises Refused."""

    def unread(self) -> bytes | None:
        """Return what came of requests that have not begun to be served; None if that is not known."""

    def take_encoder(self) -> Encoder | None:
        """Return the encoder of the next answer, in the order of ``ready``, a refusal last; call it once for each.

        None: there is no request that could be answered, and nothing to do but close.
        """

    def has_room(self) -> bool:
        """Whether more of a body can be taken now."""

    def told(self) -> Environ:
        """What is known of the request that is read, as an environ."""

    def close(self) -> None:
        """Forget a half-read body."""


class OneRequest:
    """The decoder of a protocol that has one request per connection: a head, then CONTENT_LENGTH bytes of body.

    A subclass reads the head.
    """

    encoder: Encoder
    waiting = b""  # nothing follows the request

    def __init__(self, template: Environ, limits: Limits, make_body: BodyMaker, mount: str = "") -> None:
        self.ready: list[Request] = []
        self.replies: list[bytes] = []
        self.must_close = False
        self.wants_continue = False
        self.body_began = False
        self.limits = limits
        self.variables = Variables()
        self._template = template
        self._make_body = make_body
        self._mount = mount
        self._head = bytearray()
        self._ended = False  # what follows the request is not read
        self._body: Body | None = None
        self._left = 0  # bytes of the body that are to come
        self._request: tuple[Environ, bytes] = (template, b"")

    @property
    def idle(self) -> bool:
        """Whether nothing has arrived."""
        return not self._head and not self.body_began and not self._ended

    def take_encoder(self) -> Encoder | None:
        """Return the encoder of the next answer."""
        return self.encoder

    def go_on(self) -> None:
        """Do nothing: nothing waits."""

    def unread(self) -> bytes | None:
        """Return that nothing has come, or None."""
        return b"" if self.idle else None

    def feed(self, data: bytes | memoryview) -> None:
        """Read ``data``; the complete request appears in ``ready``. Raises Refused for what cannot be served."""
        if self._ended or not data:
            return
        if self.body_began:
            self._take(bytes(data))
            return
        self._head += data
        try:
            size = self.read_head(self._head)
            if size:
                self._begin(size)
        except Refused:
            self._ended = True
            raise

    def read_head(self, head: bytearray) -> int:
        """Fill ``variables`` from what has come so far; return the bytes of the head, 0 while it is not complete."""
        raise NotImplementedError

    def has_room(self) -> bool:
        """Whether more of the body can be taken now."""
        return self._body is None or self._body.has_room()

    def told(self) -> Environ:
        """What is known of the request, as an environ."""
        return self._request[0]

    def close(self) -> None:
        """Forget a half-read body."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def cuts_script(self) -> bool:
        """Whether SCRIPT_NAME has to be cut from the beginning of PATH_INFO."""
        return False

    def _begin(self, size: int) -> None:
        variables = self.variables
        length = variables.whole_length()
        variables.measure(self.limits, size)
        self._request = variables.request(self._template, self._mount, cut_script=self.cuts_script())
        rest = bytes(memoryview(self._head)[size:])
        self._head = bytearray()
        self.body_began = True
        if length:
            self._left = length
            self._body = self._make_body(length)
            if rest:
                self._take(rest)
        else:
            self._finish(BytesIO())

    def _take(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if len(data) > self._left:
            data = data[: self._left]
        self._left -= len(data)
        body.write(data)
        if not self._left:
            self._body = None
            self._finish(body.file())

    def _finish(self, file: object) -> None:
        environ, line = self._request
        environ["wsgi.input"] = file
        self.body_began = False
        self._ended = True
        self.ready.append((environ, line, flags_of(environ)))


def flags_of(environ: Environ) -> int:
    """The flags of a gateway's request: the connection ends with it, and chunks are unknown."""
    return HEAD_ONLY if environ["REQUEST_METHOD"] == "HEAD" else 0


def speaks_http(head: bytes | bytearray) -> bool:
    """Whether the first bytes of a connection look like an HTTP request line: capital letters."""
    begin = head[:3]
    return len(begin) == 3 and begin.isalpha() and begin.isupper()
