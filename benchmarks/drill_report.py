"""What the drills measure, what forkserve must reach in them, and the table of docs/promises.md.

Knows no processes; every number comes from the runs.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import report

OWN = "forkserve"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind of figure: how it is called and written, and which end of it is bad."""

    title: str
    unit: str = ""  # ms, s, yes for yes or no, empty for a count
    more_is_better: bool = False


MEASURES = {
    FAILED: Measure("requests that failed"),
    "caught": Measure("requests that were inside the killed worker"),
    "worst_ms": Measure("worst latency", "ms"),
    "new_s": Measure("first answer of the new code after", "s"),
    "lives": Measure("serves when it is over", "yes", more_is_better=True),
    "back_s": Measure("after repair and HUP, at full strength after", "s"),
    "strength_s": Measure("at full strength again after", "s"),
    "answered": Measure("answered, of 6", more_is_better=True),
    "reset": Measure("reset or closed without an answer"),
    "refused": Measure("refused after it"),
    "exit_s": Measure("ended after", "s"),
    "left": Measure("processes left after 4 s"),
    "port_s": Measure("port can be bound after", "s"),
    "forks": Measure("boots in 5 s"),
    "lines": Measure("log lines in 5 s"),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One drill of one server: its figures by the keys of MEASURES, or the fault that stands in their place."""

    drill: str
    server: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # by outcome
    late_ms: float = 0.0  # the most that the client itself was behind its schedule
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What the report needs of a drill: its name, what happens, and the goals by measure, in the table's order.

    A goal is the worst figure that forkserve may have in any round; None: shown, not judged.
    """

    name: str
    title: str
    goals: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Results:
    """A whole round of drills: where, with what, and what came out."""

    conditions: tuple[str, ...]
    rows: tuple[Row, ...]
    versions: dict[str, str]  # of the servers, in the order of the columns
    runs: tuple[Run, ...]
    remarks: tuple[str, ...] = ()

    def of(self, drill: str, server: str) -> list[Run]:
        """The valid runs of one drill of one server."""
        return [run for run in self.runs if (run.drill, run.server) == (drill, server) and not run.fault]

    def worst(self, drill: str, server: str, measure: str) -> Run | None:
        """The run with the worst figure, if there is any."""
        pick = min if MEASURES[measure].more_is_better else max
        return pick(self.of(drill, server), key=lambda run: run.figures[measure], default=None)


def missed(results: Results) -> list[str]:
    """A sentence about each goal that forkserve did not reach in every round."""
    said = []
    for row in results.rows:
        for measure, goal in row.goals.items():
            run = results.worst(row.name, OWN, measure)
            if goal is not None and run is not None and not _reaches(measure, run.figures[measure], goal):
                figures = ", ".join(_written(measure, each.figures[measure]) for each in results.of(row.name, OWN))
                said.append(f"{row.title}: {MEASURES[measure].title} {figures}; goal {_goal(measure, goal)}")
    return said


def markdown(results: Results) -> str:
    """The whole report, without the markers."""
    parts = ["\n".join(f"- {sentence}" for sentence in results.conditions), _drills(results)]
    lines = [f"- Missed by forkserve: {sentence}." for sentence in missed(results)]
    lines += [f"- {remark}" for remark in results.remarks]
    lines += [f"- {run.drill}, {run.server}, round {run.round}: {run.fault}" for run in results.runs if run.fault]
    late = [run.late_ms for run in results.runs if run.asked]
    if late:
        lines.append(
            f"- The client itself was behind its schedule by at most {max(late):.0f} ms in any run, {_median(late):.0f}"
            " ms in the median run; that is part of the latencies."
        )
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _drills(results: Results) -> str:
    rows = []
    for row in results.rows:
        title = f"**{row.name}**: {row.title}"
        for measure, goal in row.goals.items():
            cells = [_cell(results, row.name, server, measure) for server in results.versions]
            rows.append([title, MEASURES[measure].title, *cells, "" if goal is None else _goal(measure, goal)])
            title = ""
    header = ["drill", "measured", *(f"{name} {number}" for name, number in results.versions.items()), "goal"]
    return report._table(header, rows, 2)


def _cell(results: Results, drill: str, server: str, measure: str) -> str:
    """The median, the worst in brackets where it is another, and for failures what they were in the worst run."""
    worst = results.worst(drill, server, measure)
    if worst is None:
        return "–"
    middle = _written(measure, _median([run.figures[measure] for run in results.of(drill, server)]))
    extreme = _written(measure, worst.figures[measure])
    text = middle if middle == extreme else f"{middle} ({extreme})"
    if measure == FAILED:
        text += f" of {worst.asked}"
        if worst.figures[FAILED]:
            text += ": " + ", ".join(f"{count} {how}" for how, count in worst.failures.items())
    return text


def _reaches(measure: str, figure: float, goal: float) -> bool:
    return figure >= goal if MEASURES[measure].more_is_better else figure <= goal


def _goal(measure: str, goal: float) -> str:
    sign = "" if goal == 0 or MEASURES[measure].more_is_better else "≤ "
    return sign + _written(measure, goal)


def _written(measure: str, figure: float) -> str:
    unit = MEASURES[measure].unit
    if unit == "yes":
        return "yes" if figure else "no"
    if math.isinf(figure):
        return "never"
    return f"{figure:.2f} s" if unit == "s" else f"{figure:.0f} {unit}".strip()


def _median(figures: Sequence[float]) -> float:
    return statistics.median_low(figures)  # never between two: half a yes, or half of never, says nothing
