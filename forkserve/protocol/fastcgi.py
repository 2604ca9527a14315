"""FastCGI 1.0, the responder's side: records to requests, a response to records.

Knows no socket and no app. One request at a time is read from a connection (FCGI_MPXS_CONNS is 0, so that no web server
interleaves them); with FCGI_KEEP_CONN several follow each other. What the protocol itself answers lies in ``replies``.
Source: FastCGI Specification 1.0, whose sections the comments name.
"""

from collections.abc import Iterable, Iterator
from io import BytesIO
from struct import Struct

from forkserve.protocol.cgi import CgiEncoder, Variables
from forkserve.protocol.gateway import Encoder, flags_of, speaks_http
from forkserve.protocol.scgi import OTHER_VARIABLES_BYTES
from forkserve.protocol.types import (
    BAD_REQUEST,
    KEEP_ALIVE,
    TOO_LARGE,
    Body,
    BodyMaker,
    Environ,
    Limits,
    Refused,
    Request,
)

# Section 8: record types, roles, flags, protocol status.
BEGIN_REQUEST, ABORT_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR, DATA = range(1, 9)
GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = 9, 10, 11
RESPONDER = 1
KEEP_CONN = 1
REQUEST_COMPLETE, CANT_MPX_CONN, OVERLOADED, UNKNOWN_ROLE = range(4)

HEADER_BYTES = 8
_CONTENT_BYTES = 65528  # the most that a record holds, and a multiple of 8: only the last one of a body is padded
_MOST_REPLIES = 32  # between two requests; a peer that asks more is no web server
_QUESTION_BYTES = 1024  # of GET_VALUES: the three names that there are have 45
_VERSION = 1
_HEADER = Struct(">BBHHBB")
_PADDINGS = [b"\0" * size for size in range(8)]


def record(kind: int, request_id: int, content: bytes) -> bytes:
    """Spell a record, padded to a multiple of 8 bytes (section 3.3)."""
    size = len(content)
    padding = -size % 8
    return _HEADER.pack(_VERSION, kind, request_id, size, padding, 0) + content + _PADDINGS[padding]


def pair(name: bytes, value: bytes) -> bytes:
    """Spell a name-value pair (section 3.4)."""
    lengths = (bytes((n,)) if n < 128 else (n | 1 << 31).to_bytes(4) for n in (len(name), len(value)))
    return b"".join((*lengths, name, value))


def pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Read name-value pairs. Raises Refused when the last one is not whole."""
    at, end = 0, len(block)
    while at < end:
        if at + 1 < end and block[at] | block[at + 1] < 128:  # nearly all are so short
            value_at = at + 2 + block[at]
            next_at = value_at + block[at + 1]
            if next_at <= end:
                yield block[at + 2 : value_at], block[value_at:next_at]
                at = next_at
                continue
        sizes = []
        for _ in range(2):
            size = block[at] if at < end else 0
            if size >= 128:
                size = int.from_bytes(block[at : at + 4]) & 0x7FFFFFFF
                at += 4
            else:
                at += 1
            sizes.append(size)
        value_at = at + sizes[0]
        next_at = value_at + sizes[1]
        if next_at > end:
            raise Refused(BAD_REQUEST, "a variable reaches beyond the end of the variables")
        yield block[at:value_at], block[value_at:next_at]
        at = next_at


def _end_of_request(request_id: int, protocol_status: int) -> bytes:
    return record(END_REQUEST, request_id, bytes((0, 0, 0, 0, protocol_status, 0, 0, 0)))


class FastcgiEncoder:
    """A CGI response in STDOUT records. wsgi.errors goes to our own log, so no STDERR is ever sent."""

    ends_body = True
    plain_body = False

    def __init__(self, request_id: int) -> None:
        self._request_id = request_id
        self._cgi = CgiEncoder()

    def head(self, status_line: bytes, lines: Iterable[bytes]) -> bytes:
        return self.wrap(self._cgi.head(status_line, lines))

    def wrap(self, data: bytes) -> bytes:
        """Spell as many records as it needs; none for no data, since an empty one would be the end."""
        if len(data) <= _CONTENT_BYTES:
            return record(STDOUT, self._request_id, data) if data else b""
        starts = range(0, len(data), _CONTENT_BYTES)
        return b"".join(record(STDOUT, self._request_id, data[at : at + _CONTENT_BYTES]) for at in starts)

    def end(self) -> bytes:
        """Spell the end of the stream and of the request (section 5.5)."""
        return _END_OF_1 if self._request_id == 1 else self._end()

    def _end(self) -> bytes:
        return record(STDOUT, self._request_id, b"") + _end_of_request(self._request_id, REQUEST_COMPLETE)


_END_OF_1 = FastcgiEncoder(1)._end()  # the id that nginx, Apache and HAProxy give to nearly all


class Decoder:
    """One connection's requests, in the order in which they were complete."""

    def __init__(
        self, template: Environ, limits: Limits, make_body: BodyMaker, mount: str = "", connections: int = 1024
    ) -> None:
        self.ready: list[Request] = []
        self.waiting = b""
        self.replies: list[bytes] = []
        self.must_close = False
        self.wants_continue = False
        self.body_began = False
        self._template = template
        self._limits = limits
        self._make_body = make_body
        self._mount = mount
        self._most_params = limits.head_bytes + OTHER_VARIABLES_BYTES
        self._values = {
            b"FCGI_MAX_CONNS": b"%d" % connections,
            b"FCGI_MAX_REQS": b"%d" % connections,  # one per connection
            b"FCGI_MPXS_CONNS": b"0",
        }
        self._answers: list[int] = []  # the ids of the requests that are to be answered, in order
        self._count_replies = 0  # since the last request began
        self._ended = False
        # The record that is read.
        self._head = bytearray()
        self._kind = 0
        self._id = 0
        self._content_left = 0
        self._padding_left = 0
        self._content = bytearray()  # of a record that must be whole before it means something
        # The request that is read; its id is 0 between requests.
        self._reading = 0
        self._keeps = False
        self._has_params = False
        self._params = bytearray()
        self._environ: Environ = {}
        self._line = b""
        self._length = -1
        self._body: Body | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing of a next request has arrived."""
        return not self._reading and not self._head and not self._ended

    def take_encoder(self) -> Encoder | None:
        """Return the encoder of the next answer, of the half-read request last; None: there is none to be answered."""
        if self._answers:
            return FastcgiEncoder(self._answers.pop(0))
        request_id, self._reading = self._reading, 0  # it is not read any further
        return FastcgiEncoder(request_id) if request_id else None

    def feed(self, data: bytes | memoryview) -> None:
        """Read ``data``, up to the end of the first request: it appears in ``ready``, and what follows it waits.

        Raises Refused for what cannot be served.
        """
        view = memoryview(data)
        try:
            while view and not self._ended and not self.ready:
                view = self._read_whole(view) if not self._head else self._read(view)
        except Refused:
            self._ended = True
            raise
        self.waiting = b"" if self._ended else bytes(view)

    def go_on(self) -> None:
        """Read what waits, up to the end of the next request. Raises Refused."""
        data, self.waiting = self.waiting, b""
        self.feed(data)

    def unread(self) -> bytes | None:
        """Return what came of requests that have not begun to be served; None if that is not known."""
        return self.waiting if self.idle else None

    def has_room(self) -> bool:
        """Whether more of the body can be taken now."""
        return self._body is None or self._body.has_room()

    def told(self) -> Environ:
        """What is known of the request that is read, as an environ."""
        return self._environ or self._template

    def close(self) -> None:
        """Forget a half-read body."""
        if self._body is not None:
            self._body.close()
            self._body = None

    # records

    def _read_whole(self, view: memoryview) -> memoryview:
        """Read the next record, where all of it has come; the usual case, by a shorter way."""
        if len(view) < HEADER_BYTES:
            return self._read(view)
        version, kind, request_id, size, padding, _ = _HEADER.unpack_from(view)
        end = HEADER_BYTES + size + padding
        if version != _VERSION or end > len(view):
            return self._read(view)
        self._kind, self._id = kind, request_id
        self._content_left = 0
        if size:
            self._content.clear()
            if request_id and request_id == self._reading:
                self._check_order()
            self._take(view[HEADER_BYTES : HEADER_BYTES + size])
        else:
            self._end_record(b"")
        return view[end:]

    def _read(self, view: memoryview) -> memoryview:
        """Read the next part of a record; return what follows it."""
        if len(self._head) < HEADER_BYTES:
            missing = HEADER_BYTES - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < HEADER_BYTES:
                return view
            self._begin_record()
        elif self._content_left:
            content = view[: self._content_left]
            view = view[len(content) :]
            self._content_left -= len(content)
            self._take(content)
        else:
            skipped = min(len(view), self._padding_left)
            self._padding_left -= skipped
            view = view[skipped:]
        if not self._content_left and not self._padding_left:
            self._head.clear()
        return view

    def _begin_record(self) -> None:
        head = self._head
        if head[0] != _VERSION:
            if speaks_http(head):
                raise Refused(BAD_REQUEST, "HTTP was spoken to a FastCGI address")
            raise Refused(BAD_REQUEST, f"FastCGI version {head[0]}")
        self._kind = head[1]
        self._id = int.from_bytes(head[2:4])
        self._content_left = int.from_bytes(head[4:6])
        self._padding_left = head[6]
        self._content.clear()
        if not self._content_left:
            self._end_record(b"")
        elif self._id and self._id == self._reading:
            self._check_order()

    def _check_order(self) -> None:
        """Refuse streams in the wrong order before their content is taken (section 6.2)."""
        if self._kind == STDIN and not self._has_params:
            raise Refused(BAD_REQUEST, "STDIN before the end of PARAMS")
        if self._kind == PARAMS and self._has_params:
            raise Refused(BAD_REQUEST, "PARAMS after their end")

    def _take(self, content: memoryview) -> None:
        """Take content of a record: streams as it comes, other records when they are whole."""
        if self._id and self._id == self._reading and self._kind == STDIN:
            self._take_body(bytes(content))
        elif self._id and self._id == self._reading and self._kind == PARAMS:
            if len(self._params) + len(content) > self._most_params:
                raise Refused(TOO_LARGE, f"the variables have more than {self._most_params} bytes")
            self._params += content
        else:
            if self._kind in (BEGIN_REQUEST, GET_VALUES):
                if len(self._content) + len(content) > _QUESTION_BYTES:
                    raise Refused(BAD_REQUEST, f"a record of type {self._kind} of more than {_QUESTION_BYTES} bytes")
                self._content += content
            if not self._content_left:
                self._end_record(bytes(self._content))

    def _end_record(self, content: bytes) -> None:
        """Act on a whole record, or on the empty one that ends a stream."""
        kind, request_id = self._kind, self._id
        if not request_id:
            self._manage(kind, content)
        elif kind == BEGIN_REQUEST:
            self._begin_request(request_id, content)
        elif request_id != self._reading:
            return  # section 3.3: records for an inactive id are ignored
        elif kind == PARAMS:
            self._check_order()
            self._end_params()
        elif kind == STDIN:
            self._check_order()
            self._end_body()
        elif kind == ABORT_REQUEST:
            self._drop_request(REQUEST_COMPLETE)
        elif kind != DATA:
            raise Refused(BAD_REQUEST, f"a record of type {kind} from a web server")

    # what the protocol answers by itself

    def _manage(self, kind: int, content: bytes) -> None:
        """Answer a management record (sections 4.1 and 4.2)."""
        if kind != GET_VALUES:
            self._reply(record(UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0))))
            return
        wanted = {name for name, _ in pairs(content)}
        known = (pair(name, value) for name, value in self._values.items() if name in wanted)
        self._reply(record(GET_VALUES_RESULT, 0, b"".join(known)))

    def _reply(self, reply: bytes) -> None:
        self._count_replies += 1
        if self._count_replies > _MOST_REPLIES:
            raise Refused(BAD_REQUEST, f"more than {_MOST_REPLIES} questions that are no request")
        self.replies.append(reply)

    def _drop_request(self, protocol_status: int) -> None:
        """End the request that is read without an answer."""
        self.close()
        self._reply(_end_of_request(self._reading, protocol_status))
        self._end_request()
        self.must_close = self._ended

    def _end_request(self) -> None:
        self._reading = 0
        self.body_began = False
        self._ended = not self._keeps

    # requests

    def _begin_request(self, request_id: int, content: bytes) -> None:
        if len(content) != 8:
            raise Refused(BAD_REQUEST, f"BEGIN_REQUEST of {len(content)} bytes")
        if request_id == self._reading:
            raise Refused(BAD_REQUEST, "a request began twice")
        if self._reading:
            self._reply(_end_of_request(request_id, CANT_MPX_CONN))
            return
        self._reading = request_id
        self._keeps = bool(content[2] & KEEP_CONN)
        if int.from_bytes(content[:2]) != RESPONDER:
            self._drop_request(UNKNOWN_ROLE)
            return
        self._has_params = False
        self._params = bytearray()

    def _end_params(self) -> None:
        block = bytes(self._params)
        self._params = bytearray()
        # The last of several wins, as with PHP: nginx's `include fastcgi_params; fastcgi_param SCRIPT_NAME "";`.
        variables = Variables(last_wins=True)
        variables.take(pairs(block))
        self._length = variables.body_length()
        if variables.take_coding():
            # HAProxy announces as much as it had when it began to pass a chunked body on. The end of STDIN decides.
            self._length = -1
        variables.measure(self._limits, len(block))
        self._environ, self._line = variables.request(self._template, self._mount)
        self._has_params = True
        self.body_began = True
        if self._length > 0:
            self._body = self._make_body(self._length)

    def _take_body(self, data: bytes) -> None:
        if self._body is None:
            if self._length == 0:
                raise Refused(BAD_REQUEST, "STDIN though CONTENT_LENGTH is 0")
            self._body = self._make_body(-1)
        if 0 <= self._length < self._body.length + len(data):
            raise Refused(BAD_REQUEST, f"STDIN has more than CONTENT_LENGTH, {self._length} bytes")
        self._body.write(data)

    def _end_body(self) -> None:
        body, environ = self._body, self._environ
        length = 0 if body is None else body.length
        if length < self._length:  # section 6.2: a body that was cut off must not look whole
            raise Refused(BAD_REQUEST, f"STDIN ended after {length} of {self._length} bytes")
        if length or "CONTENT_LENGTH" in environ:
            environ["CONTENT_LENGTH"] = str(length)
        environ["wsgi.input"] = BytesIO() if body is None else body.file()
        self._body = None
        self.ready.append((environ, self._line, flags_of(environ) | (KEEP_ALIVE if self._keeps else 0)))
        self._answers.append(self._reading)
        self._count_replies = 0
        self._environ = {}
        self._end_request()
