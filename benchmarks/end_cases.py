"""The table of benchmarks/ends.py as data: how responses end, by which protocols, at which servers.

To add an end, a protocol or a server: one row here. Knows no processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

WHOLE_BYTES = 8 << 20
_FIRST_BYTES = 3 << 20  # more than the kernel takes from who writes to a client that does not read
_GRACE_S = 1
SILENT_S = 1  # the send_timeout where silence is the end
TIMEOUT_S = 2
_LONG_S = 60
_SPOOL_BYTES = 64 << 10

WHOLE = b"".join(b"%015d\n" % number for number in range(WHOLE_BYTES // 16))  # every stump of it differs


class Act(Enum):
    """What is done to a server while responses are under way."""

    NOTHING = "nothing"
    SILENCE = "no client reads for longer than send_timeout, while the app goes on"
    WAIT = "wait until the workers have ended"
    TERM = "TERM to the master"
    INT = "INT to the master"
    HUP = "HUP to the master"
    KILL = "KILL to all workers"


class Group(Enum):
    """Addresses that one server serves at a time."""

    HTTP = "http"
    GATEWAYS = "gateways"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way of speaking to a server, and how the end of a body is known in it."""

    name: str
    family: str  # of the address: http, uwsgi, scgi, fastcgi
    version: str = ""  # of HTTP
    length: bool = False  # the app announces its Content-Length
    kept: bool = False  # the connection is: only nginx asks so, since it closes what a raw client would wait for


PROTOCOLS = (
    Protocol("HTTP/1.0", "http", "1.0"),
    Protocol("chunked", "http", "1.1"),
    Protocol("length", "http", "1.1", length=True),
    Protocol("uwsgi", "uwsgi"),
    Protocol("SCGI", "scgi"),
    Protocol("FastCGI", "fastcgi"),
    Protocol("FastCGI kept", "fastcgi", kept=True),
)
TRANSPORTS = ("tcp", "unix")


@dataclass(frozen=True, slots=True)
class Channel:
    """A protocol over a transport."""

    protocol: Protocol
    transport: str
    tls: bool = False

    @property
    def address(self) -> tuple[str, str]:
        """What tells the addresses of a server apart: those of HTTP share one."""
        return self.protocol.family, self.transport

    @property
    def name(self) -> str:
        """A word for paths."""
        return f"{self.protocol.name.replace('/', '-').replace(' ', '-')}-{self.transport}"


@dataclass(frozen=True, slots=True)
class End:
    """A row: one way for a response to end."""

    name: str
    title: str
    act: Act
    then: str = "gate"  # what the app does after its first part
    first: int = _FIRST_BYTES
    by: tuple[str, ...] = ()  # bodies that are made otherwise than by an iterable, also
    timeout_s: int = _LONG_S
    spool_bytes: int = 1 << 30

    @property
    def send_timeout_s(self) -> int:
        """How long a client may read nothing."""
        return SILENT_S if self.act is Act.SILENCE else _LONG_S


