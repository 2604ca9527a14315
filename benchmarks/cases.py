"""What is measured, as one table; every case gives one figure per server and round, and smaller is better.

To add a case: one row here, its app in apps/, and a wrk script where a plain GET is not enough. A goal is a row too;
so is a series, cases that differ in one number and are shown together as a curve.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How the figure of a case comes about; measure.py and idle.py have one function for each."""

    CPU = "CPU microseconds per request"
    START = "milliseconds until the first answer"
    MEMORY = "PSS in MiB"
    IDLE = "CPU microseconds per second without requests"
    HELD = "KiB of PSS per idle connection"
    HELD_CPU = "CPU microseconds per second with idle connections"


class More(Enum):
    """What a case asks of a server beyond serving; servers.py has the arguments for it."""

    NOTHING = "nothing"
    LOG = "an access log, where it has one"
    HOLDING = "many idle connections"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured of every server."""

    name: str  # for --only-cases and the JSON file
    title: str
    kind: Kind
    app: str = "small:app"  # in benchmarks/apps
    path: str = "/"
    workers: int = 1
    headers: tuple[str, ...] = ()  # "Name: value", beside the Host that wrk sends by itself
    script: str = ""  # a wrk script in benchmarks/, where a GET is not enough
    beside: tuple[str, ...] = ("bjoern", "gunicorn-sync", "forkserve")  # whose multiples the table shows
    more: More = More.NOTHING
    only: tuple[str, ...] = ()  # the servers that it is measured of; empty: all that can
    rounds: int = 0  # at most so many, since it takes long and varies little; 0: as many as asked for
    quick: bool = True  # whether --quick includes it


@dataclass(frozen=True, slots=True)
class Series:
    """Cases that differ in one number, shown as one table and one curve per server."""

    name: str  # of the plot
    title: str
    axis: str  # what the number counts
    points: tuple[tuple[int, str], ...]  # the number and the case


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise: forkserve's figure is at most `factor` times the best of the peers' in the same run."""

    case: str
    peers: tuple[str, ...]
    factor: float
    limit: float | None = None  # or, whatever the peers need, at most this
    of_case: str = ""  # of the peers, where it is another


# With the Host that wrk adds these are the twelve that a current desktop browser sends for a page of a site it knows.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.8,de;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: http://localhost/index.html",
    "Connection: keep-alive",
    "Cookie: session=2b9f51c07be04f6d9d5c3a1e8f7a6b50; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
)

_BESIDE_MASTERS = ("gunicorn-sync", "forkserve")
_MANY_HEADERS = (32, 64)
_MANY_WORKERS = (4, 32)
_BRANCHING = ("forkserve", "gunicorn-sync", "gunicorn-gthread", "granian")


def _with_headers(count: int) -> Case:
    # Varied: a server that knows a head again would be measured by its memory.
    fields = tuple(f"X-Field-{number}: the value of field {number:02}" for number in range(2, count))
    title = f"Small page, {count} headers, one and the query string another each time"
    return Case(f"headers-{count}", title, Kind.CPU, headers=fields, script="varied.lua", rounds=3, quick=count == 32)


def _with_workers(count: int) -> Case:
    title = f"Small page, {count} workers on one core"
    return Case(f"workers-{count}", title, Kind.CPU, workers=count, only=_BRANCHING, rounds=3, quick=count == 4)


def _memory(count: int) -> Case:
    return Case(
        "memory" if count == 4 else f"memory-{count}",
        f"Memory of the process tree with {count} worker{'s' if count > 1 else ''}",
        Kind.MEMORY,
        app="small:pid",
        workers=count,
        beside=_BESIDE_MASTERS,
        rounds=5 if count == 4 else 3,
    )


CASES = (
    Case("small", "Small page, wrk's own headers, keep-alive", Kind.CPU),
    Case("browser", "Small page, a browser's twelve headers, keep-alive", Kind.CPU, headers=BROWSER),
    Case("start", "From the start of the command to the first answer", Kind.START, beside=_BESIDE_MASTERS),
    Case("varied", "Small page, another query string and header each time", Kind.CPU, script="varied.lua"),
    Case(
        "browser-varied",
        "A browser's headers, another query string and one header each time",
        Kind.CPU,
        headers=BROWSER,
        script="varied.lua",
    ),
    Case("close", "Small page, Connection: close", Kind.CPU, headers=("Connection: close",)),
    Case("post", "POST of 64 KiB, read by the app", Kind.CPU, app="pages:post", script="post.lua"),
    Case("big", "Response of 1 MiB from memory", Kind.CPU, app="pages:big"),
    Case("file", "File of 1 MiB, wsgi.file_wrapper where offered", Kind.CPU, app="pages:file"),
    Case("stream", "Stream of 100 chunks of 1 KiB", Kind.CPU, app="pages:stream"),
    Case("flask", "Flask page", Kind.CPU, app="flask_page:app", path="/hello/world?n=10"),
    Case("log", "Small page, access log on (bjoern and waitress have none)", Kind.CPU, more=More.LOG),
    *(_with_headers(count) for count in _MANY_HEADERS),
    *(_with_workers(count) for count in _MANY_WORKERS),
    *(_memory(count) for count in (1, 4, 32)),
    Case("idle-32", "32 idle workers", Kind.IDLE, workers=32, beside=_BESIDE_MASTERS, rounds=3),
    Case(
        "idle-256",
        "256 idle workers",
        Kind.IDLE,
        workers=256,
        beside=_BESIDE_MASTERS,
        only=("forkserve", "gunicorn-sync"),
        rounds=1,
        quick=False,
    ),
    Case("held", "Idle keep-alive connections: memory of each", Kind.HELD, more=More.HOLDING, rounds=3),
    Case(
        "held-cpu", "Idle keep-alive connections: CPU of all", Kind.HELD_CPU, more=More.HOLDING, rounds=3
    ),
)  # fmt: skip

SERIES = (
    Series("headers", "Cost of a request by its header fields", "header fields",
           ((2, "varied"), *((count, f"headers-{count}") for count in _MANY_HEADERS))),
    Series("workers", "Cost of a request by the number of workers, all on one core", "workers",
           ((1, "small"), *((count, f"workers-{count}") for count in _MANY_WORKERS))),
    Series("memory", "Memory by the number of workers", "workers",
           ((1, "memory-1"), (4, "memory"), (32, "memory-32"))),
)  # fmt: skip

_OTHERS = ("granian", "waitress", "gunicorn-gthread", "gunicorn-sync")

GOALS = (
    Goal("small", ("bjoern",), 1.15),
    Goal("small", ("granian",), 0.75),
    Goal("small", ("gunicorn-sync",), 1 / 12),
    Goal("browser", ("bjoern",), 1.15),
    Goal("browser", ("granian",), 0.85),
    Goal("log", ("bjoern",), 1.35, of_case="small"),
    Goal("close", ("bjoern",), 1.2),
    Goal("post", _OTHERS, 1.0),
    Goal("big", _OTHERS, 1.0),
    Goal("file", _OTHERS, 1.0),
    Goal("stream", _OTHERS, 1.0),
    Goal("start", ("gunicorn-sync",), 0.8, limit=120.0),
    Goal("memory", ("gunicorn-sync",), 0.9),
    Goal("idle-32", ("gunicorn-sync",), 1.0),
)
