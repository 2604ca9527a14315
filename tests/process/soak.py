"""What the soak of test_whole_or_cut.py is made of: clients that know what they must get, and who disturbs the service.

Each client's questions follow from the seed alone, so that a run can be repeated; what the clock does to them does not.
"""

import os
import random
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

from tests.harness import Server
from tests.process.gateway_clients import variables
from tests.process.known_site import KINDS, STATIC_SIZES, Wanted, digest_of
from tests.process.wires import Came, Pace, Verdict, Wire, dial, how_it_ended
from tests.unit.gateways import fastcgi_request, request_for

BIND = [
    f"{protocol}://{place}"
    for protocol in ("http", "uwsgi", "scgi", "fastcgi")
    for place in ("127.0.0.1:0", f"unix:{protocol}.sock")
]
FRONTS = ("http/1.0", "http/1.1 closed", "http/1.1 kept", "pipelined", "uwsgi", "scgi", "fastcgi", "fastcgi kept")
_PIPELINED = 4
_SIZES = (0, 1, 2000, 2000, 70_000, 70_000, 700_000, 700_000, 4_000_000)
_LARGE = (6_000_000,) * 4  # more of these where they have too little room to wait in
_TOO_LONG_AGO_S = 1.5  # a kept connection that nobody used for so long is not used again
_BY_NATURE = ("end", "reset", "no close_notify", "alert")  # how a connection may end


