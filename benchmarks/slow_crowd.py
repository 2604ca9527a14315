"""A crowd of slow clients in one process: heads and bodies that come byte by byte, responses that are hardly read.

Nobody in it ever finishes; who is closed by the server comes again. Knows nothing of who serves. As a program,
`python benchmarks/slow_crowd.py PORT HEADS BODIES READERS`, it says a line when all have begun or some time has passed,
goes on until its standard input ends, and then says what became of them.
"""

import json
import resource
import select
import socket
import sys
import time
from collections.abc import Iterable
from enum import Enum
from types import TracebackType
from typing import Self

_TURNS = 20  # a second: each client acts in one of them, so that the crowd is no wave
_GATHER_S = 20.0
_WINDOW_BYTES = 4096  # what the kernel takes for a slow reader


class Kind(Enum):
    """How a client is slow; the value is what it begins with."""

    HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
    BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    READER = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"


class _Slow:
    """One client."""

    __slots__ = ("begun", "is_served", "kind", "sock")

    def __init__(self, kind: Kind, port: int) -> None:
        self.kind = kind
        self.begun = False
        self.is_served = kind is not Kind.READER  # has the first bytes of its response
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if kind is Kind.READER:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW_BYTES)
        self.sock.connect_ex(("127.0.0.1", port))

    def act(self) -> bool:
        """Begin, or do a little more; False when the server has ended it."""
        try:
            if not self.begun:
                self.sock.send(self.kind.value)
                self.begun = True
            elif self.kind is Kind.READER:
                self.is_served = self.sock.recv(16) != b""
                return self.is_served
            else:
                self.sock.send(b"x")
                self.sock.recv(1024)
                return False  # it answered: there is nothing it could say but that it has had enough
        except BlockingIOError:
            pass  # the usual case: not connected yet, or nothing to read
        except OSError:
            return False
        return True


class Crowd:
    """So many slow clients of each kind."""

    def __init__(self, port: int, counts: dict[Kind, int]) -> None:
        self.reopened = 0
        self._port = port
        self._clients = [_Slow(kind, port) for kind, count in counts.items() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for client in self._clients:
            client.sock.close()

    @property
    def begun(self) -> int:
        """How many are connected and have sent their beginning."""
        return sum(client.begun for client in self._clients)

    @property
    def complete(self) -> bool:
        """Whether that is so for all, and every reader has begun to get its response."""
        return all(client.begun and client.is_served for client in self._clients)

    def act(self) -> None:
        """Let everybody act once."""
        self._act(range(len(self._clients)))

    def act_turn(self, turn: int) -> None:
        """Let those act whose turn it is."""
        self._act(range(turn % _TURNS, len(self._clients), _TURNS))

    def _act(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            client = self._clients[number]
            if not client.act():
                client.sock.close()
                self._clients[number] = _Slow(client.kind, self._port)
                self.reopened += 1


def raise_descriptor_limit() -> int:
    """Allow this process and its children as many descriptors as the machine lets it have; how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def main() -> None:
    """Be the crowd."""
    port, heads, bodies, readers = map(int, sys.argv[1:])
    raise_descriptor_limit()
    with Crowd(port, {Kind.HEAD: heads, Kind.BODY: bodies, Kind.READER: readers}) as crowd:
        gathered_by = time.monotonic() + _GATHER_S
        said = False
        turn = 0
        while not select.select([sys.stdin], [], [], 1 / _TURNS)[0]:
            crowd.act_turn(turn)
            turn += 1
            if not said and turn >= 2 * _TURNS and (crowd.complete or time.monotonic() > gathered_by):
                said = True
                print(crowd.begun, flush=True)
        print(json.dumps({"begun": crowd.begun, "reopened": crowd.reopened}), flush=True)


if __name__ == "__main__":
    main()
