"""Many connections on the move at once: no byte is lost, nothing is answered twice, no descriptor leaks.

FORKSERVE_FULL=1 asks for much more of the same.
"""

import hashlib
import os
import random
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil

from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.crowd import descriptors, houses, serve, told
from tests.process.tools import Gate

FULL = "FORKSERVE_FULL" in os.environ
REQUESTS = 60_000 if FULL else 4000  # of all clients together
CLIENTS = 12
RELAYS = 100_000 if FULL else 3000
CROWD = 100

# The token of each request is written down before it is answered: a line by one write, so that none is torn.
APP = """
import hashlib, os, time

written = os.open("tokens", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def app(environ, start_response):
    token = environ["QUERY_STRING"].encode()
    body = environ["wsgi.input"].read()
    os.write(written, token + b"\\n")
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid()))])
    return [b" ".join((token, environ["REMOTE_PORT"].encode(), hashlib.md5(body).hexdigest().encode()))]
"""


class _Stormy(threading.Thread):
    """One client on one connection, which nobody may end: bursts of requests, cut anywhere, sent with pauses."""

    def __init__(self, s: Server, seed: int, count: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._client = Client(s)
        self._count = count
        self._name = f"c{seed}"
        self.tokens: list[str] = []
        self.pids: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._client:
                while len(self.tokens) < self._count:
                    self._burst()
        except BaseException as error:
            self.failure = error

    def _burst(self) -> None:
        asked = [self._request() for _ in range(self._random.choice((1, 1, 1, 2, 5, 9)))]
        self._send(b"".join(raw for raw, _ in asked))
        for _, answer in asked:
            reply = self._client.reply()
            assert (reply.code, reply.body.decode(), reply.values("Connection")) == (200, answer, [])
            self.pids += reply.values("X-Pid")

    def _request(self) -> tuple[bytes, str]:
        """The bytes of one request, and the answer that it must have."""
        token = f"{self._name}.{len(self.tokens)}"
        self.tokens.append(token)
        path = "/slow" if self._random.random() < 0.03 else "/"
        body = self._random.randbytes(self._random.choice((0, 0, 0, 1, 3000, 70_000)))
        head = [f"{'POST' if body else 'GET'} {path}?{token} HTTP/1.1", "Host: x"]
        head += [f"X-Filling: {'y' * self._random.randrange(200)}"] * self._random.randrange(4)
        head += [f"Content-Length: {len(body)}"] if body else []
        port = self._client.sock.getsockname()[1]
        return "\r\n".join([*head, "", ""]).encode() + body, f"{token} {port} {hashlib.md5(body).hexdigest()}"

    def _send(self, raw: bytes) -> None:
        cuts = sorted(self._random.randrange(len(raw)) for _ in range(self._random.choice((0, 0, 1, 3))))
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            self._client.send(raw[start:end])
            if end < len(raw):
                time.sleep(self._random.choice((0, 0.001, 0.03)))  # this client is slow


def test_promise_14_no_byte_is_lost_and_nothing_is_answered_twice_while_connections_move_and_workers_leave() -> None:
    s = Server(app="storm_app:app", workers=3, keepalive=60, header_timeout=60, reload_settle=0)
    s.write_app(APP, "storm_app")
    with s:
        storm = [_Stormy(s, seed, REQUESTS // CLIENTS) for seed in range(CLIENTS)]
        for client in storm:
            client.start()
        reloads = 0
        while any(client.is_alive() for client in storm):
            s.signal(signal.SIGHUP)
            reloads += 1
            s.wait_line("reload done", count=reloads)
            old = s.workers()
            wait_until(lambda: len(s.workers()) == 3, "three workers")
            os.kill(old[0], signal.SIGTERM)
            storm[0].join(0.3)
        for client in storm:
            client.join()
        assert [client.failure for client in storm if client.failure] == []
        written = Counter((s.folder / "tokens").read_text().split())
        assert written == Counter(token for client in storm for token in client.tokens)
        moves = sum(len(set(pair)) - 1 for client in storm for pair in zip(client.pids, client.pids[1:], strict=False))
        assert moves >= REQUESTS / 50, "they did move"
        assert reloads >= 2


def _held(pids: list[int]) -> list[int]:
    return [descriptors(pid) for pid in pids]


def test_promise_14_relays_leak_no_descriptor() -> None:
    with serve(workers=2, timeout=0) as s, houses(s, 2, each=CROWD) as house:
        moving = [client for clients in house.values() for client in clients[1:]]
        places = [(pid, clients[0]) for pid, clients in house.items()]
        pids = [s.pid, *house]
        moved = turn = 0
        first: list[int] = []
        before = {pid: psutil.Process(pid).memory_info().rss for pid in pids}
        while moved < RELAYS:
            (pid, stays), (other, _) = places[turn % 2], places[(turn + 1) % 2]
            turn += 1
            with Gate(s, f"gate{turn}") as gate:
                stays.get(gate.path)
                gate.wait_entered()
                for client in moving:
                    client.get("/")
                assert {told(client)["pid"] for client in moving} == {other}
            assert told(stays)["pid"] == pid
            Path(gate.path.partition("?")[2]).unlink()
            moved += len(moving) if turn > 1 else CROWD - 1
            if turn == 2:
                first = _held(pids)
            elif turn % 2 == 0:
                wait_until(partial(_is, first, pids), f"{first} again; found {_held(pids)}")
        assert first[1] + first[2] >= len(moving)
        grown = {pid: psutil.Process(pid).memory_info().rss - before[pid] for pid in pids}
        assert max(grown.values()) < 20 << 20, grown  # 100,000 connections would take ten times that


def _is(first: list[int], pids: list[int]) -> bool:
    return _held(pids) == first
