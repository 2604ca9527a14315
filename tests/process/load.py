"""Clients that ask without pause and write down every outcome; anything but a good answer is a failure.

Four ways of asking: a connection per request, one that is kept alive, pipelined requests, and a POST whose body comes
in pieces. A server may end a kept connection only by announcing it (RFC 9112 section 9.6); what was sent after the
announced end is asked again, as section 9.3.2 has it. Everything else that ends early counts as a failure.
"""

import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import TracebackType
from typing import Self

from tests.harness import PATIENCE_S, Server, read_to_end

_PIPELINED = 5
_PIECE = b"x" * 1000


class Load:
    """``with Load(server) as load``: asks until the end of the block; then ``load.failures`` should be empty.

    ``address`` is one of the server's addresses; without it, the socket that was handed in. ``wrap`` makes of a
    connected socket what is spoken over, such as TLS.
    """

    def __init__(
        self, server: Server, address: str = "", wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.by_way: Counter[str] = Counter()
        self.failures: list[str] = []
        self._server = server
        self._address = address
        self._wrap = wrap
        self._over = threading.Event()
        ways = (self._close, self._keep_alive, self._pipeline, self._post)
        self._threads = [threading.Thread(target=self._ask, args=(way,), name=way.__name__) for way in ways]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        """How many good answers came."""
        return self.answers.total()

    def _ask(self, way: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                way()
            except (OSError, HTTPException, AssertionError) as error:
                self.failures.append(f"{threading.current_thread().name}: {error!r}")

    def _note(self, status: int, body: bytes) -> None:
        assert status == 200, f"{status} {body!r}"
        self.answers[body.decode()] += 1
        self.by_way[threading.current_thread().name] += 1

    def _connect(self) -> socket.socket:
        sock = self._server.connect(self._address)
        try:
            return self._wrap(sock)
        except BaseException:
            sock.close()
            raise

    def _close(self) -> None:
        with self._connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 "), f"closed without an answer: {head!r}"
            self._note(int(head[9:12]), body)

    def _keep_alive(self) -> None:
        connection = HTTPConnection("localhost", timeout=PATIENCE_S)
        try:
            while not self._over.is_set():
                if connection.sock is None:  # the first time, and where the last answer announced the end
                    connection.sock = self._connect()
                connection.request("GET", "/")
                response = connection.getresponse()
                self._note(response.status, response.read())
        finally:
            connection.close()

    def _pipeline(self) -> None:
        left = _PIPELINED
        while left:
            asked = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] * (left - 1)
            with self._connect() as sock:
                sock.sendall(b"".join([*asked, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]))
                raw = read_to_end(sock)
            heads = raw.split(b"HTTP/1.1 ")[1:]
            assert heads, "closed without an answer"
            for head in heads:
                fields, _, body = head.partition(b"\r\n\r\n")
                self._note(int(fields[:3]), body)
            assert b"\r\nConnection: close" in heads[-1], f"{len(heads)} of {left} answers, the end not announced"
            left -= len(heads)

    def _post(self) -> None:
        with self._connect() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n" + _PIECE)
            for _ in range(2):
                self._close()  # takes some time, in which this body is not whole
                sock.sendall(_PIECE)
            response = HTTPResponse(sock)
            response.begin()
            body = response.read()
            assert body.endswith(b" 3000"), body
            self._note(response.status, body)
            assert read_to_end(sock) == b""
