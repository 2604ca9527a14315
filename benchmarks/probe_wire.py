"""One exchange with a server over a raw socket, and what can be seen of it. Every wait is bounded."""

import re
import socket
import struct
import time
from dataclasses import dataclass

_SILENCE_S = 1.0  # after this a server says nothing more


@dataclass(frozen=True, slots=True)
class Seen:
    """All that came, and how it ended: closed, reset or open."""

    data: bytes
    end: str

    @property
    def codes(self) -> list[int]:
        """The status of every response, interim ones too."""
        return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", self.data)]

    @property
    def code(self) -> int:
        """The first status that is final; 0 where none came."""
        return next((code for code in self.codes if code >= 200), 0)

    @property
    def head(self) -> str:
        """The first head, in lower case."""
        return self.data.partition(b"\r\n\r\n")[0].decode("latin-1").lower() + "\r\n"

    @property
    def after(self) -> bytes:
        """What follows the first head, as it came."""
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def is_whole(self) -> bool:
        """Whether a client would take the body for complete."""
        if not self.code:
            return False
        if "transfer-encoding: chunked\r\n" in self.head:
            return self.after.endswith(b"0\r\n\r\n")
        length = re.search(r"content-length: *(\d+)", self.head)
        return len(self.after) >= int(length[1]) if length else self.end == "closed"

    @property
    def body(self) -> bytes:
        """The body without its framing."""
        if "transfer-encoding: chunked\r\n" not in self.head:
            return self.after
        rest, body = self.after, b""
        while match := re.match(rb"([0-9a-fA-F]+)\r\n", rest):
            size = int(match[1], 16)
            body += rest[match.end() : match.end() + size]
            rest = rest[match.end() + size + 2 :]
        return body

    def __str__(self) -> str:
        """As short as a cell of a table."""
        codes = ", ".join(map(str, self.codes)) or "no answer"
        return codes if self.end == "closed" else f"{codes}, {self.end}"


def exchange(port: int, *pieces: bytes, half_close: bool = False) -> Seen:
    """Send each piece when the answer to the one before was heard; return all that came."""
    data, end = b"", "open"
    with socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S) as sock:
        for piece in pieces:
            try:
                sock.sendall(piece)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
                more, end = _heard(sock)
            except TimeoutError:
                more, end = b"", "open"
            except OSError:
                more, end = b"", "reset"
            data += more
            if end != "open":
                break
    return Seen(data, end)


def _heard(sock: socket.socket) -> tuple[bytes, str]:
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except TimeoutError:
            return data, "open"
        except ConnectionError:
            return data, "reset"
        if not more:
            return data, "closed"
        data += more


def leave(port: int, raw: bytes) -> None:
    """Send a request, read the beginning of its answer, and leave with a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S) as sock:
        sock.sendall(raw)
        sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def await_answer(port: int, raw: bytes, body: bytes, bound_s: float) -> bool:
    """Ask until the answer has this body; whether it came in time."""
    end = time.monotonic() + bound_s
    while time.monotonic() < end:
        try:
            if exchange(port, raw).body == body:
                return True
        except OSError:  # nobody listens yet
            pass
        time.sleep(0.02)
    return False
