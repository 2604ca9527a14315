"""Clients on a fixed schedule: each request is sent when it is due, whether or not earlier ones were answered.

So a server that stalls delays nobody's next question, and the stall is seen in full: latency counts from the due
moment. One thread, one epoll. A request has a connection of its own, or one of a few that are kept; a kept one that
the server has closed while it was idle is left, as real clients do. Nothing is ever asked again.
Knows nothing of processes and drills.
"""

import errno
import itertools
import math
import os
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.errors import InvalidRunError

KEPT = 6  # connections that take turns in the kept requests
TIMEOUT_S = 8.0  # a request is given up this long after it was due
_LONGEST_WAIT_S = 0.5  # so that the end of the block is seen


class Outcome(Enum):
    """How a request ended; everything but OK is a failure."""

    OK = "ok"
    WRONG = "wrong answer"
    RESET = "reset"
    EOF = "closed without an answer"
    REFUSED = "refused"
    TIMEOUT = "timed out"


class Ask(NamedTuple):
    """One request of a schedule."""

    due_s: float  # after the start of the load
    path: str = "/"
    kept: bool = False


@dataclass(slots=True)
class Entry:
    """What became of one request; moments are those of the monotonic clock."""

    due: float
    path: str
    kept: bool
    sent: float = 0.0  # 0: the connection did not come about
    ended: float = 0.0
    outcome: Outcome = Outcome.TIMEOUT
    body: bytes = b""
    caught: bool = False  # it was inside a worker when a drill killed that worker: nobody could have saved it

    @property
    def latency_s(self) -> float:
        """From the moment at which it was due, not that at which it was sent."""
        return self.ended - self.due

    @property
    def failed(self) -> bool:
        """Whether a user would have seen an error."""
        return self.outcome is not Outcome.OK


def steady(rate: int, kept_every: int = 3) -> Iterator[Ask]:
    """So many requests a second, for ever; each n-th on a kept connection."""
    for number in itertools.count():
        yield Ask(number / rate, kept=number % kept_every == kept_every - 1)


@dataclass(slots=True, eq=False)
class _Exchange:
    sock: socket.socket
    entry: Entry
    received: bytes = b""


