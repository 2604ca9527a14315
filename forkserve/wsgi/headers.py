"""What start_response is given: checked once, spelled once, remembered.

A status and a header that were seen before cost one look-up. Bounded, so that an app with ever new values (dates,
lengths, cookies) costs memory only up to the bound. PEP 3333, "The start_response() Callable"; RFC 9110 section 5.
"""

import re
from collections.abc import Sequence

from forkserve.log import log

# What a header means to us, beside its line; 0 and up: it is the Content-Length, and that is the length.
PLAIN, DATE, SERVER, DROPPED, CLOSE = range(-1, -6, -1)
NO_BODY = {204, 205, 304}

_STATUS = re.compile(r"[2-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_KINDS = {"date": DATE, "server": SERVER}
# Hop-by-hop: how this connection ends is the server's to say (PEP 3333, "Other HTTP Features"). They are dropped, not
# fatal: tutorials for event streams send `Connection: keep-alive`, and other servers let them.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

Line = tuple[bytes, int]
Status = tuple[bytes, int]

LINES: dict[tuple[str, str], Line] = {}
STATUSES: dict[str, Status] = {}
# What came last with a status: the headers as given; status line, code, lines and length; the head that they make.
Given = tuple[list[tuple[str, str]], bytes, int, Sequence[bytes], int, bytes]
GIVEN: dict[str, Given] = {}
_MOST = 2048
_LONGEST = 256
JOIN_BYTES = 16 * 1024  # up to this size copying head and chunk together is cheaper than a gathering write
_LONGEST_HEAD = 2048
_said: set[str] = set()


def status_entry(status: str) -> Status:
    """Return the status line and the code. Raises TypeError or ValueError for the app to see."""
    if not isinstance(status, str):
        raise TypeError(f"start_response: the status must be a str such as '200 OK', not {status!r}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"start_response: the status must be like '200 OK' (200 to 999), not {status!r}")
    entry = (b"HTTP/1.1 " + status.encode("latin-1") + b"\r\n", int(status[:3]))
    if len(STATUSES) < _MOST:
        STATUSES[str(status)] = entry
    return entry


def line_entry(pair: object) -> Line:
    """Return a header's line and what it means to us. Raises TypeError or ValueError for the app to see."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"start_response: a header must be a tuple (name, value), not {pair!r}")
    name, text = pair
    if not isinstance(name, str) or not isinstance(text, str):
        raise TypeError(f"start_response: name and value of a header must be str, not {pair!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"start_response: {name!r} is not a header name")
    if not _VALUE.fullmatch(text):
        raise ValueError(
            f"start_response: the value of {name!r} has a control character or one beyond latin-1: {text!r}"
        )
    entry = _entry(name, text)
    if len(LINES) < _MOST and len(name) + len(text) <= _LONGEST:
        LINES[(str(name), str(text))] = entry
    return entry


def remember(status: str, headers: list[tuple[str, str]], entry: Status, lines: Sequence[bytes], length: int) -> bytes:
    """Return the head that these make, and remember it: GIVEN. Of what has no body or is not ``PLAIN`` nothing is.

    Empty where the length is not announced, or is more than is joined with the head.
    """
    head = entry[0] + b"".join(lines)
    is_short = len(head) <= _LONGEST_HEAD
    if not 0 <= length <= JOIN_BYTES:
        head = b""
    if status in STATUSES and is_short:
        GIVEN[status] = (headers.copy(), *entry, lines, length, head)  # the app may change its list
    return head


def _entry(name: str, text: str) -> Line:
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        if lower not in _said and (lower != "connection" or text.lower() not in ("close", "keep-alive")):
            _said.add(lower)
            log.warning("app set a header that is the server's own; dropped", header=name, value=text)
        return b"", CLOSE if lower == "connection" and text.strip().lower() == "close" else DROPPED
    kind = _KINDS.get(lower, PLAIN)
    if lower == "content-length":
        if not _LENGTH.fullmatch(text):
            raise ValueError(f"start_response: Content-Length must be a number of bytes, not {text!r}")
        kind = int(text)
    return f"{name}: {text}\r\n".encode("latin-1"), kind
