"""The clients of the slow-and-fast mix, in a process of their own: `python benchmarks/mix_load.py` with JSON on stdin.

Fast clients ask at a fixed rate each, slow ones as soon as they are answered. A fast request that is due while its
client still waits counts from the moment at which it was due: a client that is kept waiting must not hide what it did
not ask meanwhile. All connections in one select; it says itself how much of a core it took.
"""

import json
import re
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE_S = 10.0  # for what is under way at the end
_HEAD = "GET {path} HTTP/1.1\r\nHost: localhost\r\n{connection}\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients do."""

    port: int
    fast: int
    slow: int
    rate: float  # requests per second of each fast client; 0: as fast as it is answered
    seconds: float
    close: bool  # a new connection for each request


@dataclass(slots=True)
class Told:
    """What the fast clients saw."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    slow_requests: int = 0
    again: int = 0  # asked again on a new connection, since the server had closed the kept one
    busy: float = 0.0  # of one core


class Client:
    """One client with at most one request under way."""

    def __init__(self, plan: Plan, told: Told, path: str, first_due: float) -> None:
        connection = "Connection: close\r\n" if plan.close else ""
        self._request = _HEAD.format(path=path, connection=connection).encode()
        self._plan = plan
        self._told = told
        self.is_slow = path != "/"
        self._gap = 1 / plan.rate if plan.rate and not self.is_slow else 0.0
        self.due = first_due
        self.begun = 0.0  # 0: no request is under way
        self.sock: socket.socket | None = None
        self._is_fresh = False
        self._got = b""

    def ask(self, begun: float) -> None:
        """Begin a request; its latency counts from `begun`."""
        self.begun = begun
        self.due = begun + self._gap
        self._got = b""
        try:
            if self.sock is None:
                self.sock = socket.create_connection(("127.0.0.1", self._plan.port), _PATIENCE_S)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._is_fresh = True
            self.sock.send(self._request)
        except OSError:
            self._lost()

    def on_readable(self) -> None:
        """Take what came; at the end of an answer note it and, where it is time, ask again."""
        assert self.sock is not None
        try:
            got = self.sock.recv(65536)
        except OSError:
            got = b""
        if not got:
            self._lost()
            return
        self._got += got
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self._answered(head)

    def drop(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _answered(self, head: bytes) -> None:
        now = time.perf_counter()
        if self.is_slow:
            self._told.slow_requests += 1
        elif head.startswith(b"HTTP/1.1 200"):
            self._told.latencies_ms.append((now - self.begun) * 1e3)
        else:
            self._told.errors += 1
        self.begun = 0.0
        self._is_fresh = False
        if self._plan.close or b"\nconnection: close" in head.lower():
            self.drop()

    def _lost(self) -> None:
        """The connection is gone. A kept one may be closed at any time, so the request is made once more."""
        self.drop()
        if not self.begun:
            return
        if self._is_fresh:
            self._told.errors += 1
            self.begun = 0.0
            self._is_fresh = False
            self.due = time.perf_counter() + 0.05  # whoever refuses now is not asked a thousand times a second
        else:
            self._told.again += 1
            self.ask(self.begun)


def run(plan: Plan) -> Told:
    """Let all clients ask until the time is over, and wait for what is under way."""
    told = Told()
    begun, cpu = time.perf_counter(), time.process_time()
    fast = [Client(plan, told, "/", begun + place / plan.fast / (plan.rate or 1e3)) for place in range(plan.fast)]
    clients = fast + [Client(plan, told, "/slow", begun + place * 0.1) for place in range(plan.slow)]
    end = begun + plan.seconds
    while (now := time.perf_counter()) < end:
        for client in clients:
            if not client.begun and client.due <= now:
                # Late by our own waking is not the server's fault; late by its last answer is.
                client.ask(now if now - client.due < 1e-3 or client.is_slow or not plan.rate else client.due)
        due = min((client.due for client in clients if not client.begun), default=end)
        _receive(clients, max(0.0, min(due, end) - time.perf_counter()))
    told.busy = (time.process_time() - cpu) / (time.perf_counter() - begun)
    while any(client.begun for client in clients) and time.perf_counter() < end + _PATIENCE_S:
        _receive(clients, 0.1)
    told.errors += sum(bool(client.begun) for client in clients)
    for client in clients:
        client.drop()
    return told


def _receive(clients: list[Client], wait_s: float) -> None:
    """Wait once; with the microseconds that select has and epoll has not."""
    by_socket = {client.sock: client for client in clients if client.sock is not None}
    for sock in select.select(list(by_socket), [], [], wait_s)[0]:
        by_socket[sock].on_readable()


if __name__ == "__main__":
    json.dump(asdict(run(Plan(**json.load(sys.stdin)))), sys.stdout)
