"""What every front end has in common: bytes in, requests out. No sockets, no WSGI.

A front end's decoder turns bytes into complete requests, each an environ that grew from the connection's template;
its encoder turns a response's parts into bytes. A request that cannot be served is Refused with a status.
"""

import re
from collections.abc import Callable
from typing import Any, Protocol

Environ = dict[str, Any]

READ_BYTES = 64 * 1024  # the most that is read of a connection at once

BAD_REQUEST = "400 Bad Request"
TOO_LARGE = "431 Request Header Fields Too Large"

# RFC 9110 section 7.2, RFC 3986 section 3.2.2
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


def unescaped(path: str) -> str:
    """Decode a path's percent-encoded bytes, once."""
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), path.encode("latin-1")).decode("latin-1")


class Refused(Exception):
    """The peer's fault: answer with ``status`` (such as "400 Bad Request") and close. ``reason`` is for the log."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.environ: Environ | None = None  # of its request, where that was whole


class Body(Protocol):
    """Where a decoder puts a request's body while it arrives; ``length`` counts its bytes."""

    length: int

    def has_room(self) -> bool:
        """Whether the next READ_BYTES could be taken now; else nothing shall be read of it for a while."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes; raises Refused when they are too many."""

    def file(self) -> Any:
        """The whole body as a readable binary file at its start: ``wsgi.input``."""

    def close(self) -> None:
        """Forget it: the request will not be served."""


# Makes the place for one body: the announced length in bytes, or -1 when only its end will tell.
# Raises Refused when it is too large to be taken.
BodyMaker = Callable[[int], Body]


# One complete request: its environ, its method and target as they came (for the scoreboard), and flags. A plain tuple:
# an object of five attributes costs 0.3 us more, one part in thirty of a small request.
Request = tuple[Environ, bytes, int]

# Flags of a request.
KEEP_ALIVE = 1  # the client wants the connection to stay
HTTP11 = 2
HEAD_ONLY = 4
FORWARDED = 8  # it has words about its client of a proxy that is believed
UNBELIEVED = 16  # or of somebody who is not


class Limits:
    """What a client may send; sizes in bytes."""

    __slots__ = ("field_bytes", "fields", "head_bytes", "known", "line_bytes", "small_bytes")

    def __init__(self, line_bytes: int, fields: int, field_bytes: int) -> None:
        self.line_bytes = line_bytes
        self.fields = fields
        self.field_bytes = field_bytes
        # A head as a whole is bounded too, so that a thousand connections cannot hold a gigabyte of half-read heads.
        self.head_bytes = line_bytes + max(field_bytes, min(fields * (field_bytes + 4), 1 << 18)) + 4
        # No single part of a head this small can be too long: the usual request is not measured any further.
        self.small_bytes = min(line_bytes, field_bytes)
        self.known: Any = None  # the HTTP decoder's: heads that it has read under these limits
