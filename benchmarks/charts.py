"""Which plots a run of compare.py gives: its figures to panels and curves. Knows neither SVG nor processes."""

from collections.abc import Sequence

from benchmarks.cases import SERIES, Case, Kind, Series
from benchmarks.plots import Curve, Panel, colours_of, curves, panels
from benchmarks.report import Results
from benchmarks.servers import SERVERS

_COLOURS = colours_of([server.name for server in SERVERS])
_IN_SERIES = {name for series in SERIES for _, name in series.points[1:]}
_AXES = {Kind.CPU: "CPU µs per request", Kind.MEMORY: "MiB of PSS"}
_UNITS = {
    Kind.START: "ms",
    Kind.MEMORY: "MiB of PSS",
    Kind.IDLE: "CPU µs per second",
    Kind.HELD: "KiB each",
    Kind.HELD_CPU: "CPU µs per second",
}


def charts(results: Results) -> dict[str, tuple[str, str]]:
    """The plots by their name: title and SVG. A plot that would be empty is not among them."""
    cost = [case for case in results.cases if case.kind is Kind.CPU and case.name not in _IN_SERIES]
    rest = [case for case in results.cases if case.kind is not Kind.CPU and case.name not in _IN_SERIES]
    drawn = {
        "cost": _bars(results, "CPU microseconds of the server per request: shorter is better", cost),
        "at-rest": _bars(results, "Start, memory and idleness: shorter is better", rest),
    }
    for series in SERIES:
        drawn[f"by-{series.name}"] = _growth(results, series)
    return {name: chart for name, chart in drawn.items() if chart[1]}


def _bars(results: Results, title: str, cases: Sequence[Case]) -> tuple[str, str]:
    found = []
    for case in cases:
        bars = [(server.name, results.median(case.name, server.name)) for server in results.versions]
        valid = tuple((name, value) for name, value in bars if value is not None)
        if valid:
            unit = f" ({_UNITS[case.kind]})" if case.kind in _UNITS else ""
            found.append(Panel(case.title.partition(" (")[0] + unit, valid))
    return title, panels(title, found, _COLOURS) if found else ""


def _growth(results: Results, series: Series) -> tuple[str, str]:
    kind = next((case.kind for case in results.cases if case.name == series.points[-1][1]), Kind.CPU)
    lines = []
    for server in results.versions:
        medians = [(float(x), results.median(case, server.name)) for x, case in series.points]
        points = tuple((x, value) for x, value in medians if value)
        if len(points) > 1:
            lines.append(Curve(server.name, points))
    return series.title, curves(series.title, series.axis, _AXES[kind], lines, _COLOURS) if lines else ""
