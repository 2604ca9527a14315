"""Heads that came before: what follows the target of a plain GET, byte for byte, and the fields that it means.

The half of protocol/http.py that saves the parser work: clients that keep a connection send the same fields again and
again, and so do probes. What is here was read by the parser before, under the same limits; a head that differs in one
byte is not here. The memory, and the cost of looking in vain, are bounded.
"""

import re
from io import BytesIO

from forkserve.protocol._http_head import read_target
from forkserve.protocol.types import KEEP_ALIVE, Environ, Limits, Request

# A target in origin-form without a fragment, of bytes that llhttp takes in one as well.
_LINE = re.compile(rb'GET (/[!-"$-~]*)')

# A head from its protocol on, the part of an environ that comes of it, the flags of its request.
Known = tuple[bytes, Environ, int]

_PROTOCOL = b" HTTP/1.1\r\n"
_MOST = 64
_LONGEST = 2048
_LONGEST_LINE = 256
_OF_LINE = ("RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING")
_LONGEST_REST = 255


class KnownHeads:
    """The heads that were met under one set of limits. Any client's: who spells the same head means the same."""

    def __init__(self) -> None:
        self.rests = 0  # so many newcomers' heads are not looked for: the last ones were in vain
        self.lines: dict[bytes, Environ] = {}  # request lines that connections began with, and what they come to
        self.ends: dict[bytes, Known] = {}  # by what they end with, from the protocol's name on
        self.vain = 0  # looks, since one was not

    @staticmethod
    def of(limits: Limits) -> "KnownHeads":
        """Return those of these limits."""
        if limits.known is None:
            limits.known = KnownHeads()
        known: KnownHeads = limits.known
        return known

    def missed(self) -> None:
        """A look was in vain."""
        self.vain += 1
        self.rests = min(self.vain >> 4, _LONGEST_REST)

    def read_line(self, line: bytes, environ: Environ, *, keep: bool) -> bool:
        """Write into ``environ`` what a request line (without the protocol) says; False where it is not plain."""
        found = _LINE.fullmatch(line)
        if found is None:
            return False
        text = found[1].decode("latin-1")
        if "%" in text:
            read_target(environ, text)
        else:
            environ["RAW_URI"] = environ["REQUEST_URI"] = text
            environ["PATH_INFO"], _, environ["QUERY_STRING"] = text.partition("?")
        if keep and len(line) <= _LONGEST_LINE:
            if len(self.lines) >= _MOST:
                self.lines.clear()
            self.lines[line] = {key: environ[key] for key in _OF_LINE}
        return True

    def learn(self, raw: bytes, line: bytes, environ: Environ, template: Environ, flags: int) -> Known | None:
        """Remember ``raw``, which was one plain request, with its line, and the environ and flags that came of it."""
        end = raw[len(line) :]
        if len(end) > _LONGEST or not _LINE.fullmatch(line) or not raw.startswith(line + _PROTOCOL):
            return None
        if raw.find(b"\r\n\r\n") != len(raw) - 4:
            return None
        fields = {key: text for key, text in environ.items() if key not in template}
        fields["REQUEST_METHOD"] = "GET"
        if len(self.ends) >= _MOST:
            self.ends.pop(next(iter(self.ends)), None)
        known = self.ends[end] = (end, fields, flags)
        return known


class Recall:
    """The part of a connection's decoder that knows heads again. What is declared here without a value it brings."""

    ready: list[Request]
    idle: list[bool]
    _ended = False  # a request said that it is the last: what follows is not read
    _template: Environ
    _environ: Environ
    _request: Environ
    _heads: KnownHeads
    _was_plain = False  # nothing was unusual about the request that was read last
    _known: Known | None = None  # the last head, if it is remembered
    _last_raw = b""  # the last request that was recalled
    _again: Request | None = None  # what comes of it but its body, if it came twice in a row
    _rests = 0  # so many heads are not looked for: the last ones were in vain
    _vain = 0
    _learns = False

    def _recall(self, raw: bytes) -> bool:
        """Take one request whose head is known; False: it is to be parsed."""
        known = self._known
        if known is None or not raw.endswith(known[0]):
            known = self._find(raw)
            if known is None:
                return False
        end, fields, flags = known
        line = raw[: -len(end)]
        target = self._heads.lines.get(line)
        if target is None:
            environ = self._template | fields
            if not self._heads.read_line(line, environ, keep=not self._last_raw):
                return False
        else:
            # Nothing follows the last request of a connection: it takes the template itself. A copy costs 0.2 us.
            environ = self._template.copy() if flags & KEEP_ALIVE else self._template
            environ |= fields
            environ |= target
        if not flags & KEEP_ALIVE:
            self.idle.clear()
            self._ended = True
        elif raw == self._last_raw:
            self._again = (environ.copy(), line, flags)
        else:
            self._last_raw = raw
            self._again = None
        environ["wsgi.input"] = BytesIO()
        self.ready.append((environ, line, flags))
        return True

    def _find(self, raw: bytes) -> Known | None:
        """Look whether any connection has sent this head; after looks in vain ever longer not."""
        if self._known is None and self._heads.rests:
            self._heads.rests -= 1
            self._rests = 1
            return None
        heads = self._heads
        known = self._known = heads.ends.get(raw[raw.find(_PROTOCOL) :])
        if known is None:
            heads.missed()
            self._learns = True
            self._vain = min(self._vain + 1, 10)
            self._rests = (1 << self._vain) - 2
        else:
            self._vain = heads.vain = 0
        return known

    def _learn(self, raw: bytes) -> None:
        environ, line, flags = self.ready[0]
        self._learns = False
        self._known = self._heads.learn(raw, line, environ, self._template, flags)
        if self._known is not None:
            # Or they would stay as long as the connection: who recalls does not replace them.
            self._environ = self._request = self._template