@dataclass(frozen=True, slots=True)
class Mode:
    """How the server is run, and what it lacks: nothing, room on the "disk", or "descriptors"."""

    threads: int = 1
    relay: bool = True
    stream: bool = False
    tls: bool = False
    lacks: str = ""

    def __str__(self) -> str:
        words = [f"{self.threads} threads", *(name for name in ("relay", "stream", "tls") if getattr(self, name))]
        return ", ".join([*words, *([f"lacks {self.lacks}"] if self.lacks else [])])


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, and what is asked for."""

    front: str
    place: str  # "tcp" or "unix"
    wanted: Wanted
    is_head: bool
    body: bytes

    @property
    def protocol(self) -> str:
        name = self.front.partition(" ")[0].partition("/")[0]
        return "http" if name == "pipelined" else name

    @property
    def is_kept(self) -> bool:
        return self.front in ("http/1.1 kept", "pipelined", "fastcgi kept")

    def spell(self) -> bytes:
        """The bytes of the request."""
        method = "HEAD" if self.is_head else "POST" if self.body else "GET"
        if self.protocol == "http":
            version = "1.0" if self.front == "http/1.0" else "1.1"
            head = [f"{method} {self.wanted.target} HTTP/{version}", "Host: x"]
            head += [f"Content-Length: {len(self.body)}"] if self.body else []
            head += ["Connection: close"] if self.front == "http/1.1 closed" else []
            return "\r\n".join([*head, "", ""]).encode() + self.body
        said = variables(self.wanted.target, method, len(self.body))
        if self.front == "fastcgi kept":
            return fastcgi_request(said, self.body, keep=True)
        return request_for(self.protocol, said, self.body)


@dataclass(slots=True)
class Record:
    """What all clients of one server have seen; ``kills``: when which worker was killed."""

    mode: Mode
    seed: str
    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    kills: list[tuple[float, int]] = field(default_factory=list)

    def judge(self, ask: Ask, came: Came, wire: Wire, who: str) -> None:
        """Count one answer, and complain where it is not what it must be."""
        fault = self._fault(ask, came, wire)
        self.outcomes[f"{ask.front}: {came.verdict.value}"] += 1
        if fault:
            method = "HEAD" if ask.is_head else "GET"
            self.complaints.append(
                f"{fault}: {ask.front} over {ask.place} ({self.mode}): {method} {ask.wanted}, "
                f"body {len(ask.body)}; came {came.verdict.value}, status {came.status}, {len(came.body)} bytes, "
                f"end {came.end!r}, {came.fields}; pace {wire.pace}; {who} of seed {self.seed}"
            )

    def _fault(self, ask: Ask, came: Came, wire: Wire) -> str:
        wanted = ask.wanted
        body = b"" if ask.is_head else wanted.body
        if came.end and came.end not in _BY_NATURE:
            return "the connection ended strangely"
        if came.status and came.status != wanted.status:
            lacks_file = self.mode.lacks == "descriptors" and wanted.kind in ("wrapped", "static")
            if not (lacks_file and came.status in (500, 503) and came.verdict is Verdict.WHOLE):
                return f"the status is {came.status} in place of {wanted.status}"
            return ""
        if came.status and wanted.kind != "static" and came.fields.get("x-token", wanted.token) != wanted.token:
            return "this is the answer to something else"
        if not body.startswith(came.body):
            return f"wrong from byte {_first_difference(body, came.body)} on"
        if came.verdict is Verdict.WHOLE:
            if len(came.body) != len(body):
                return f"it looks whole and {len(body) - len(came.body)} bytes are missing"
            if wanted.kind != "static" and came.fields.get("x-body") != digest_of(ask.body):
                return "the app had another body"
        elif came.verdict is not Verdict.LEFT and not self._is_excused(ask, came, wire):
            return "it was cut though no worker was killed"
        return ""

    def _is_excused(self, ask: Ask, came: Came, wire: Wire) -> bool:
        """Whether who answered was killed; or, where nothing says who, anybody at all."""
        # FastCGI has no word for "this was the last one": web servers ask again. And where descriptors are few, an idle
        # connection may have to make room for another one.
        may_be_closed = ask.front == "fastcgi kept" or self.mode.lacks == "descriptors"
        if may_be_closed and came.verdict is Verdict.NOTHING and wire.answers:
            return True
        pid = int(came.fields.get("x-pid", "0"))
        return any(killed == pid if pid else moment >= wire.alive_at for moment, killed in self.kills)


def _first_difference(one: bytes, other: bytes | bytearray) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Client(threading.Thread):
    """Asks ``count`` times, in every way; ``places`` says where each protocol is spoken."""

    def __init__(
        self, number: int, count: int, record: Record, places: dict[str, str | tuple[str, int]],
        tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        super().__init__(name=f"client {number}")
        self._random = random.Random(f"{record.seed} {record.mode} {number}")
        self._count = count
        self._record = record
        self._places = places
        self._tls = tls
        self._kept: dict[str, Wire] = {}
        self._asked = 0

    def run(self) -> None:
        try:
            while self._asked < self._count:
                self._turn()
        except BaseException as error:
            self._record.complaints.append(f"{self.name} failed at question {self._asked}: {error!r}")
        finally:
            for wire in self._kept.values():
                wire.close()

    def _turn(self) -> None:
        front, place = self._random.choice(FRONTS), self._random.choice(("tcp", "tcp", "unix"))
        asks = [self._ask(front, place) for _ in range(_PIPELINED if front == "pipelined" else 1)]
        pace = self._pace(asks[0])
        wire = self._wire(asks[0], pace)
        who = f"{self.name}, question {self._asked}"
        self._asked += len(asks)
        wire.send(b"".join(ask.spell() for ask in asks))
        for ask in asks:
            try:
                came = wire.read(ask.protocol, is_head=ask.is_head)
            except (AssertionError, ValueError) as error:
                came = Came(Verdict.NOTHING, f"no answer at all: {error}")
            except TimeoutError:
                came = Came(Verdict.NOTHING, "nothing more came for long")
            self._record.judge(ask, came, wire, who)
            if came.verdict is not Verdict.WHOLE or came.fields.get("connection") == "close" or not ask.is_kept:
                self._kept.pop(f"{front} {place}", None)
                wire.close()
                return  # what was pipelined behind it is not answered: RFC 9112 section 9.6

    def _wire(self, ask: Ask, pace: Pace) -> Wire:
        """The connection that was kept, or a new one; a slow one has a small window."""
        name = f"{ask.front} {ask.place}"
        wire = self._kept.pop(name, None)
        if wire is not None and (time.monotonic() - wire.alive_at > _TOO_LONG_AGO_S or pace.slow_s):
            wire.close()
            wire = None
        if wire is None:
            tls = self._tls if ask.protocol == "http" else None
            window = 4096 if pace.slow_s else 0
            began = time.monotonic()
            try:
                wire = Wire(dial(self._places[f"{ask.protocol} {ask.place}"], window=window, tls=tls))
            except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError) as error:  # amid the handshake
                wire = Wire.that_ended(how_it_ended(error))
            wire.alive_at = began
        wire.pace = pace
        if ask.is_kept:
            self._kept[name] = wire
        return wire

    def _ask(self, front: str, place: str) -> Ask:
        chance = self._random
        kind = chance.choice(KINDS)
        most = chance.choice(_SIZES + (_LARGE if self._record.mode.lacks else ()))
        piece = chance.randrange(65_536, 1 << 20)
        if kind in ("small", "mixed"):
            most = min(most, 300_000)
            piece = chance.choice((5, 50, 1000)) if most <= 2000 else chance.choice((50, 1000, 9000))
        size = chance.randint(most // 2, most)
        if kind == "static":
            size = chance.choice(STATIC_SIZES)
        wanted = Wanted(
            kind, f"t{chance.getrandbits(40):x}", size, piece, chance.random() < 0.4,
            chance.choice((0, 0, 0, 2, 5)),
        )  # fmt: skip
        has_body = kind != "static" and chance.random() < 0.15
        most = chance.choice((10, 3000, 100_000) if self._record.mode.lacks else (10, 3000, 100_000, 700_000))
        body = chance.randbytes(most) if has_body else b""
        return Ask(front, place, wanted, not body and chance.random() < 0.08, body)

    def _pace(self, ask: Ask) -> Pace:
        chance = self._random
        manner = chance.choice(("fast", "fast", "fast", "slow", "slow", "leaves"))
        if manner == "slow" or (self._record.mode.lacks and ask.wanted.size > 2_000_000):
            return Pace(chance.uniform(0.2, 0.8), chance.choice((0.01, 0.05, 0.3)), chance.choice((1000, 9000, 65_536)))
        if manner == "leaves":
            return Pace(leaves_after=chance.randint(0, ask.wanted.size + 300))
        return Pace()


class Disturber:
    """Reloads, upgrades, ends and kills workers while ``with`` lasts; ``peak``: the most memory that a worker had."""

    def __init__(self, server: Server, record: Record, watch: Callable[[], object] = lambda: None) -> None:
        self._server = server
        self._record = record
        self._random = random.Random(f"{record.seed} {record.mode} disturber")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._disturb, name="disturber")
        self.peak = 0
        self.done: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _disturb(self) -> None:
        acts = ["HUP", "KILL", "KILL", "TERM", "USR2"]
        next_at = time.monotonic()
        while not self._over.wait(0.05):
            self._measure()
            if time.monotonic() < next_at:
                continue
            next_at = time.monotonic() + self._random.uniform(0.3, 0.7)
            act = self._random.choice(acts)
            self.done[act] += 1
            if act in ("HUP", "USR2"):
                self._server.signal(getattr(signal, f"SIG{act}"))
            else:
                self._end_one(act)

    def _end_one(self, act: str) -> None:
        """End a worker; after a KILL a HUP, since those that are killed young make the master pause."""
        workers = self._server.workers()
        if not workers:
            return
        pid = self._random.choice(workers)
        if act == "KILL":
            self._record.kills.append((time.monotonic(), pid))
        try:
            os.kill(pid, signal.SIGKILL if act == "KILL" else signal.SIGTERM)
        except ProcessLookupError:
            return
        if act == "KILL":
            self._server.signal(signal.SIGHUP)

    def _measure(self) -> None:
        for pid in self._server.workers():
            try:
                self.peak = max(self.peak, psutil.Process(pid).memory_info().rss)
            except psutil.Error:
                pass