ENDS = (
    End("whole", "whole, nothing happens (the control)", Act.NOTHING, "whole", by=("write", "file")),
    End("raise", "the app raises amid the body", Act.NOTHING, "raise", by=("write",)),
    End("silent", "the client reads nothing for longer than `send_timeout`, then reads on", Act.SILENCE, first=4096,
        by=("write", "file")),
    End("spool", "the same while the app waits: `limit_response_spool` is reached", Act.SILENCE, first=4096,
        by=("write",), spool_bytes=_SPOOL_BYTES),
    End("overdue", "the request is overdue (`timeout`) amid the body", Act.WAIT, by=("write",), timeout_s=TIMEOUT_S),
    End("TERM", "TERM; the grace ends amid the body", Act.TERM, by=("write", "file")),
    End("INT", "INT (quick stop) amid the body", Act.INT),
    End("HUP", "HUP; the grace ends amid the body", Act.HUP, by=("file",)),
    End("KILL", "KILL to the worker amid the body", Act.KILL, by=("write", "file")),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A server; `command` follows its program or interpreter, `bind` is given for each address."""

    name: str
    package: str
    command: tuple[str, ...]
    bind: dict[str, tuple[str, ...]]  # by family; {place} is HOST:PORT or what `unix` says
    unix: str = "unix:{path}"
    families: tuple[str, ...] = ("http",)
    threads: tuple[int, ...] = (1,)
    ends: tuple[str, ...] = ()
    tls: bool = False
    note: str = ""

    @property
    def own(self) -> bool:
        """Whether this is forkserve."""
        return self.package == "forkserve"

    def workers(self, requests: int, threads: int) -> int:
        """So many that all requests run at once, and two are idle."""
        return 2 if self.name == "gunicorn-gthread" else -(-requests // threads) + 2

    def arguments(self, end: End, workers: int, threads: int, places: dict[tuple[str, str], str]) -> list[str]:
        """The command with its blanks filled in; `places` are the addresses."""
        words = [
            word.format(
                workers=workers, threads=threads, timeout=end.timeout_s, spool=end.spool_bytes, grace=_GRACE_S,
                send=end.send_timeout_s,
            )
            for word in self.command
        ]  # fmt: skip
        for (family, transport), place in places.items():
            shown = self.unix.format(path=place) if transport == "unix" else place
            words += [word.format(place=shown) for word in self.bind[family]]
        return words


_GUNICORN = (
    "-m", "gunicorn", "-w", "{workers}", "--no-control-socket", "--timeout", "{timeout}",
    "--graceful-timeout", "{grace}", "ended:app",
)  # fmt: skip

SUBJECTS = (
    Subject(
        "forkserve", "forkserve",
        ("-m", "forkserve", "-w", "{workers}", "--threads", "{threads}", "--timeout", "{timeout}",
         "--graceful-timeout", "{grace}", "--send-timeout", "{send}", "--limit-response-spool", "{spool}",
         "--reload-surge", "100%", "--control-socket", "", "ended:app"),
        {family: ("-b", family + "://{place}") for family in ("http", "uwsgi", "scgi", "fastcgi")},
        families=("http", "uwsgi", "scgi", "fastcgi"), threads=(1, 4), ends=tuple(end.name for end in ENDS), tls=True,
    ),
    Subject(
        "gunicorn-sync", "gunicorn", _GUNICORN, {"http": ("-b", "{place}")},
        ends=("whole", "raise", "overdue", "TERM", "INT", "KILL"), note="at a HUP old workers may finish",
    ),
    Subject(
        "gunicorn-gthread", "gunicorn", (*_GUNICORN, "--threads", "40"), {"http": ("-b", "{place}")},
        ends=("whole", "raise", "TERM", "INT", "KILL"),
        note="2 workers with 40 threads each; knows no overdue request; at a HUP old workers may finish",
    ),
    Subject(
        "uWSGI", "uwsgi",
        ("--master", "--processes", "{workers}", "--module", "ended:app", "--need-app", "--lazy-apps",
         "--disable-logging", "--die-on-term", "--harakiri", "{timeout}", "--worker-reload-mercy", "{grace}"),
        {"http": ("--http-socket", "{place}"), "uwsgi": ("--uwsgi-socket", "{place}")}, unix="{path}",
        families=("http", "uwsgi"), ends=("whole", "raise", "overdue", "TERM", "INT", "HUP", "KILL"),
        note="it never chunks by itself; TERM ends it at once (`--die-on-term`)",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """What one run of a server shows: an end, with so many threads, at all addresses of a group."""

    subject: Subject
    end: End
    threads: int
    group: Group

    @property
    def channels(self) -> list[Channel]:
        """By what the server is asked."""
        is_tls = self.group is Group.TLS
        is_http = self.group is not Group.GATEWAYS
        return [
            Channel(protocol, transport, is_tls)
            for protocol in PROTOCOLS
            for transport in TRANSPORTS
            if protocol.family in self.subject.families and (protocol.family == "http") is is_http
            and not (is_tls and transport == "unix")
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: by what channel, how the body is made, whether its client reads, whether nginx stands between."""

    channel: Channel
    by: str = "iter"
    reads: bool = True
    cached: bool = False

    @property
    def token(self) -> str:
        """Its name, and what the cache knows it by."""
        return f"{self.channel.name}_{self.by}_{'reads' if self.reads else 'waits'}{'_cached' if self.cached else ''}"


def batches(subject: Subject, ends: tuple[End, ...] = ENDS) -> Iterator[Batch]:
    """All runs of a server."""
    groups = [Group.HTTP]
    groups += [Group.GATEWAYS] if len(subject.families) > 1 else []
    groups += [Group.TLS] if subject.tls else []
    for end in ends:
        for group in groups:
            for threads in subject.threads:
                if end.name in subject.ends:
                    yield Batch(subject, end, threads, group)


def asked(batch: Batch) -> list[Asked]:
    """The requests of a run. Where silence is what happens, no client reads; a file ends unseen where one reads."""
    silent = batch.end.act is Act.SILENCE
    found = []
    for channel in batch.channels:
        found.append(Asked(channel, reads=not silent, cached=True))
        if channel.protocol.kept:
            continue
        if not silent:
            found.append(Asked(channel))
        found.append(Asked(channel, reads=False))
        found += [
            Asked(channel, by, reads=by != "file" and not silent)
            for by in batch.end.by if by != "file" or batch.subject.own
        ]  # fmt: skip
    return found
