"""HTTP/1.1, both directions: bytes to environ, response to bytes. The door of httptools (llhttp).

Knows no socket and no app. llhttp's callbacks write straight into a copy of the connection's environ template: one
pass, no second representation of the fields. What llhttp lets through and RFC 9110 and 9112 forbid is refused here.
"""

import re
from io import BytesIO

import httptools

from forkserve.protocol.types import (
    HEAD_ONLY,
    HTTP11,
    KEEP_ALIVE,
    Body,
    BodyMaker,
    Environ,
    Limits,
    Refused,
    Request,
)

BAD_REQUEST = "400 Bad Request"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Field names as they are written -> environ keys; None: dropped. Filled as names are met, up to a bound that no
# honest set of clients reaches, so that a hostile one cannot grow it.
_NAMES: dict[bytes, str | None] = {}
_NAMES_LIMIT = 1024
_METHODS: dict[bytes, str] = {}
_HOSTS: set[str] = set()  # that were found well-formed; bounded likewise

# Fields of which a second one makes the request ambiguous (RFC 9112 section 3.2, RFC 9110 section 8.6).
_SINGLE = {"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"}
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%\x80-\xff]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)


def _environ_key(name: bytes) -> str | None:
    """Return the environ key of a field name; None for names that must not reach the app."""
    if b"_" in name:
        key = None  # `X_A` and `X-A` would be one key: a proxy's word could be forged
    else:
        key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        if key in ("HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"):
            key = key[5:]
        elif key == "HTTP_PROXY":
            key = None  # httpoxy
    if len(_NAMES) < _NAMES_LIMIT and len(name) <= 64:
        _NAMES[name] = key
    return key


def _unescape(match: "re.Match[bytes]") -> bytes:
    return bytes((int(match[1], 16),))


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise Refused(BAD_REQUEST, "malformed Host")
    if len(_HOSTS) < _NAMES_LIMIT and len(host) <= 128:
        _HOSTS.add(host)


