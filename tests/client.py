"""A client that the tests of the wire share: it sends bytes as they are and reads one response at a time."""

import socket
from types import TracebackType
from typing import Self

from tests.harness import Server


class Reply:
    """One response as it came."""

    def __init__(self, line: str, fields: list[tuple[str, str]]) -> None:
        self.line = line
        self.code = int(line.split(" ")[1])
        self.fields = fields
        self.body = b""
        self.chunks: list[bytes] = []  # of a chunked body, each as it came; the last one is empty

    def values(self, name: str) -> list[str]:
        """Every value of a field."""
        return [text for key, text in self.fields if key.lower() == name.lower()]


class Client:
    """A connection."""

    def __init__(self, server: Server) -> None:
        self.sock = server.connect()
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        self.sock.close()

    def send(self, raw: bytes) -> Self:
        """Send bytes."""
        self.sock.sendall(raw)
        return self

    def get(self, target: str = "/", *fields: str) -> Self:
        """Send a GET."""
        return self.send("\r\n".join((f"GET {target} HTTP/1.1", "Host: x", *fields, "", "")).encode("latin-1"))

    def post(self, target: str, body: bytes, *fields: str) -> Self:
        """Send a POST with its length."""
        head = (f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields, "", "")
        return self.send("\r\n".join(head).encode("latin-1") + body)

    def half_close(self) -> Self:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reply(self, *, is_head: bool = False) -> Reply:
        """Read one response, by its framing; EOFError where it is cut."""
        reply = self.read_head()
        if is_head or reply.code < 200 or reply.code in (204, 304):
            return reply
        if reply.values("Transfer-Encoding") == ["chunked"]:
            while not reply.chunks or reply.chunks[-1]:
                reply.chunks.append(self.read_chunk())
            reply.body = b"".join(reply.chunks)
        elif reply.values("Content-Length"):
            reply.body = self._exactly(int(reply.values("Content-Length")[0]))
        else:
            reply.body = self._file.read()
        return reply

    def read_head(self) -> Reply:
        """Read a head and leave the body where it is."""
        line = self._line()
        fields = []
        while text := self._line():
            name, _, value = text.partition(":")
            fields.append((name, value.strip()))
        return Reply(line, fields)

    def read_chunk(self) -> bytes:
        """Read one chunk of a chunked body."""
        data = self._exactly(int(self._line(), 16))
        if self._line():
            raise ValueError("a chunk is longer than it said")
        return data

    def rest_of(self, size: int) -> bytes:
        """Read ``size`` bytes of a body; EOFError where it is cut."""
        return self._exactly(size)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        return self._file.read()

    def _line(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        return line[:-2].decode("latin-1")

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError(data)
        return data
