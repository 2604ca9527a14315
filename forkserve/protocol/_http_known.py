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
_LONGEST_REST = 255


class KnownHeads:
    """The heads that were met under one set of limits. Any client's: who spells the same head means the same."""

    def __init__(self) -> None:
        self.rests = 0  # so many newcomers' heads are not looked for: the last ones were in vain
        self._heads: dict[bytes, Known] = {}
        self._vain = 0

    @staticmethod
    def of(limits: Limits) -> "KnownHeads":
        """Return those of these limits."""
        if limits.known is None:
            limits.known = KnownHeads()
        known: KnownHeads = limits.known
        return known

    def find(self, raw: bytes) -> Known | None:
        """Return what ``raw`` ends with, if that is known."""
        known = self._heads.get(raw[raw.find(_PROTOCOL) :])
        if known is None:
            self._vain += 1
            self.rests = min(self._vain >> 4, _LONGEST_REST)
        else:
            self._vain = 0
        return known

    def learn(self, raw: bytes, line: bytes, environ: Environ, template: Environ, flags: int) -> Known | None:
        """Remember ``raw``, which was one plain request, with its line, and the environ and flags that came of it."""
        end = raw[len(line) :]
        if len(end) > _LONGEST or not _LINE.fullmatch(line) or not raw.startswith(line + _PROTOCOL):
            return None
        if raw.find(b"\r\n\r\n") != len(raw) - 4:
            return None
        fields = {key: text for key, text in environ.items() if key not in template}
        fields["REQUEST_METHOD"] = "GET"
        if len(self._heads) >= _MOST:
            self._heads.pop(next(iter(self._heads)), None)
        known = self._heads[end] = (end, fields, flags)
        return known


class Recall:
    """The part of a connection's decoder that knows heads again. What is declared here without a value it brings."""

    ready: list[Request]
    _between: list[bool]
    _ended = False  # a request said that it is the last: what follows is not read
    _template: Environ
    _environ: Environ
    _request: Environ
    _heads: KnownHeads
    _was_plain = False  # nothing was unusual about the request that was read last
    _known: Known | None = None  # the last head, if it is remembered
    _known_line = b""
    _known_text = ""  # the target in that line
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
        if line != self._known_line:
            target = _LINE.fullmatch(line)
            if target is None:
                return False
            self._known_line = line
            self._known_text = target[1].decode("latin-1")
        text = self._known_text
        environ = self._template | fields
        if "%" in text:
            read_target(environ, text)
        else:
            environ["RAW_URI"] = environ["REQUEST_URI"] = text
            if "?" in text:
                environ["PATH_INFO"], _, environ["QUERY_STRING"] = text.partition("?")
            else:
                environ["PATH_INFO"] = text
        environ["wsgi.input"] = BytesIO()
        if not flags & KEEP_ALIVE:
            self._between.clear()
            self._ended = True
        self.ready.append((environ, line, flags))
        return True

    def _find(self, raw: bytes) -> Known | None:
        """Look whether any connection has sent this head; after looks in vain ever longer not."""
        if self._known is None and self._heads.rests:
            self._heads.rests -= 1
            self._rests = 1
            return None
        known = self._known = self._heads.find(raw)
        if known is None:
            self._learns = True
            self._vain = min(self._vain + 1, 10)
            self._rests = (1 << self._vain) - 2
        else:
            self._vain = 0
        return known

    def _learn(self, raw: bytes) -> None:
        environ, line, flags = self.ready[0]
        self._learns = False
        self._known = self._heads.learn(raw, line, environ, self._template, flags)
        if self._known is not None:
            # Or they would stay as long as the connection: who recalls does not replace them.
            self._environ = self._request = self._template
