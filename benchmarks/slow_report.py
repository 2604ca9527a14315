"""Figures of slow clients and of big bodies to Markdown: sections of docs/performance.md, each between markers.

Knows no processes; every number comes from the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CLIENTS = "slow clients"
HOSTILE = "slowhttptest"
BODIES = "big bodies"
GOAL_MS = 100.0
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Feeling:
    """What honest clients felt at one server amid slow ones, and what it cost; or the fault in its place."""

    server: str
    asked: int = 0
    answered_ms: tuple[float, ...] = ()  # sorted
    busy: float = 0.0  # share of a core
    memory_bytes: int = 0  # what the tree grew by, proportional set size
    begun: int = 0  # slow clients that were connected and had begun at the end
    reopened: int = 0  # those that were closed, and came again
    survived: bool = True  # every process of the server
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Siege:
    """One mode of slowhttptest, second by second; or the fault in its place."""

    title: str
    seconds: int = 0
    available: int = 0  # seconds in which an honest client was answered
    most_connected: int = 0
    closed: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """One big body that went through a worker."""

    what: str
    body_bytes: int
    seconds: float
    idle_bytes: int  # RSS of the worker before
    peak_bytes: int  # the most that was seen meanwhile


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def clients_table(conditions: Sequence[str], feelings: Sequence[Feeling], remarks: Sequence[str]) -> str:
    """The section about slow clients, without its markers."""
    rows = [
        "| server | answered | p50 ms | p99 ms | worst ms | CPU | memory | slow clients held | closed meanwhile |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_feeling(feeling) for feeling in feelings),
    ]
    lines = [f"- {sentence}" for sentence in conditions]
    lines += [
        f"- Goal: forkserve with room for all answers every honest request, the worst within {GOAL_MS:g} ms.",
        "- CPU: share of a core while the honest requests came. Memory: what the process tree grew by (PSS).",
    ]
    lines += [f"- {remark}" for remark in remarks]
    lines += [f"- {f.server}: a process ended meanwhile." for f in feelings if not f.survived]
    return "\n".join(lines) + "\n\n" + "\n".join(rows) + "\n"


def _feeling(feeling: Feeling) -> str:
    if feeling.fault:
        return f"| {feeling.server} | {feeling.fault} |" + f" {_NONE} |" * 7
    values = feeling.answered_ms
    times = [percentile(values, 0.5), percentile(values, 0.99), values[-1]] if values else []
    cells = [
        feeling.server,
        f"{len(values)} of {feeling.asked}",
        *([f"{ms:.1f}" for ms in times] or [_NONE] * 3),
        f"{feeling.busy:.0%}",
        f"{feeling.memory_bytes / 2**20:+.0f} MiB",
        str(feeling.begun),
        str(feeling.reopened),
    ]
    return f"| {' | '.join(cells)} |"


def sieges_table(conditions: Sequence[str], sieges: Sequence[Siege]) -> str:
    """The section about slowhttptest, without its markers."""
    rows = ["| mode | service available | most connections held | closed |", "| --- | ---: | ---: | ---: |"]
    for siege in sieges:
        verdict = siege.fault or f"{siege.available} of {siege.seconds} s"
        rows.append(f"| {siege.title} | {verdict} | {siege.most_connected} | {siege.closed} |")
    return "\n".join(f"- {sentence}" for sentence in conditions) + "\n\n" + "\n".join(rows) + "\n"


def bodies_table(conditions: Sequence[str], passages: Sequence[Passage]) -> str:
    """The section about big bodies, without its markers."""
    rows = [
        "| body | size | MiB/s | RSS of the worker, idle | most meanwhile | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for passage in passages:
        size, idle, peak = (n / 2**20 for n in (passage.body_bytes, passage.idle_bytes, passage.peak_bytes))
        rows.append(
            f"| {passage.what} | {size:.0f} MiB | {size / passage.seconds:.0f} | {idle:.1f} MiB | {peak:.1f} MiB |"
            f" {peak - idle:+.1f} MiB |"
        )
    return "\n".join(f"- {sentence}" for sentence in conditions) + "\n\n" + "\n".join(rows) + "\n"


def replace_section(page: str, name: str, text: str) -> str:
    """The page with what is between the markers of one section replaced; ValueError when it does not have them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin} followed by {end}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
