"""HTTP/1.1, both directions: bytes to environ, response to bytes. The door of httptools (llhttp).

Knows no socket and no app. llhttp's callbacks write straight into a copy of the connection's environ template: one
pass, no second representation of the fields. What llhttp lets through and RFC 9110 and 9112 forbid is refused here.
"""

from io import BytesIO

import httptools

from forkserve.protocol import _http_head as head
from forkserve.protocol._http_head import FRAMED, HOSTS, NAMES
from forkserve.protocol._http_known import KnownHeads
from forkserve.protocol._http_raw import RawHead
from forkserve.protocol._http_rest import END, Rest
from forkserve.protocol._http_resumed import Resumed, resumed_head
from forkserve.protocol.types import (
    BAD_REQUEST,
    FORWARDED,
    HEAD_ONLY,
    HTTP11,
    KEEP_ALIVE,
    TOO_LARGE,
    UNBELIEVED,
    Body,
    BodyMaker,
    Environ,
    Limits,
    Refused,
    Request,
)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_METHODS: dict[bytes, str] = {}
_H, _SPACE = b"H "
_STAYS = KEEP_ALIVE | HTTP11  # computed once: 15 ns

# Fields of which a second one makes the request ambiguous (RFC 9112 section 3.2, RFC 9110 section 8.6).
_SINGLE = {"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"}
_FLAGS = HEAD_ONLY | FORWARDED | UNBELIEVED  # that are marks while a request is read
_UNEVEN = 1 << 17  # a mark beside FRAMED and the flags of a request: something is to be reset after it


