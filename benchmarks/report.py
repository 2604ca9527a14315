"""Figures to Markdown: the tables of docs/performance.md. Knows no processes; every number comes from the figures."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cases import Case, Goal, Kind
from benchmarks.measure import Figure
from benchmarks.servers import Server

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"
_NONE = "–"
_UNITS = {
    Kind.CPU: "CPU microseconds per request, user and system, of the whole process tree",
    Kind.START: "Milliseconds, by the wall clock",
    Kind.MEMORY: "MiB, proportional set size (PSS) of the whole process tree, after every worker has answered",
}
_DISTURBED = 0.8  # a server under this load that uses less of its core was kept from it, or from wrk, by others
_DIGITS = {Kind.CPU: 1, Kind.START: 0, Kind.MEMORY: 1}


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


def markdown(results: Results, goals: Sequence[Goal]) -> str:
    """The whole report, without the markers."""
    parts = ["\n".join(f"- {sentence}" for sentence in results.conditions), _goals(results, goals)]
    parts += [_case(results, case) for case in results.cases]
    parts += [_servers(results), _remarks(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def replace_between_markers(page: str, report: str) -> str:
    """The page with what is between its two markers replaced; ValueError when it does not have them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} followed by {END}")
    return f"{head}{BEGIN}\n\n{report}\n{END}{tail}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A Markdown table whose columns from `numbers_from` on are aligned to the right."""
    rule = ["---:" if column >= numbers_from else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _goals(results: Results, goals: Sequence[Goal]) -> str:
    titles = {case.name: case.title for case in results.cases}
    rows = []
    for goal in goals:
        if goal.case in titles:
            ratio = results.ratio(goal.case, "forkserve", goal.peer)
            verdict = "not measured" if ratio is None else "met" if ratio <= goal.factor else "missed"
            rows.append([titles[goal.case], f"at most {goal.factor:g} × {goal.peer}", _times(ratio), verdict])
    return "### Goals\n\n" + _table(["case", "goal", "measured", ""], rows, 4) if rows else ""


def _case(results: Results, case: Case) -> str:
    others = [name for name in case.beside if results.median(case.name, name) is not None]
    rows = []
    for server in results.versions:
        number = _number(case.kind)
        values = results.values(case.name, server.name)
        spread = f"{number(min(values))} – {number(max(values))}" if values else _NONE
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
    unit = f"{_UNITS[case.kind]}; median of rounds: {results.rounds}."
    return f"### {case.title}\n\n{unit}\n\n{_table(header, rows, 1)}"


def _servers(results: Results) -> str:
    rows = []
    for server, version in results.versions.items():
        command = " ".join(["python", *server.arguments(port="PORT", workers="N", app="APP")])
        rows.append([server.name, version, f"`{command}`", server.note])
    return "### Servers\n\n" + _table(["server", "version", "command", "note"], rows, 4)


def _remarks(results: Results) -> str:
    lines = [f"- {remark}" for remark in results.remarks]
    loads = [f for f in results.figures if f.cpu_ns]
    if disturbed := [f for f in loads if f.busy < _DISTURBED]:
        lines.append(
            f"- {len(disturbed)} of {len(loads)} loads were disturbed: the server used less than {_DISTURBED:.0%} of"
            " its core, so the machine was busy with something else; repeat the run on a quiet one."
        )
    lines += [f"- {f.server}, {f.case}, round {f.round}: {f.fault}" for f in results.figures if f.fault]
    return "### Remarks\n\n" + "\n".join(lines) if lines else ""


def _number(kind: Kind) -> Callable[[float | None], str]:
    return lambda value: _NONE if value is None else f"{value:.{_DIGITS[kind]}f}"


def _share(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares):.0%}" if shares else _NONE


def _times(ratio: float | None) -> str:
    return _NONE if ratio is None else f"{ratio:.2f}"
