"""Compare what forkserve and its peers cost, in one run on one machine: `python benchmarks/compare.py`.

The main program: reads the command line, lets the servers take turns within each case and round, so that a
disturbance of the machine hits all alike, prints the tables and writes them where it was told. Needs wrk; pins the
servers to a core of their own where taskset (util-linux) is there.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import charts, idle, report
from benchmarks.cases import CASES, GOALS, Case, Kind
from benchmarks.measure import Figure, Setup, can, figure
from benchmarks.servers import HERE, SERVERS, Server, present


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)

_HELD, _HELD_QUICKLY = 10_000, 1_000
_IDLE_S, _IDLE_QUICKLY_S = 6.0, 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when every figure is valid, 1 when one is not, 130 when interrupted."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.rounds = options.seconds = 1
        options.cases = [case for case in options.cases if case.quick]
    signal.signal(signal.SIGTERM, _interrupt)
    cases, remarks = _measurable(options.cases)
    versions, missing = present(options.servers, options.peers)
    remarks += missing
    for remark in remarks:
        print(remark, file=sys.stderr)
    core, pinned = _pin()
    setup = _setup(options, core)
    conditions = (_machine(), pinned, *_method(options, setup))
    end = time.monotonic() + 60 * options.minutes
    try:
        figures = tuple(_figures(setup, options.rounds, cases, list(versions), end))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    if time.monotonic() >= end:
        remarks.append(f"The run was ended after {options.minutes} minutes; what its last round lacks is not missing.")
    results = report.Results(conditions, options.rounds, tuple(cases), versions, figures, tuple(remarks))
    _publish(results, options.write, options.json)
    return 1 if not figures or any(f.fault for f in figures) else 0


def _setup(options: argparse.Namespace, core: int | None) -> Setup:
    held = idle.most_connections(_HELD_QUICKLY if options.quick else _HELD)
    idle_s = _IDLE_QUICKLY_S if options.quick else _IDLE_S
    bytecode = HERE.parent / ".bench" / "bytecode"
    return Setup(options.peers, options.seconds, options.connections, core, bytecode, held, idle_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare.py", description="What forkserve and its peers cost, in one run.")
    add = parser.add_argument
    add(
        "--only-servers",
        dest="servers",
        type=_chosen(SERVERS),
        default=list(SERVERS),
        metavar="A,B",
        help=_all(SERVERS),
    )
    add("--only-cases", dest="cases", type=_chosen(CASES), default=list(CASES), metavar="A,B", help=_all(CASES))
    add("--rounds", type=_positive, default=5, metavar="N", help="figures per server and case (%(default)s)")
    add("--quick", action="store_true", help="one round of a second each, without the longest cases: to try it")
    add("--minutes", type=_positive, default=25, metavar="N", help="after which no figure is begun (%(default)s)")
    add("--seconds", type=_positive, default=1, metavar="N", help="of load per figure (%(default)s)")
    add("--connections", type=_positive, default=16, metavar="N", help="that wrk keeps busy (%(default)s)")
    add(
        "--peers",
        type=_folder,
        default=".bench/peers",
        metavar="DIR",
        help="virtual environment of the peers (%(default)s)",
    )
    add("--write", type=_page, metavar="FILE", help="Markdown page that gets the tables between its two markers")
    add("--json", type=Path, metavar="FILE", help="gets every single figure")
    return parser


def _chosen(table: Sequence[Row]) -> Callable[[str], list[Row]]:
    """A reader of comma-separated names of rows; the result is in the table's order."""

    def read(text: str) -> list[Row]:
        names = set(text.split(","))
        if unknown := names - {row.name for row in table}:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {_all(table)}")
        return [row for row in table if row.name in names]

    return read


def _all(table: Sequence[Row]) -> str:
    return ", ".join(row.name for row in table)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _folder(text: str) -> Path:
    return Path(text).absolute()  # servers are started in another folder


def page_with(section: str) -> Callable[[str], Path]:
    """A reader of pages that have the markers of a section; others are refused before the minutes of a run."""

    def read(text: str) -> Path:
        try:
            report.replace_between_markers(Path(text).read_text("utf-8"), "", section)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from error
        return Path(text)

    return read