class Decoder(Rest):
    """One connection's requests: feed it what arrives, take complete requests from ``ready``. It owns its template.

    What was fed beyond the end of a request is ``waiting``: have it read by ``go_on`` when that request is answered,
    and feed nothing before. ``body_began`` is true between a request's head and its end; ``wants_continue`` asks for an
    interim 100.
    What a proxy says of its client (Forwarded, X-Forwarded-*, X-Real-IP) is flagged: whether the peer is ``believed``.
    Names with an underscore are dropped, or refused with ``header_map`` "refuse".
    """

    # What begins alike is of the class: a connection costs 0.5 us less.
    wants_continue = False
    _marks = 0  # of the request that is read; 0 for a plain one
    _data: bytes | memoryview = b""  # what the current call of feed() brought, with what is kept before it
    _line = b""
    _flags = 0
    _resume_with = b""  # the head to tell another parser, of a body that llhttp will not read
    # Until they are needed:
    _parser: httptools.HttpRequestParser | None = None
    _most_keys: int  # of the environ, less those of this request's fields that have no key of their own

    def __init__(
        self,
        template: Environ,
        limits: Limits,
        make_body: BodyMaker,
        believed: bool = True,
        header_map: str = "drop",
    ) -> None:
        self.ready = []
        self._template = template
        self._limits = limits
        self._make_body = make_body
        self._small_bytes = limits.small_bytes
        self._believed = believed
        self._refuses_underscores = header_map == "refuse"
        # Holds something between requests, as long as nothing of a next one has come. A list: llhttp's callback is a
        # method of it, without a frame (0.1 us).
        self.idle = [True]
        self._environ: Environ = template  # where fields go; after the head a throw-away, for trailer fields
        self._request: Environ = template  # the environ of the request whose body is read
        self._heads = limits.known or KnownHeads.of(limits)

    def feed(self, data: bytes | memoryview) -> None:
        """Read ``data``, up to the end of the first request: it appears in ``ready``, and what follows it waits.

        Raises Refused for what cannot be served.
        """
        if self.idle:
            if data == self._last_raw and self._again is not None:
                # The same request once more, as of who polls or probes: at a third of what _recall costs.
                environ, line, flags = self._again
                environ = environ.copy()
                environ["wsgi.input"] = BytesIO()
                self.ready.append((environ, line, flags))
                return
            if self._rests:
                self._rests -= 1
            elif len(data) <= self._small_bytes and self._recall(bytes(data)):
                return
        elif self._ended:
            return
        self._parse(data)
        if self.waiting and not self.ready:
            self.go_on()

    def _parse(self, data: bytes | memoryview) -> None:
        # No request that is usual has something behind it: a call less.
        if self.body_began or bytes(data).find(END, 0, -4) >= 0:
            data = self._first_of(data)
        raw = b""  # all of a request, where it is small
        if self.idle:
            self._data = data
            if self._learns and len(data) <= self._small_bytes:
                raw = bytes(data)
        else:
            self._measure_progress(len(data))
            self._data = self._raw.joined(data)
        parser = self._parser or self._begin()
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._failed(error, data)
            return
        else:
            if raw and self._was_plain and len(self.ready) == 1:
                self._learn(raw)
            if not self.idle:
                self._pause(data)
            return
        self._after_upgrade(rest)  # not in the handler: llhttp's next error would have this upgrade for its context
        if not self.idle:
            self._pause(data)

    def unread(self) -> bytes | None:
        """Return what came of requests that have not begun to be served; None if that is not known."""
        if self.idle:
            return self.waiting
        if self.body_began or self._ended or self._raw.kept is None:
            return None
        return bytes(self._raw.kept)

    def has_room(self) -> bool:
        """Whether more of the body can be taken now."""
        return self._body is None or self._body.has_room()

    def told(self) -> Environ:
        """What is known of the request that is read, as an environ."""
        if self.body_began:
            return self._request
        parser = self._parser
        if not self._target or parser is None:
            return self._template
        return head.begun(self._environ, parser.get_method(), self._target, parser.get_http_version())

    def close(self) -> None:
        """Forget a half-read body, and the parser, which knows us: nobody has to find this circle."""
        self._parser = None
        if self._body is not None:
            self._body.close()
            self._body = None

    # llhttp's callbacks, in the order of a request
    def on_url(self, part: bytes) -> None:
        """A piece of the target."""
        if self._target:
            self._target += part
        else:
            self._target = part
            self._environ = self._template.copy()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of the trailer."""
        try:
            key = NAMES[name]
        except KeyError:
            key = head.environ_key(name)
        if key is None:
            self._unusual(name, value)
            return
        text = value.decode("latin-1")
        try:
            if value[-1] <= _SPACE:  # OWS that llhttp leaves
                text = text.rstrip(" \t")
        except IndexError:  # the empty value; asking for it would cost each field more
            pass
        environ = self._environ
        if key in environ:
            self._repeated(key, text)
        else:
            environ[key] = text

    def on_headers_complete(self) -> None:
        """The end of the head."""
        environ = self._environ
        target = self._target
        parser = self._parser
        assert parser is not None  # who else would call
        method = parser.get_method()
        try:
            environ["REQUEST_METHOD"] = _METHODS[method]
        except KeyError:
            environ["REQUEST_METHOD"] = self._met(method)
        line = self._line = method + b" " + target
        # Asking llhttp for the version formats a string; a connection that stays open without a word about it is 1.1.
        if parser.should_keep_alive() and "HTTP_CONNECTION" not in environ:
            self._flags = _STAYS
        else:
            self._flags = head.read_flags(parser.get_http_version(), parser.should_keep_alive(), environ)
        data = self._data
        if len(data) + self._head_bytes > self._small_bytes or len(environ) > self._most_keys:
            self._measure_head()
        try:
            # A glance at the one place where the protocol's name stands if the line is as RFC 9112 wants it.
            if data[len(line) + 1] != _H or data[len(line)] != _SPACE:
                self._raw.check_line(line, data, self.ready)
        except IndexError:
            self._raw.check_line(line, data, self.ready)
        try:
            if environ["HTTP_HOST"] not in HOSTS:
                head.check_host(environ["HTTP_HOST"])
        except KeyError:
            if self._flags & HTTP11:
                raise Refused(BAD_REQUEST, "HTTP/1.1 without Host") from None
        text = target.decode("latin-1")  # searching a str costs 12 ns, searching bytes 100
        if text[0] == "/" and "%" not in text and "#" not in text:  # origin-form, nothing encoded
            environ["RAW_URI"] = environ["REQUEST_URI"] = text
            if "?" in text:
                environ["PATH_INFO"], _, environ["QUERY_STRING"] = text.partition("?")
            else:
                environ["PATH_INFO"] = text
        else:
            head.read_target(environ, text)
        self._request = environ
        self.body_began = True
        if self._marks & FRAMED:
            self._begin_body()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._silent_bytes = 0
        if self._body is not None:
            self._body.write(data)

    def on_message_complete(self) -> None:
        """The end of the request."""
        environ = self._request
        if self._body is None:
            environ["wsgi.input"] = BytesIO()
        elif self._resume_with:
            return  # for llhttp a request that asks for another protocol ends with its head; _after_upgrade goes on
        else:
            self._end_body()
        self.body_began = False
        self._target = b""
        flags = self._flags
        self._was_plain = not self._marks
        if self._marks:
            flags |= self._marks & _FLAGS
            self._forget_marks()
        if flags & KEEP_ALIVE:
            self.idle.append(True)
        else:
            self._ended = True
            self.waiting = b""
        self.ready.append((environ, self._line, flags))

    def begun(self) -> tuple[Request, Body | None]:
        """The request whose body is being read, and the place of that; it will also appear in ``ready`` when whole."""
        return (self._request, self._line, self._flags | self._marks & _FLAGS), self._body

    # what is not on the path of a plain request

    def _begin(self) -> httptools.HttpRequestParser:
        self.on_message_begin = self.idle.clear
        self._most_keys = len(self._template) + self._limits.fields
        self._raw = RawHead()
        self._parser = httptools.HttpRequestParser(self)
        return self._parser

    def _forget_marks(self) -> None:
        self._marks = 0
        self._most_keys = len(self._template) + self._limits.fields
        self._raw.kept = b""
        self._head_bytes = 0

    def _pause(self, data: bytes | memoryview) -> None:
        """What was fed ends within a request: keep what has come of its head."""
        if self.body_began or self._ended:
            self._raw.kept = b""
        else:
            self._marks |= _UNEVEN
            self._raw.keep(data, self.ready)

    def _met(self, method: bytes) -> str:
        """Spell a method; CONNECT and HEAD are never remembered, so that they always come here."""
        text = method.decode("ascii")
        if text == "CONNECT":
            raise Refused("501 Not Implemented", "CONNECT")
        if text == "HEAD":
            self._marks |= HEAD_ONLY
        else:
            _METHODS[method] = text
        return text

    def _count(self) -> None:
        """Count a field that has no key of its own toward `limit_request_fields`."""
        self._marks |= _UNEVEN
        self._most_keys -= 1

    def _unusual(self, name: bytes, value: bytes) -> None:
        """Take or drop a field that frames the body, or that not every app may see."""
        if self.body_began:
            return  # a trailer field
        key, mark = head.UNUSUAL.get(name) or head.unusual_key(name)
        if mark == FORWARDED and not self._believed:
            mark = UNBELIEVED
        if not key:
            if self._refuses_underscores and b"_" in name:
                raise Refused(BAD_REQUEST, f"a field name with an underscore: {name[:64].decode('ascii')}")
            self._count()
            return
        self._marks |= mark
        text = value.decode("latin-1").rstrip(" \t")
        if key in self._environ:
            self._repeated(key, text)
        else:
            self._environ[key] = text

    def _repeated(self, key: str, text: str) -> None:
        """Join a field that came before."""
        if not self.body_began:  # else it is a trailer field, and dropped anyway
            if key in _SINGLE:
                raise Refused(BAD_REQUEST, f"several {head.header_name(key)} fields")
            self._count()
        self._environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + text

    def _measure_head(self) -> None:
        head.measure(self._environ, self._template, self._line, self._limits)
        if len(self._environ) > self._most_keys:
            raise Refused(TOO_LARGE, f"more than {self._limits.fields} fields")

    def _begin_body(self) -> None:
        """Make the place for the body, and for the fields of its trailer: they are dropped."""
        length = head.body_length(self._request, self._flags)
        if length < 0:
            self._environ = {}
        self.wants_continue = length != 0 and self._flags & HTTP11 != 0 and "HTTP_EXPECT" in self._request
        if length:
            self._body = self._make_body(length)
            self._body_length = length
            if self._parser and self._parser.should_upgrade():
                self._resume_with = resumed_head(length, self._flags)

    def _end_body(self) -> None:
        body, environ = self._body, self._request
        assert body is not None
        self._body = None
        self._silent_bytes = 0
        self.wants_continue = False
        environ["wsgi.input"] = body.file()
        if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:
            # The coding ends here, the whole body is known: apps that ask for its length find it.
            environ["CONTENT_LENGTH"] = str(body.length)

    def _after_upgrade(self, rest: memoryview) -> None:
        """Go on after a request that asked for another protocol: it is served as HTTP/1.1 (RFC 9110 section 7.8).

        llhttp takes such a request to end with its head. A body that follows all the same, as of `curl --http2`, is
        read by a fresh parser that is first told how the body is framed.
        """
        while not self._ended:
            told, self._resume_with = self._resume_with, b""
            parser = self._parser = httptools.HttpRequestParser(Resumed(self) if told else self)
            if told:
                parser.feed_data(told)
            try:
                parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:  # the next one asks for it too
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._failed(error, rest)
                return

    def _failed(self, error: httptools.HttpParserError, data: bytes | memoryview) -> None:
        """Raise what llhttp's error means; what follows the last request of a connection means nothing."""
        self._rests = 1 << 62  # nothing more of this connection is to be understood
        if isinstance(error, httptools.HttpParserCallbackError):
            if error.__context__ is None:  # llhttp repeats itself: what it read before was refused
                raise Refused(BAD_REQUEST, "more after a refused request") from None
            raise error.__context__ from None
        if not self._ended:
            is_method = isinstance(error, httptools.HttpParserInvalidMethodError)
            raise self._raw.refusal(str(error), is_method, bytes(data), self.ready) from None
