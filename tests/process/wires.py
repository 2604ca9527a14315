"""One answer as a client reads it from a connection, whatever is spoken there; and how it ended, by its framing.

An answer is *whole* where its framing says so: the last chunk, all bytes of its length, FastCGI's END_REQUEST. Where
nothing but the end of the connection ends it, it is whole if that is no reset (over TLS: if it is a close_notify). Else
it is *cut*, or *nothing* came, or this client *left*.
"""

import socket
import ssl
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from tests.harness import PATIENCE_S

_BODILESS = (204, 304)
_MOST = 1 << 18  # of one read


class Verdict(Enum):
    """How an answer ended, as its framing tells."""

    WHOLE = "whole"
    CUT = "cut"
    NOTHING = "nothing"
    LEFT = "left"


class Ended(Exception):
    """The connection ended; ``how``: "end", "reset", or "no close_notify"."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Left(Exception):
    """This client has had enough."""


@dataclass(slots=True)
class Pace:
    """How a client reads: for ``slow_s`` seconds in pieces with a pause before each; it leaves after so many bytes."""

    slow_s: float = 0.0
    pause_s: float = 0.0
    piece: int = _MOST
    leaves_after: int = -1


@dataclass(slots=True)
class Came:
    """What came of one answer."""

    verdict: Verdict = Verdict.NOTHING
    end: str = ""  # of the connection, where it ended amid or after this answer
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)  # by name in small letters
    body: bytearray = field(default_factory=bytearray)


class Wire:
    """A connection, read at a pace."""

    def __init__(self, sock: socket.socket, pace: Pace | None = None) -> None:
        self.sock = sock
        self.pace = pace or Pace()
        self.answers = 0
        # When the other side lived for sure: whatever we read it may have sent long ago, but not before we asked.
        self.alive_at = self._sent_at = time.monotonic()
        self._buffer = bytearray()
        self._taken = 0  # of this answer
        self._ended = ""

    @classmethod
    def that_ended(cls, how: str) -> Self:
        """A connection of which nothing came: it ended amid its beginning."""
        wire = cls(socket.socket())
        wire._ended = how
        return wire

    def send(self, raw: bytes) -> None:
        """Send a request; whether that worked shows when its answer is read."""
        self._sent_at = time.monotonic()
        try:
            self.sock.sendall(raw)
        except TimeoutError:
            raise
        except OSError:
            pass

    def read(self, protocol: str, *, is_head: bool = False, ends: bool = True) -> Came:
        """Read one answer; ``ends``: the connection is to end after it. TimeoutError where nothing comes for long."""
        came = Came()
        self._taken = 0
        try:
            if protocol == "fastcgi":
                self._fastcgi(came)
            else:
                self._other(came, protocol, is_head=is_head)
            came.verdict = Verdict.WHOLE
            self.answers += 1
            self.alive_at = self._sent_at
        except Ended as ended:
            came.end = ended.how
            came.verdict = Verdict.CUT if self._taken or self._buffer else Verdict.NOTHING
        except Left:
            came.verdict = Verdict.LEFT
        return came

    def rest(self) -> tuple[bytes, str]:
        """All that still comes, and how the connection ends."""
        found = bytes(self._buffer)
        self._buffer.clear()
        try:
            while True:
                found += self._receive()
        except Ended as ended:
            return found, ended.how

    def close(self) -> None:
        """Leave."""
        self.sock.close()

    def _other(self, came: Came, protocol: str, *, is_head: bool) -> None:
        self._head(came, self._lines(), protocol)
        if is_head or came.status in _BODILESS:
            return
        if came.fields.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                self._take(size, came.body)
                self._expect_empty_line()
            self._expect_empty_line()
        elif "content-length" in came.fields:
            self._take(int(came.fields["content-length"]), came.body)
        else:
            try:
                while True:
                    self._take(max(1, len(self._buffer)), came.body)
            except Ended as ended:
                if ended.how != "end":
                    raise
                came.end = ended.how

    def _fastcgi(self, came: Came) -> None:
        stdout = bytearray()
        try:
            while True:
                header, content = bytearray(), bytearray()
                self._take(8, header)
                size = int.from_bytes(header[4:6], "big")
                try:
                    self._take(size + header[6], content)
                finally:
                    if header[1] == 6:
                        stdout += content[:size]
                if header[1] == 3:
                    assert content[4] == 0, f"the protocol status is {content[4]}"
                    return
        finally:
            head, found, body = stdout.partition(b"\r\n\r\n")
            if found:
                self._head(came, head.decode("latin-1").split("\r\n"), "fastcgi")
                came.body += body

    def _head(self, came: Came, lines: list[str], protocol: str) -> None:
        first, *others = lines
        beginning = "HTTP/1.1 " if protocol in ("http", "uwsgi") else "Status: "
        assert first.startswith(beginning), f"an answer begins with {first!r}"
        came.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        came.status = int(first.removeprefix(beginning)[:3])

    def _lines(self) -> list[str]:
        lines = []
        while line := self._line():
            lines.append(line)
        return lines

    def _line(self) -> str:
        while (at := self._buffer.find(b"\r\n")) < 0:
            assert len(self._buffer) < 20_000, f"no line: {bytes(self._buffer[:100])!r}"
            self._buffer += self._receive()
        line = self._buffer[:at].decode("latin-1")
        del self._buffer[: at + 2]
        self._taken += at + 2
        return line

    def _expect_empty_line(self) -> None:
        line = self._line()
        assert not line, f"a chunk is longer than it said: {line[:100]!r}"

    def _take(self, size: int, into: bytearray) -> None:
        """Move so many bytes to ``into``; what there is of them, where the connection ends."""
        while True:
            piece = self._buffer[:size]
            del self._buffer[:size]
            into += piece
            self._taken += len(piece)
            size -= len(piece)
            if not size:
                return
            self._buffer += self._receive()

    def _receive(self) -> bytes:
        pace = self.pace
        if self._ended:
            raise Ended(self._ended)
        if 0 <= pace.leaves_after <= self._taken + len(self._buffer):
            raise Left
        most = _MOST
        if pace.slow_s > 0:
            pace.slow_s -= pace.pause_s
            most = pace.piece
            time.sleep(pace.pause_s)  # it is this client that is slow
        try:
            data = self.sock.recv(most)
        except TimeoutError:
            raise
        except OSError as error:
            raise Ended(how_it_ended(error)) from None
        if not data:
            raise Ended("end")
        return data


def how_it_ended(error: OSError) -> str:
    """Say in our words why a connection ended."""
    if isinstance(error, ssl.SSLEOFError):
        return "no close_notify"
    if isinstance(error, ssl.SSLError) and error.reason == "BAD_RECORD_TYPE":
        return "alert"  # in plain, which is no part of the stream
    return "reset" if isinstance(error, ConnectionResetError | BrokenPipeError) else str(error)


def dial(place: str | tuple[str, int], *, window: int = 0, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Connect to a path or a port; ``window`` bounds what the kernel takes for us before we read it."""
    sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    try:
        sock.settimeout(PATIENCE_S)
        if window and not isinstance(place, str):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            # With the loopback's segments of 64 KiB a window this small opens by the sender's slow probes only.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        sock.connect(place)
        if not isinstance(place, str):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            return tls.wrap_socket(sock, suppress_ragged_eofs=False)
    except BaseException:
        sock.close()
        raise
    return sock
