"""The raw bytes of a request's head, which llhttp does not keep, and what only they can tell.

The half of protocol/http.py that knows no parser. A head that arrives whole costs nothing here.
"""

import re
from collections.abc import Sequence

from forkserve.protocol.types import BAD_REQUEST, Refused, Request

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

Bytes = bytes | memoryview


class RawHead:
    """What the calls of feed() before this one brought of the head that is being read: ``kept``, None if unknown."""

    kept: bytes | bytearray | None = b""
    _searched: Bytes = b""  # what a call of feed() brought, in which a line was found
    _searched_to = 0

    def keep(self, data: Bytes, before: Sequence[Request]) -> None:
        """Keep what ``data`` has of a head that is not complete; the requests ``before`` may be in it too."""
        if self.kept:
            self.kept += data
        elif self.kept is not None:
            self.kept = _unfinished(bytes(data), before[-1]) if before else bytearray(data)

    def joined(self, data: Bytes) -> Bytes:
        """Return ``data`` with what is kept before it, if it can be the head's end; so no slow sender makes us copy."""
        return bytes(self.kept) + data if self.kept and b"\n" in bytes(data) else data

    def check_line(self, line: bytes, data: Bytes, before: Sequence[Request]) -> None:
        """Refuse what llhttp lets through in a request line: RTSP/1.0, ICE/1.0, more than one space.

        llhttp does not tell where a head begins. The first one of a call of feed() begins with it; the line of a later
        one is searched for, in order. So a good line elsewhere in a pipeline can pass for a bad one.
        """
        if self.kept is None:
            return
        if not before:
            is_good = bytes(data).lstrip(b"\r\n").startswith(line + b" HTTP/")
        else:
            if self._searched is not data:
                self._searched = data
                self._searched_to = 0
            found = bytes(data[self._searched_to :]).find(line + b" HTTP/")
            self._searched_to += found + len(line)
            is_good = found >= 0
        if not is_good:
            raise Refused(BAD_REQUEST, "malformed request line, or not the protocol HTTP")

    def refusal(self, reason: str, is_method: bool, data: Bytes, before: Sequence[Request]) -> Refused:
        """Return what llhttp's words for an error mean; ``is_method``: it is the method that llhttp does not know."""
        if is_method:
            return self.unknown_method(data, before)
        if reason.startswith("Invalid method for HTTP"):
            return Refused("501 Not Implemented", "a method of another protocol")
        if reason == "Invalid HTTP version" or reason.startswith("Pause on PRI"):
            return Refused("505 HTTP Version Not Supported", reason)
        return Refused(BAD_REQUEST, reason)

    def unknown_method(self, data: Bytes, before: Sequence[Request]) -> Refused:
        """Return the refusal of the head that ``data`` ends: its method is unknown, or none."""
        begun = self.kept
        if not begun and before:
            begun = None if begun is None else _unfinished(bytes(data), before[-1])
            data = b""
        if begun is not None:
            method = bytes(begun + data).lstrip(b"\r\n").partition(b" ")[0]
            if _TOKEN.fullmatch(method) and len(method) <= 32:
                return Refused("501 Not Implemented", f"method {method.decode('ascii')}")
        return Refused(BAD_REQUEST, "unknown or malformed method")


def _unfinished(raw: bytes, before: Request) -> bytes | None:
    """Return the unfinished head at the end of ``raw``, which follows a request; None if that cannot be told."""
    end = raw.rfind(b"\r\n\r\n")
    # A body has no mark at its end, and may hold what looks like one.
    return None if end < 0 or "CONTENT_LENGTH" in before[0] else raw[end + 4 :]
