"""What the fields of a request ask of one representation: preconditions, ranges, codings, dates. Pure.

RFC 9110 sections 5.6.7 (dates), 12.5.3 (Accept-Encoding), 13 (preconditions) and 14 (ranges). A field that breaks its
grammar is treated as if it were not there, as these sections ask.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

# Status, offset of the first byte, how many bytes of the representation.
Verdict = tuple[int, int, int]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = (
    re.compile(rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{{2}}) (?P<year>\d{{4}}) {_CLOCK} GMT", re.A),
    re.compile(rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{{2}})-(?P<year>\d\d) {_CLOCK} GMT", re.A),
    re.compile(rf"[A-Z][a-z]{{2}} (?P<month>[A-Z][a-z]{{2}}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})", re.A),
)
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,40})-(\d{0,40})[ \t]*", re.A | re.I)
_WEIGHT = re.compile(r"[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.A | re.I)


def http_date(moment: int) -> str:
    """Spell a moment, seconds of the epoch, as an HTTP date."""
    at = datetime.fromtimestamp(moment, UTC)
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04}"
        f" {at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    )


def read_date(text: str) -> int | None:
    """Read an HTTP date in any of its three formats; None: it is none."""
    for pattern in _DATES:
        found = pattern.fullmatch(text.strip())
        if found is None:
            continue
        year = int(found["year"])
        if len(found["year"]) == 2:
            year += 2000 if year < 70 else 1900
        try:
            month = _MONTHS.index(found["month"]) + 1
            second = min(int(found["second"]), 59)  # 60: a leap second
            at = datetime(year, month, int(found["day"]), int(found["hour"]), int(found["minute"]), second, tzinfo=UTC)
        except ValueError:
            return None
        return int(at.timestamp())
    return None


def judge(environ: dict[str, Any], etag: str, modified: str, size: int) -> Verdict:
    """Decide what a GET or HEAD of a representation gets: 200, 206, 304, 412 or 416, and which bytes of it.

    ``etag`` and ``modified`` are its fields as they will be sent. RFC 9110 section 13.2.2 orders the questions.
    """
    if "HTTP_IF_MATCH" in environ:
        if not _names(environ["HTTP_IF_MATCH"], etag, strong=True):
            return 412, 0, 0
    elif "HTTP_IF_UNMODIFIED_SINCE" in environ and _is_newer(modified, environ["HTTP_IF_UNMODIFIED_SINCE"], False):
        return 412, 0, 0
    if "HTTP_IF_NONE_MATCH" in environ:
        if _names(environ["HTTP_IF_NONE_MATCH"], etag, strong=False):
            return 304, 0, 0
    elif "HTTP_IF_MODIFIED_SINCE" in environ and not _is_newer(modified, environ["HTTP_IF_MODIFIED_SINCE"], True):
        return 304, 0, 0
    if "HTTP_RANGE" not in environ or environ["REQUEST_METHOD"] != "GET":
        return 200, 0, size
    if "HTTP_IF_RANGE" in environ and not _is_same(environ["HTTP_IF_RANGE"].strip(), etag, modified):
        return 200, 0, size
    return _choose_range(environ["HTTP_RANGE"], size)


def _names(field: str, etag: str, *, strong: bool) -> bool:
    """Whether an If-Match (``strong``) or If-None-Match names the representation: section 8.8.3.2."""
    if field.strip() == "*":
        return True
    ours = _ETAG.fullmatch(etag)
    if ours is None or (strong and ours[1]):
        return False
    return any(opaque == ours[2] and not (strong and weak) for weak, opaque in _ETAG.findall(field))


def _is_newer(modified: str, since: str, otherwise: bool) -> bool:
    """Whether the representation was modified after ``since``; ``otherwise`` where one of these is no date."""
    if modified and modified == since:
        return False
    ours, theirs = read_date(modified), read_date(since)
    return otherwise if ours is None or theirs is None else ours > theirs


def _is_same(validator: str, etag: str, modified: str) -> bool:
    """Whether an If-Range holds: section 13.1.5. Of what has a weak ETag no two pieces are known to fit."""
    return etag.startswith('"') and validator in (etag, modified)


def _choose_range(field: str, size: int) -> Verdict:
    """Choose the bytes of a Range: section 14.1.2.

    Of several ranges none is honoured, the whole is sent: a reader of multipart/byteranges is rare, one that asks for
    thousands of ranges is an attack (CVE-2011-3192), and section 14.2 lets a server ignore the field.
    """
    found = _RANGE.fullmatch(field.strip())
    if found is None or found.group(1, 2) == ("", ""):
        return 200, 0, size
    if not found[1]:
        count = min(int(found[2]), size)
        if count:
            return 206, size - count, count
        return (416, 0, 0) if int(found[2]) == 0 else (200, 0, size)  # the end of nothing is all of it
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return 200, 0, size
    if first >= size:
        return 416, 0, 0
    return 206, first, min(last, size - 1) - first + 1


@lru_cache(maxsize=256)
def acceptable_codings(field: str) -> tuple[str, ...]:
    """Return those of br and gzip that an Accept-Encoding wants at least as much as plain bytes, best first."""
    weights: dict[str, float] = {}
    for part in field.lower().split(","):
        coding, *parameters = part.split(";")
        weight = _WEIGHT.fullmatch(parameters[0]) if parameters else None
        if not parameters or weight is not None:
            weights[coding.strip().removeprefix("x-")] = float(weight[1]) if weight is not None else 1.0
    others = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    found = {coding: weights.get(coding, others) for coding in ("br", "gzip")}
    wanted = [coding for coding, weight in found.items() if weight > 0 and weight >= plain]
    return tuple(sorted(wanted, key=lambda coding: -found[coding]))  # stable: br before gzip
