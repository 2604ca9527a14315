"""Whether an answer looks whole, and whether it is: from the bytes and the end of the connection alone.

Pure: knows no socket. A client believes the framing: a length, a last chunk, FastCGI's END_REQUEST, or, where there is
nothing else, the plain end of the connection (over TLS: close_notify). Sources: RFC 9112 sections 6.3 and 8, RFC 8446
section 6.1, FastCGI 1.0 section 5.5.
"""

import re
from dataclasses import dataclass
from enum import Enum
from struct import Struct


class End(Enum):
    """How the connection ended, as the client's kernel or TLS told it."""

    CLOSED = "closed"  # FIN; over TLS, close_notify came first
    RAGGED = "no close_notify"  # FIN without TLS's last word
    RESET = "reset"
    OPEN = "no end"  # it was given up

    @property
    def is_plain(self) -> bool:
        """Whether it may stand for the end of a body."""
        return self is End.CLOSED


class Look(Enum):
    """What a client makes of an answer."""

    WHOLE = "whole"
    CUT = "visibly cut"
    LIES = "looks whole though cut"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and what it rests on, in a few words."""

    look: Look
    how: str


@dataclass(frozen=True, slots=True)
class _Read:
    """An answer as its framing tells it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    missing: str  # what a client misses; "": the answer looks whole


_HEADER = Struct(">BBHHBx")
_STDOUT, _END_REQUEST = 6, 3
_NO_ANSWER = "no answer"
_STATUS = re.compile(rb"(?:HTTP/1\.[01]|Status:) (\d{3})")


def judge(data: bytes, end: End, whole: bytes, *, fastcgi: bool = False) -> Judged:
    """Judge one answer whose body should be `whole`."""
    read = _read(data, end, fastcgi=fastcgi)
    if read.missing:
        return Judged(Look.CUT, read.missing)
    if read.status != 200:
        return Judged(Look.CUT, f"status {read.status}")
    if read.body == whole:
        return Judged(Look.WHOLE, "whole")
    return Judged(Look.LIES, f"{len(read.body)} of {len(whole)} bytes")


def judge_cache(first: Judged, second: bytes, end: End, whole: bytes) -> Judged:
    """Judge what a cache made of an answer: what its first client saw, and what the second one was given.

    The second request is for another, short body: only what the cache kept of the first can be `whole` or a part of it.
    """
    read = _read(second, end)
    state = read.fields.get(b"x-cache", b"no answer").decode("latin-1")
    if state == "HIT" and not read.missing and read.body != whole:
        return Judged(Look.LIES, f"the cache keeps {len(read.body)} of {len(whole)} bytes")
    if first.look is Look.LIES:
        return Judged(Look.LIES, f"first client: {first.how}")
    if first.look is Look.WHOLE:
        return first if state == "HIT" else Judged(Look.CUT, f"whole, but not cached: {state}")
    return Judged(Look.CUT, first.how)


def _read(data: bytes, end: End, *, fastcgi: bool = False) -> _Read:
    ended = False
    if fastcgi:
        data, ended = _stream(data)
    head, gap, rest = data.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if not gap or status is None:
        return _Read(0, {}, b"", end.value if end is End.RESET else _NO_ANSWER)
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.lower(): value.strip() for name, _, value in lines}
    code = int(status[1])
    if fastcgi and not ended:
        return _Read(code, fields, rest, _why("no END_REQUEST", end))
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body, is_last = _chunks(rest)
        return _Read(code, fields, body, "" if is_last else _why("no last chunk", end))
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        return _Read(code, fields, rest[:length], "" if len(rest) >= length else _why("short", end))
    return _Read(code, fields, rest, "" if end.is_plain or ended else end.value)


def _why(missing: str, end: End) -> str:
    """What is missing, unless the end of the connection alone says that something is."""
    return missing if end.is_plain or end is End.RAGGED else end.value


def _chunks(data: bytes) -> tuple[bytes, bool]:
    """The body of a chunked message as far as it came, and whether its last chunk did."""
    body: list[bytes] = []
    at = 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:line_end].partition(b";")[0], 16)
        except ValueError:
            break
        begin = line_end + 2
        if size == 0:
            return b"".join(body), data[begin : begin + 2] == b"\r\n"
        body.append(data[begin : begin + size])
        at = begin + size + 2
    return b"".join(body), False


def _stream(data: bytes) -> tuple[bytes, bool]:
    """What the STDOUT records of a FastCGI answer hold, and whether the request has ended well."""
    parts = []
    at = 0
    while at + _HEADER.size <= len(data):
        _, kind, _, size, padding = _HEADER.unpack_from(data, at)
        content = data[at + _HEADER.size : at + _HEADER.size + size]
        if kind == _STDOUT:
            parts.append(content)
        elif kind == _END_REQUEST and len(content) == 8:
            return b"".join(parts), not any(content[:5])
        at += _HEADER.size + size + padding
    return b"".join(parts), False