class Load:
    """``with Load(port, schedule, good) as load``: asks until the schedule or the block ends, and waits for answers.

    An answer is OK if its status is 200 and its body begins with ``good``. ``entries`` holds the requests that have
    ended, in the order of their ends; it is complete after the block.
    """

    def __init__(
        self, port: int, schedule: Iterable[Ask], good: bytes, *, timeout_s: float = TIMEOUT_S, kept: int = KEPT
    ) -> None:
        self.entries: list[Entry] = []
        self.lateness_s = 0.0  # the most that this client itself was behind its schedule
        self._port = port
        self._schedule = iter(schedule)
        self._good = good
        self._timeout_s = timeout_s
        self._kept = kept
        self._over = threading.Event()
        self._epoll = select.epoll()
        self._open: dict[int, _Exchange] = {}  # by descriptor; in the order of their dues, so also of their ends
        self._idle: deque[socket.socket] = deque()
        self._fault = "its thread has ended early"
        self._thread = threading.Thread(target=self._run, name="open loop")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self.finish()

    def finish(self) -> None:
        """Wait for the end of a schedule that has one; InvalidRunError when the client itself could not go on."""
        self._thread.join()
        if self._fault:
            raise InvalidRunError(f"the client failed: {self._fault}")

    def _run(self) -> None:
        try:
            self._keep_asking()
            self._fault = ""
        except OSError as error:  # a fault of this machine, not of the server
            self._fault = str(error)
        finally:
            for sock in (*self._idle, *(exchange.sock for exchange in self._open.values())):
                sock.close()
            self._epoll.close()

    def _keep_asking(self) -> None:
        began = time.monotonic()
        ask = next(self._schedule, None)
        while True:
            now = time.monotonic()
            while ask is not None and now >= began + ask.due_s and not self._over.is_set():
                self.lateness_s = max(self.lateness_s, now - began - ask.due_s)
                self._begin(Entry(began + ask.due_s, ask.path, ask.kept))
                ask = next(self._schedule, None)
            if self._over.is_set():
                ask = None
            self._give_up(now)
            if ask is None and not self._open:
                break
            moment = self._deadline() if ask is None else min(self._deadline(), began + ask.due_s)
            for fd, _ in self._epoll.poll(max(0.0, min(moment - time.monotonic(), _LONGEST_WAIT_S))):
                self._move(self._open[fd])

    def _begin(self, entry: Entry) -> None:
        exchange = _Exchange(self._take_idle() if entry.kept else _socket(), entry)
        self._open[exchange.sock.fileno()] = exchange
        self._epoll.register(exchange.sock, select.EPOLLOUT)
        number = exchange.sock.connect_ex(("127.0.0.1", self._port))
        if number not in (0, errno.EINPROGRESS, errno.EISCONN):
            self._fail(exchange, OSError(number, os.strerror(number)))

    def _take_idle(self) -> socket.socket:
        """The kept connection that was idle longest, if there are enough of them; else a new one."""
        taken = sum(exchange.entry.kept for exchange in self._open.values())
        while self._idle and len(self._idle) + taken >= self._kept:
            sock = self._idle.popleft()
            if _is_open(sock):
                return sock
            sock.close()
        return _socket()

    def _give_up(self, now: float) -> None:
        while self._deadline() <= now:
            self._end(next(iter(self._open.values())), Outcome.TIMEOUT)

    def _deadline(self) -> float:
        """When the request that was due first is given up."""
        return next((exchange.entry.due + self._timeout_s for exchange in self._open.values()), math.inf)

    def _move(self, exchange: _Exchange) -> None:
        """Do what the socket is ready for."""
        try:
            if not exchange.entry.sent:
                if number := exchange.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(number, os.strerror(number))
                self._send(exchange)
            elif piece := exchange.sock.recv(65536):
                exchange.received += piece
                self._read(exchange, ended=False)
            else:
                self._read(exchange, ended=True)
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(exchange, error)

    def _send(self, exchange: _Exchange) -> None:
        ending = "" if exchange.entry.kept else "Connection: close\r\n"
        exchange.entry.sent = time.monotonic()
        exchange.sock.sendall(f"GET {exchange.entry.path} HTTP/1.1\r\nHost: drill\r\n{ending}\r\n".encode())
        self._epoll.modify(exchange.sock, select.EPOLLIN)

    def _read(self, exchange: _Exchange, ended: bool) -> None:
        """See whether the answer is whole: by its length, or by the end of the connection if it has none."""
        head, blank, body = exchange.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not blank or (len(body) < int(length[1]) if length else not ended):
            if ended:
                self._end(exchange, Outcome.EOF)
            return
        exchange.entry.body = body
        good = re.match(rb"HTTP/1\.[01] 200 ", head) and body.startswith(self._good)
        stays = exchange.entry.kept and not re.search(rb"(?i)\r\nconnection: *close", head) and not ended
        self._end(exchange, Outcome.OK if good else Outcome.WRONG, keep=stays)

    def _fail(self, exchange: _Exchange, error: OSError) -> None:
        match error.errno:
            case errno.ECONNREFUSED:
                self._end(exchange, Outcome.REFUSED)
            case errno.ECONNRESET | errno.EPIPE:
                self._end(exchange, Outcome.RESET)
            case errno.ETIMEDOUT:
                self._end(exchange, Outcome.TIMEOUT)
            case _:
                raise error

    def _end(self, exchange: _Exchange, outcome: Outcome, keep: bool = False) -> None:
        exchange.entry.outcome = outcome
        exchange.entry.ended = time.monotonic()
        self.entries.append(exchange.entry)
        del self._open[exchange.sock.fileno()]
        self._epoll.unregister(exchange.sock)
        if keep:
            self._idle.append(exchange.sock)
        else:
            exchange.sock.close()


def _socket() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _is_open(sock: socket.socket) -> bool:
    """Whether the server has not closed this idle connection, as far as this end can know."""
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
