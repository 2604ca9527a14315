"""Figures to Markdown: the tables of docs/performance.md. Knows no processes; every number comes from the figures."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cases import SERIES, Case, Goal, Kind, Series
from benchmarks.measure import Figure
from benchmarks.servers import Server

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"
_NONE = "–"
_UNITS = {
    Kind.CPU: "CPU microseconds per request, user and system, of the whole process tree",
    Kind.START: "Milliseconds, by the wall clock",
    Kind.MEMORY: "MiB, proportional set size (PSS) of the whole process tree, after every worker has answered",
    Kind.IDLE: "CPU microseconds per second of the whole process tree, which nobody asks for anything",
    Kind.HELD: "KiB that each connection adds to the PSS of the process tree",
    Kind.HELD_CPU: "CPU microseconds per second of the process tree while the connections wait",
}
_GOAL_UNITS = {Kind.START: "ms", Kind.MEMORY: "MiB"}
_MET, _MISSED, _UNKNOWN = "met", "not met", "not measured"
_DISTURBED = 0.8  # a server under this load that uses less of its core was kept from it, or from wrk, by others
_DIGITS = {Kind.CPU: 1, Kind.START: 0, Kind.MEMORY: 1, Kind.IDLE: 0, Kind.HELD: 1, Kind.HELD_CPU: 0}
_IN_SERIES = {name for series in SERIES for _, name in series.points[1:]}  # they have no table of their own


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run: what was measured where, and the figures."""

    conditions: tuple[str, ...]  # sentences: the machine, the versions, the command
    rounds: int
    cases: tuple[Case, ...]
    versions: dict[Server, str]  # in the order of the tables
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...] = ()  # what was left out or is unlike the rest, and why

    def values(self, case: str, server: str) -> list[float]:
        """The valid values of one cell, in the order of the rounds."""
        return [f.value for f in self.figures if (f.case, f.server) == (case, server) and f.value is not None]

    def median(self, case: str, server: str) -> float | None:
        """The median of the valid values of one cell, if there are any."""
        values = self.values(case, server)
        return statistics.median(values) if values else None

    def busy(self, case: str, server: str) -> list[float]:
        """The share of a core that a server used in each valid round of a case."""
        return [f.busy for f in self.figures if (f.case, f.server) == (case, server) and f.value is not None]

    def ratio(self, case: str, server: str, other: str) -> float | None:
        """How many times the other's median a server's median is."""
        mine, its = self.median(case, server), self.median(case, other)
        return mine / its if mine is not None and its else None


