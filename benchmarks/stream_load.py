"""The clients of benchmarks/streams.py, each a process of its own: a plan as JSON comes in, what it saw goes out.

A reader of events notes how old each one is when it arrives; a downloader takes 100 MB as fast as it can, again each
second, or a little at a time.
"""

import json
import re
import socket
import sys
import time
from dataclasses import asdict, dataclass

_EVENT = re.compile(rb"data: (\d+)\n\n")
_LONGEST_EVENT = 64
_CONNECT_S = 20.0
_SLOW_BYTES, _SLOW_S = 64 << 10, 0.05
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client does."""

    place: str  # HOST:PORT or a path
    target: str
    version: str  # of HTTP
    seconds: float  # until then at most
    events: bool = False
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What it saw."""

    ages_ms: list[float]  # of the events, in their order
    body_bytes: int
    fault: str = ""


class Unchunked:
    """Takes the framing of a chunked body away, as it arrives."""

    def __init__(self) -> None:
        self._kept = b""
        self._left = 0  # of the chunk that is read
        self._ended = False

    def take(self, data: bytes) -> bytes:
        """What `data` has of the body."""
        body = []
        data = self._kept + data
        self._kept = b""
        while data and not self._ended:
            if self._left > 2:
                piece = data[: self._left - 2]
                body.append(piece)
                self._left -= len(piece)
                data = data[len(piece) :]
            elif self._left:
                skipped = min(self._left, len(data))
                self._left -= skipped
                data = data[skipped:]
            else:
                line, end, rest = data.partition(b"\r\n")
                if not end:
                    self._kept = data
                    break
                size = int(line.partition(b";")[0], 16)
                self._ended = size == 0
                self._left = size + 2
                data = rest
        return b"".join(body)


class Ages:
    """Finds the events in a body as it arrives."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self._tail = b""

    def take(self, data: bytes, now_ns: int) -> None:
        """Look for events that are complete with `data`, which arrived at that moment."""
        data = self._tail + data
        at = 0
        for event in _EVENT.finditer(data):
            self.ms.append((now_ns - int(event[1])) / 1e6)
            at = event.end()
        self._tail = data[at:][-_LONGEST_EVENT:]


def run(plan: Plan) -> Told:
    """Do it; a fault stands in the answer."""
    until = time.monotonic() + plan.seconds
    ages = Ages()
    total = 0
    try:
        while (began := time.monotonic()) < until:
            total += _answer(plan, ages, until)
            if plan.events:
                break
            time.sleep(max(0.0, min(began + _AGAIN_S, until) - time.monotonic()))
    except (OSError, ValueError) as error:
        return Told(ages.ms, total, repr(error))
    return Told(ages.ms, total)


def _answer(plan: Plan, ages: Ages, until: float) -> int:
    """Read one answer until its end or the end of time; the bytes of its body."""
    host, colon, port = plan.place.rpartition(":")
    with socket.socket(socket.AF_INET if colon else socket.AF_UNIX) as sock:
        sock.settimeout(_CONNECT_S)
        sock.connect((host, int(port)) if colon else plan.place)
        sock.sendall(f"GET {plan.target} HTTP/{plan.version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += (piece := sock.recv(65536))
            if not piece:
                raise ValueError("no answer")
        head, _, data = data.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ValueError(head.split(b"\r\n")[0].decode("latin-1"))
        unchunked = Unchunked() if b"transfer-encoding: chunked" in head.lower() else None
        total = 0
        now_ns = time.monotonic_ns()
        while True:
            body = unchunked.take(data) if unchunked is not None else data
            total += len(body)
            if plan.events:
                ages.take(body, now_ns)
            left_s = until - time.monotonic()
            if left_s <= 0:
                return total
            if plan.slow:
                time.sleep(min(_SLOW_S, left_s))
            sock.settimeout(left_s)
            try:
                data = sock.recv(_SLOW_BYTES if plan.slow else 1 << 18)
            except TimeoutError:
                return total
            now_ns = time.monotonic_ns()
            if not data:
                return total


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.load(sys.stdin))))))
