"""What is measured, as one table; every case gives one figure per server and round, and smaller is better.

To add a case: one row here, its app in apps/, and a wrk script where a plain GET is not enough. A goal is a row too.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How the figure of a case comes about; measure.py has one function for each."""

    CPU = "CPU microseconds per request"
    START = "milliseconds until the first answer"
    MEMORY = "PSS in MiB"


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


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise: forkserve's figure of a case is at most `factor` times a peer's in the same run."""

    case: str
    peer: str
    factor: float


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

CASES = (
    Case("small", "Small page, wrk's own headers, keep-alive", Kind.CPU),
    Case("browser", "Small page, a browser's twelve headers, keep-alive", Kind.CPU, headers=BROWSER),
    Case(
        "start", "From the start of the command to the first answer", Kind.START, beside=("gunicorn-sync", "forkserve")
    ),
    Case(
        "memory",
        "Memory of the process tree with 4 workers",
        Kind.MEMORY,
        app="small:pid",
        workers=4,
        beside=("gunicorn-sync", "forkserve"),
    ),
)

GOALS = (
    Goal("small", "bjoern", 1.5),
    Goal("small", "gunicorn-sync", 1 / 8),
    Goal("start", "gunicorn-sync", 1.0),
    Goal("memory", "gunicorn-sync", 1.0),
)