def markdown(results: Results, goals: Sequence[Goal], charts: Mapping[str, str] | None = None) -> str:
    """The whole report, without the markers; `charts` are the titles of the plots by name."""
    parts = ["\n".join(f"- {sentence}" for sentence in results.conditions), _goals(results, goals)]
    parts += [_images(charts or {}), _summary(results)]
    parts += [_series(results, series) for series in SERIES]
    parts += [_case(results, case) for case in results.cases if case.name not in _IN_SERIES]
    parts += [_servers(results), _remarks(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def replace_between_markers(page: str, report: str, name: str = "figures") -> str:
    """The page with what is between its two markers of this name replaced; ValueError when it does not have them."""
    opening, closing = BEGIN.replace("figures", name), END.replace("figures", name)
    head, begin, rest = page.partition(opening)
    _, end, tail = rest.partition(closing)
    if not begin or not end:
        raise ValueError(f"the page has no {opening} followed by {closing}")
    return f"{head}{opening}\n\n{report}\n{closing}{tail}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A Markdown table whose columns from `numbers_from` on are aligned to the right."""
    rule = ["---:" if column >= numbers_from else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


_table = table  # the name by which drill_report.py and probes.py know it


def _goals(results: Results, goals: Sequence[Goal]) -> str:
    cases = {case.name: case for case in results.cases}
    rows = [_goal(results, goal, cases[goal.case]) for goal in goals if goal.case in cases]
    return "### Goals\n\n" + table(["case", "goal", "measured", ""], rows, 4) if rows else ""


def _goal(results: Results, goal: Goal, case: Case) -> list[str]:
    of_case = goal.of_case or goal.case
    found = {peer: median for peer in goal.peers if (median := results.median(of_case, peer)) is not None}
    mine = results.median(goal.case, "forkserve")
    best = min(found, key=lambda peer: found[peer], default="")
    ratio = mine / found[best] if mine is not None and best else None
    said = f"at most {goal.factor:.3g} × {'the best of ' if len(goal.peers) > 1 else ''}{', '.join(goal.peers)}"
    measured = _NONE if ratio is None else f"{ratio:.3g} × {best}"
    if goal.limit is not None:
        unit = _GOAL_UNITS[case.kind]
        said = f"at most {goal.limit:g} {unit}, or {said}"
        measured = f"{_number(case.kind)(mine)} {unit}, {measured}"
    within = mine is not None and goal.limit is not None and mine <= goal.limit
    is_met = within or (ratio is not None and ratio <= goal.factor)
    verdict = _MET if is_met else _UNKNOWN if ratio is None else _MISSED
    return [case.title, said, measured, verdict]


def _images(charts: Mapping[str, str]) -> str:
    return "\n\n".join(f"![{title}](plots/{name}.svg)" for name, title in charts.items())


def _summary(results: Results) -> str:
    """The medians of all loads in one table: a row for each case."""
    cases = [case for case in results.cases if case.kind is Kind.CPU and case.name not in _IN_SERIES]
    if len(cases) < 2:
        return ""
    number = _number(Kind.CPU)
    rows = [[c.title, *(number(results.median(c.name, server.name)) for server in results.versions)] for c in cases]
    header = ["case", *(server.name for server in results.versions)]
    return f"### CPU time per request\n\nMicroseconds, medians.\n\n{table(header, rows, 1)}"


def _series(results: Results, series: Series) -> str:
    """One row for each server, one column for each point."""
    kinds = {case.name: case.kind for case in results.cases}
    points = [(x, case) for x, case in series.points if case in kinds]
    if len(points) < 2:
        return ""
    number = _number(kinds[points[-1][1]])
    rows = []
    for server in results.versions:
        medians = [results.median(case, server.name) for _, case in points]
        if sum(median is not None for median in medians) > 1:
            rows.append([server.name, *(number(median) for median in medians)])
    header = [series.axis, *(f"{x}" for x, _ in points)]
    return f"### {series.title}\n\n{_UNITS[kinds[points[-1][1]]]}; medians.\n\n{table(header, rows, 1)}"


def _case(results: Results, case: Case) -> str:
    others = [name for name in case.beside if results.median(case.name, name) is not None]
    rows = []
    for server in results.versions:
        number = _number(case.kind)
        values = results.values(case.name, server.name)
        if not values:
            continue
        spread = f"{number(min(values))} – {number(max(values))}"
        ratios = [_times(results.ratio(case.name, server.name, other)) for other in others]
        rows.append([server.name, number(results.median(case.name, server.name)), spread, *ratios])
        if case.kind is Kind.CPU:
            rows[-1].append(_share(results.busy(case.name, server.name)))
    header = [
        "server",
        "median",
        "min – max",
        *(f"× {name}" for name in others),
        *(["busy"] if case.kind is Kind.CPU else []),
    ]
    if not rows:
        return ""
    rounds = max(len(results.values(case.name, server.name)) for server in results.versions)
    unit = f"{_UNITS[case.kind]}; median of rounds: {rounds}."
    return f"### {case.title}\n\n{unit}\n\n{table(header, rows, 1)}"


def _servers(results: Results) -> str:
    rows = []
    for server, version in results.versions.items():
        command = " ".join(["python", *server.arguments(port="PORT", workers="N", app="APP")])
        rows.append([server.name, version, f"`{command}`", server.note])
    return "### Servers\n\n" + table(["server", "version", "command", "note"], rows, 4)


def _remarks(results: Results) -> str:
    lines = [f"- {remark}" for remark in results.remarks]
    loads = [f for f in results.figures if f.cpu_ns]
    if disturbed := [f for f in loads if f.busy < _DISTURBED]:
        lines.append(
            f"- {len(disturbed)} of {len(loads)} loads were disturbed: the server used less than {_DISTURBED:.0%} of"
            " its core, since wrk had enough to do itself (large requests and responses) or the machine was busy with"
            " something else; if it was, repeat the run on a quiet one."
        )
    lines += [f"- {f.server}, {f.case}, round {f.round}: {f.fault}" for f in results.figures if f.fault]
    return "### Remarks\n\n" + "\n".join(lines) if lines else ""


def _number(kind: Kind) -> Callable[[float | None], str]:
    return lambda value: _NONE if value is None else f"{value:.{_DIGITS[kind]}f}"


def _share(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares):.0%}" if shares else _NONE


def _times(ratio: float | None) -> str:
    return _NONE if ratio is None else f"{ratio:.2f}"