_page = page_with("figures")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _measurable(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The cases that this machine has the tools for, and a line of remedy about the others."""
    if shutil.which("wrk") is not None:
        return list(cases), []
    left = [case for case in cases if case.kind is not Kind.CPU]
    return left, ["CPU time is left out: wrk is not installed; apt install wrk"]


def _pin() -> tuple[int | None, str]:
    """Move this process, and with it wrk, off the core that the servers get; the core, and a sentence about it."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return None, "Server and wrk share all cores: there is only one, or taskset (util-linux) is not installed."
    os.sched_setaffinity(0, {cores[-1]})
    return cores[0], f"The server runs on core {cores[0]} and wrk on core {cores[-1]} (taskset)."


def _machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: {model}, {os.cpu_count()} cores, Linux {platform.release()},"
        f" {platform.python_implementation()} {platform.python_version()}."
    )


def _method(options: argparse.Namespace, setup: Setup) -> list[str]:
    """The sentences about the run itself; paths are left out, since they say nothing about the figures."""
    words = ["python", "benchmarks/compare.py", *(["--quick"] if options.quick else [])]
    if options.servers != list(SERVERS):
        words += ["--only-servers", ",".join(server.name for server in options.servers)]
    if options.cases != [case for case in CASES if case.quick or not options.quick]:
        words += ["--only-cases", ",".join(case.name for case in options.cases)]
    for name in ("rounds", "seconds", "connections"):
        words += [f"--{name}", str(getattr(options, name))]
    load = f"wrk -t1 -c{options.connections} -d{options.seconds}s"
    sentences = [
        f"`{shlex.join(words)}`",
        f"Load: `{load}` after a warm-up of 0.4 s; a fresh server for every figure, from compiled bytecode.",
        f"Idle keep-alive connections: {setup.held:,}; idleness is watched for {setup.idle_s:g} seconds.",
    ]
    if not options.quick and setup.held < _HELD:
        sentences.append(f"Fewer than {_HELD:,} connections are held: RLIMIT_NOFILE forbids more.")
    return sentences


def _figures(
    setup: Setup, rounds: int, cases: Sequence[Case], servers: Sequence[Server], end: float
) -> Iterator[Figure]:
    """All figures, the servers taking turns; round 0 fills the page cache and the bytecode cache and is dropped.

    What is taken in few rounds is spread over all of them. After `end` no figure is begun.
    """
    for server in servers:
        figure(setup, server, Case("warm", "", Kind.START), 0)
    for number in range(1, rounds + 1):
        for case in cases:
            if case.rounds and not _is_due(number, case.rounds, rounds):
                continue
            for server in (server for server in servers if can(server, case)):
                if time.monotonic() >= end:
                    return
                taken = figure(setup, server, case, number)
                said = taken.fault if taken.value is None else f"{taken.value:.1f}"
                print(f"round {number}/{rounds} {case.name} {server.name}: {said}", file=sys.stderr)
                yield taken


def _is_due(number: int, wanted: int, rounds: int) -> bool:
    """Whether a case that is measured in `wanted` rounds of all is measured in this one."""
    return number * wanted // rounds > (number - 1) * wanted // rounds if wanted < rounds else True


def _publish(results: report.Results, page: Path | None, data: Path | None) -> None:
    drawn = charts.charts(results)
    text = report.markdown(results, GOALS, {name: title for name, (title, _) in drawn.items()})
    print(text)
    if page is not None:
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), text), "utf-8")
        write_plots(page, {name: svg for name, (_, svg) in drawn.items()})
    if data is not None:
        versions = {server.name: version for server, version in results.versions.items()}
        figures = [asdict(f) for f in results.figures]
        record = {
            "conditions": results.conditions,
            "remarks": results.remarks,
            "versions": versions,
            "figures": figures,
        }
        data.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def write_plots(page: Path, plots: dict[str, str]) -> None:
    """Write the plots where the page looks for them."""
    folder = page.parent / "plots"
    folder.mkdir(exist_ok=True)
    for name, svg in plots.items():
        (folder / f"{name}.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