class Decoder:
    """One connection's requests: feed it what arrives, take complete requests from ``ready``.

    ``body_began`` is true between a request's head and its end; ``wants_continue`` asks for an interim 100.
    """

    def __init__(self, template: Environ, limits: Limits, make_body: BodyMaker) -> None:
        self.ready: list[Request] = []
        self.wants_continue = False
        self.body_began = False
        self._template = template
        self._limits = limits
        self._make_body = make_body
        self._small_bytes = limits.small_bytes
        self._most_keys = len(template) + limits.fields
        self._fed = 0  # bytes of the current call of feed()
        self._head_bytes = 0  # of the request that is read: what came by every later call of feed()
        # Holds something between requests. A list, so that llhttp's callback can be a method of it: the first byte
        # of a request costs no frame of Python, which is 0.1 us.
        self._between = [True]
        self.on_message_begin = self._between.clear
        self._silent_bytes = 0  # of a chunked body: what came since its last data
        self._target = b""
        self._environ: Environ = template  # where fields go; after the head a throw-away, for trailer fields
        self._request: Environ = template  # the environ of the request whose body is read
        self._body: Body | None = None
        self._line = b""
        self._flags = 0
        self._resume_with = b""  # the framing field of a body that llhttp will not read
        self._ended = False  # a request said that it is the last: what follows is not read
        self._use(httptools.HttpRequestParser(self))

    def _use(self, parser: httptools.HttpRequestParser) -> None:
        self._parser = parser
        self._get_method = parser.get_method
        self._should_keep_alive = parser.should_keep_alive
        self._feed_parser = parser.feed_data

    @property
    def idle(self) -> bool:
        """Whether nothing of a next request has arrived."""
        return bool(self._between)

    def feed(self, data: bytes | memoryview) -> None:
        """Read ``data``; complete requests appear in ``ready``. Raises Refused for what cannot be served."""
        self._fed = len(data)
        if not self._between:
            if self._ended:
                return
            self._measure_progress(len(data))
        try:
            self._feed_parser(data)
            return
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._failed(error, data)
            return
        # Outside the handler: in it, llhttp's next error would have this upgrade for its context, not its cause.
        self._after_upgrade(rest)

    def close(self) -> None:
        """Forget a half-read body."""
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
            key = _NAMES[name]
        except KeyError:
            key = _environ_key(name)
        if key is None:
            return
        text = value.decode("latin-1")
        if text[-1:] in " \t":  # OWS that llhttp leaves (and the empty value)
            text = text.rstrip(" \t")
        environ = self._environ
        if key in environ:
            self._repeated(key, text)
        else:
            environ[key] = text

    def on_headers_complete(self) -> None:
        """The end of the head."""
        environ = self._environ
        target = self._target
        method = self._get_method()
        try:
            environ["REQUEST_METHOD"] = _METHODS[method]
        except KeyError:
            if method == b"CONNECT":  # never cached, so that it always comes here
                raise Refused("501 Not Implemented", "CONNECT") from None
            environ["REQUEST_METHOD"] = _METHODS[method] = method.decode("ascii")
        self._line = method + b" " + target
        # Asking llhttp for the version formats a string; a connection that stays open without a word about it is 1.1.
        if self._should_keep_alive() and "HTTP_CONNECTION" not in environ:
            self._flags = KEEP_ALIVE | HTTP11
        else:
            self._flags = self._read_version()
        if self._fed + self._head_bytes > self._small_bytes or len(environ) > self._most_keys:
            self._measure_head()
        try:
            if environ["HTTP_HOST"] not in _HOSTS:
                _check_host(environ["HTTP_HOST"])
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
            self._read_target(text)
        self._request = environ
        self.body_began = True
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ or "HTTP_EXPECT" in environ:
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
        self._head_bytes = 0
        self._target = b""
        flags = self._flags
        if flags & KEEP_ALIVE:
            self._between.append(True)
        else:
            self._ended = True
        if environ["REQUEST_METHOD"] == "HEAD":
            flags |= HEAD_ONLY
        self.ready.append((environ, self._line, flags))

    # what is not on the path of a plain request

    def _repeated(self, key: str, text: str) -> None:
        """Join a field that came before."""
        if key in _SINGLE and not self.body_began:  # else it is a trailer field, and dropped anyway
            raise Refused(BAD_REQUEST, f"several {key.removeprefix('HTTP_').replace('_', '-').title()} fields")
        self._environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + text

    def _read_version(self) -> int:
        """Return the flags of a request that says something about its connection, or is not HTTP/1.1."""
        version = self._parser.get_http_version()
        flags = KEEP_ALIVE if self._should_keep_alive() else 0
        if version == "1.1":
            return flags | HTTP11
        if version != "1.0":
            raise Refused("505 HTTP Version Not Supported", f"HTTP/{version}")
        self._environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        if "HTTP_TRANSFER_ENCODING" in self._environ:
            raise Refused(BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
        return flags

    def _read_target(self, target: str) -> None:
        """Read a target that is encoded, absolute, `*` or an authority: RFC 9112 section 3.2."""
        environ = self._environ
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        if "#" in target:
            raise Refused(BAD_REQUEST, "a fragment in the target")
        path = target
        if target == "*":
            if environ["REQUEST_METHOD"] != "OPTIONS":
                raise Refused(BAD_REQUEST, "* is for OPTIONS only")
        elif target[0] != "/":
            absolute = _ABSOLUTE.fullmatch(target)
            if absolute is None or not absolute[1]:
                raise Refused(BAD_REQUEST, "malformed target")
            _check_host(absolute[1])
            environ["HTTP_HOST"] = absolute[1]  # section 3.2.2: the target's authority replaces Host
            path = absolute[2]
            if path[:1] != "/":
                path = "/" + path
        path, _, environ["QUERY_STRING"] = path.partition("?")
        if "%" in path:
            path = _ESCAPED.sub(_unescape, path.encode("latin-1")).decode("latin-1")
        environ["PATH_INFO"] = path

    def _measure_head(self) -> None:
        limits, environ, template = self._limits, self._environ, self._template
        if len(self._line) + len(" HTTP/1.1") > limits.line_bytes:
            raise Refused("414 URI Too Long", f"the request line has more than {limits.line_bytes} bytes")
        if len(environ) > self._most_keys:
            raise Refused("431 Request Header Fields Too Large", f"more than {limits.fields} fields")
        for key, text in environ.items():
            if key not in template and len(key.removeprefix("HTTP_")) + 2 + len(text) > limits.field_bytes:
                name = key.removeprefix("HTTP_").replace("_", "-").title()[:64]
                raise Refused("431 Request Header Fields Too Large", f"{name} has more than {limits.field_bytes} bytes")

    def _measure_progress(self, fed: int) -> None:
        """Bound what one request may send that is no body: its head, chunk extensions, trailer fields.

        What comes now counts from the next call on: it may be body, and is read before it is known.
        """
        most = self._limits.head_bytes
        if self._head_bytes > most or self._silent_bytes > most:
            raise Refused("431 Request Header Fields Too Large", f"the head or the trailer has more than {most} bytes")
        if self.body_began:
            self._silent_bytes += fed
        elif len(self._target) > self._limits.line_bytes:
            raise Refused("414 URI Too Long", f"the request line has more than {self._limits.line_bytes} bytes")
        else:
            self._head_bytes += fed

    def _begin_body(self) -> None:
        """Decide how the body is framed and make its place: RFC 9112 section 6; llhttp has refused the rest."""
        environ = self._request
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        if coding is not None:
            if coding.lower() != "chunked":
                raise Refused("501 Not Implemented", "a transfer coding other than chunked")
            length = -1
            self._environ = {}  # trailer fields land here and are dropped
        else:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        expect = environ.get("HTTP_EXPECT")
        if expect is not None and self._flags & HTTP11:
            if expect.lower() != "100-continue":
                raise Refused("417 Expectation Failed", "an expectation other than 100-continue")
            self.wants_continue = length != 0
        if length:
            self._silent_bytes = 0
            self._body = self._make_body(length)
            if self._parser.should_upgrade():
                framing = b"Transfer-Encoding: chunked" if length < 0 else b"Content-Length: %d" % length
                ending = b"" if self._flags & KEEP_ALIVE else b"Connection: close\r\n"
                self._resume_with = framing + b"\r\n" + ending

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
            if self._resume_with:
                self._use(httptools.HttpRequestParser(_Resumed(self)))
                self._feed_parser(b"POST / HTTP/1.1\r\n%b\r\n" % self._resume_with)
                self._resume_with = b""
            else:
                self._use(httptools.HttpRequestParser(self))
            try:
                self._feed_parser(rest)
            except httptools.HttpParserUpgrade as upgrade:  # the next one asks for it too
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._failed(error, rest)
                return
            else:
                return

    def _failed(self, error: httptools.HttpParserError, data: bytes | memoryview) -> None:
        """Raise what llhttp's error means; what follows the last request of a connection means nothing."""
        if isinstance(error, httptools.HttpParserCallbackError):
            if error.__context__ is None:  # llhttp repeats itself: what it read before was refused
                raise Refused(BAD_REQUEST, "more after a refused request") from None
            raise error.__context__ from None
        if not self._ended:
            raise self._refusal(error, bytes(data)) from None

    def _refusal(self, error: httptools.HttpParserError, data: bytes) -> Refused:
        reason = str(error)
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            # Where in `data` the method begins is known only if `data` begins with it.
            method = data.lstrip(b"\r\n").partition(b" ")[0]
            if self._head_bytes == 0 and not self.ready and _TOKEN.fullmatch(method) and len(method) <= 32:
                return Refused("501 Not Implemented", f"method {method.decode('ascii')}")
        elif reason == "Invalid HTTP version" or reason.startswith("Pause on PRI"):
            return Refused("505 HTTP Version Not Supported", reason)
        return Refused(BAD_REQUEST, reason)


class _Resumed:
    """The callbacks of a parser that starts in the middle: deaf to the head it is told, then the decoder's own."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._deaf = True
        self.on_body = decoder.on_body
        self.on_message_begin = decoder.on_message_begin
        self.on_message_complete = decoder.on_message_complete

    def on_url(self, part: bytes) -> None:
        if not self._deaf:
            self._decoder.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._deaf:
            self._decoder.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._deaf:
            self._deaf = False
        else:
            self._decoder.on_headers_complete()
