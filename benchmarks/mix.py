"""Fast requests beside slow ones, on forkserve and its peers: `python benchmarks/mix.py`.

The main program: four workers, 16 clients of a fast page and 2 of a page that takes 200 ms. The servers take turns,
round by round. Its table says what the fast page's clients saw; what our own client costs is the first row.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, plots, report
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.mix_load import Plan, Told
from benchmarks.servers import APPS, HERE, SERVERS, Server, interpreter, present

_WORKERS, _FAST, _SLOW, _RATE = 4, 16, 2, 50
_START_S = 20.0
_SECTION = "mix"
_PERCENTS = (50, 90, 99, 100)
_GOAL_P50_MS, _GOAL_P99_MS, _GOAL_THREADS_P99_MS = 1.0, 12.0, 8.0
_PEER = "gunicorn-gthread"
FLOOR = "client alone"


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to run a server, or with no server the client's own floor."""

    name: str
    server: Server | None
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What the clients saw in one round: percentiles in milliseconds, or the fault in their place."""

    subject: str
    close: bool
    round: int
    ms: tuple[float, ...] = ()  # in the order of _PERCENTS
    requests: int = 0
    errors: int = 0
    slow_requests: int = 0
    again: int = 0
    busy: float = 0.0
    fault: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when every round is valid."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 1, 3
    versions, remarks = present(list(SERVERS), options.peers)
    subjects = _subjects(list(versions))
    try:
        runs = list(_runs(options, subjects))
    except KeyboardInterrupt:
        return 130
    text = markdown(_conditions(options), runs, [subject.name for subject in subjects], remarks)
    print(text)
    if options.write is not None:
        page = options.write
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), text, _SECTION), "utf-8")
        compare.write_plots(page, {"mix": plot(runs, [subject.name for subject in subjects], close=False)})
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n", "utf-8")
    return 1 if any(run.fault for run in runs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mix.py", description="Fast requests beside slow ones.")
    add = parser.add_argument
    add("--rounds", type=compare._positive, default=5, metavar="N", help="per server (%(default)s)")
    add("--seconds", type=compare._positive, default=5, metavar="N", help="of each round (%(default)s)")
    add("--rate", type=float, default=_RATE, metavar="N", help="requests a second of a client, 0: without pause")
    add("--peers", type=compare._folder, default=".bench/peers", metavar="DIR", help="environment of the peers")
    add("--quick", action="store_true", help="one round of three seconds: to try it")
    add(
        "--write",
        type=compare.page_with(_SECTION),
        metavar="FILE",
        help="Markdown page with a pair of mix markers, which gets the table",
    )
    add("--json", type=Path, metavar="FILE", help="gets every round")
    return parser


def _subjects(servers: Sequence[Server]) -> list[Subject]:
    rows = {server.name: server for server in servers}
    wanted = [
        ("forkserve", "forkserve", ()),
        ("forkserve, no relay", "forkserve", ("--no-relay",)),
        ("forkserve, 4 threads", "forkserve-threads", ()),
        ("gunicorn-sync", "gunicorn-sync", ()),
        (_PEER, _PEER, ()),
        ("granian", "granian", ()),
        ("granian, 4 threads", "granian", ("--blocking-threads", "4")),
    ]
    return [Subject(FLOOR, None)] + [Subject(name, rows[row], more) for name, row, more in wanted if row in rows]


def _runs(options: argparse.Namespace, subjects: Sequence[Subject]) -> Iterator[Run]:
    for number in range(1, options.rounds + 1):
        for close in (False, True):
            for subject in subjects:
                run = _run(options, subject, close, number)
                said = run.fault or f"{' '.join(f'{ms:.2f}' for ms in run.ms)} ms, {run.errors} errors"
                print(f"round {number} {'close' if close else 'kept'} {subject.name}: {said}", file=sys.stderr)
                yield run


def _run(options: argparse.Namespace, subject: Subject, close: bool, number: int) -> Run:
    port = free_port()
    if subject.server is None:
        command = [sys.executable, "bare.py", str(port)]
        env = environment(HERE.parent / ".bench" / "bytecode", SERVERS[0])
    else:
        words = subject.server.arguments(port=port, workers=_WORKERS, app="mixed:app", more=subject.more)
        command = [str(interpreter(subject.server, options.peers)), *words]
        env = environment(HERE.parent / ".bench" / "bytecode", subject.server)
    slow = _SLOW if subject.server is not None else 0
    plan = Plan(port, _FAST, slow, options.rate, options.seconds, close)
    try:
        with tempfile.TemporaryFile() as log, started(command, APPS, env, log) as pid:
            _await_answer(pid, port, "/", time.monotonic() + _START_S)
            time.sleep(0.5)  # the other workers boot
            _load(Plan(port, _FAST, slow, options.rate, 0.5, close))  # warm-up
            return _of(subject.name, close, number, _load(plan))
    except InvalidRunError as fault:
        return Run(subject.name, close, number, fault=str(fault))


def _load(plan: Plan) -> Told:
    done = subprocess.run(
        [sys.executable, str(HERE / "mix_load.py")], input=json.dumps(asdict(plan)), capture_output=True, text=True,
        timeout=plan.seconds + 60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InvalidRunError(f"the client failed: {done.stderr.strip().splitlines()[-1]}")
    return Told(**json.loads(done.stdout))


def _of(name: str, close: bool, number: int, told: Told) -> Run:
    if not told.latencies_ms:
        raise InvalidRunError(f"no fast request was answered, {told.errors} failed")
    ordered = sorted(told.latencies_ms)
    ms = tuple(percentile(ordered, percent) for percent in _PERCENTS)
    return Run(name, close, number, ms, len(ordered), told.errors, told.slow_requests, told.again, told.busy)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that so many per cent of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def medians(runs: Sequence[Run], subject: str, *, close: bool) -> tuple[float, ...] | None:
    """The median over the rounds of each percentile."""
    valid = [run.ms for run in runs if (run.subject, run.close) == (subject, close) and run.ms]
    return tuple(statistics.median(column) for column in zip(*valid, strict=True)) if valid else None


def markdown(conditions: Sequence[str], runs: Sequence[Run], subjects: Sequence[str], remarks: Sequence[str]) -> str:
    """The section of docs/performance.md."""
    parts = ["\n".join(f"- {sentence}" for sentence in conditions), _goals(runs)]
    parts.append("![Fast requests beside slow ones, keep-alive](plots/mix.svg)")
    for close, title in ((False, "Keep-alive"), (True, "Connection: close")):
        parts.append(f"### Fast beside slow: {title}\n\n{_table(runs, subjects, close)}")
    faults = [f"- {run.subject}, round {run.round}: {run.fault}" for run in runs if run.fault]
    if lines := [*(f"- {remark}" for remark in remarks), *faults]:
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def plot(runs: Sequence[Run], subjects: Sequence[str], *, close: bool) -> str:
    """The percentiles of all subjects, on one logarithmic axis."""
    rows = [(name, found) for name in subjects if (found := medians(runs, name, close=close)) is not None]
    title = "Fast requests beside slow ones: latency of the fast page"
    return plots.ranges(title, "milliseconds", rows, ("p50", "p90", "p99", "max"))


def _table(runs: Sequence[Run], subjects: Sequence[str], close: bool) -> str:
    rows = []
    for name in subjects:
        mine = [run for run in runs if (run.subject, run.close) == (name, close)]
        found = medians(runs, name, close=close)
        if found is None:
            continue
        counts = [f"{sum(run.errors for run in mine)}", f"{sum(run.requests for run in mine):,}"]
        busy = statistics.median(run.busy for run in mine if run.ms)
        rows.append([name, *(f"{ms:.2f}" for ms in found), *counts, f"{busy:.0%}"])
    return report.table(["server", "p50", "p90", "p99", "max", "errors", "requests", "client"], rows, 1)


def _goals(runs: Sequence[Run]) -> str:
    """The goals of the mix on kept connections, each met or not."""
    mine, peer, threads = (medians(runs, n, close=False) for n in ("forkserve", _PEER, "forkserve, 4 threads"))
    rows = []
    if mine is not None:
        errors = sum(run.errors for run in runs if (run.subject, run.close) == ("forkserve", False))
        rows = [
            _goal(f"p50 at most {_GOAL_P50_MS:g} ms", f"{mine[0]:.2f} ms", mine[0] <= _GOAL_P50_MS),
            _goal(f"p99 at most {_GOAL_P99_MS:g} ms", f"{mine[2]:.2f} ms", mine[2] <= _GOAL_P99_MS),
            _goal("no errors", f"{errors}", errors == 0),
        ]
        if peer is not None:
            rows.append(
                _goal(f"p99 at most that of {_PEER}", f"{mine[2]:.2f} and {peer[2]:.2f} ms", mine[2] <= peer[2])
            )
    if threads is not None:
        goal = f"with 4 threads p99 at most {_GOAL_THREADS_P99_MS:g} ms"
        rows.append(_goal(goal, f"{threads[2]:.2f} ms", threads[2] <= _GOAL_THREADS_P99_MS))
    return report.table(["goal", "measured", ""], rows, 2) if rows else ""


def _goal(goal: str, measured: str, is_met: bool) -> list[str]:
    return [goal, measured, "met" if is_met else "not met"]


def _conditions(options: argparse.Namespace) -> tuple[str, ...]:
    pace = f"{options.rate:g} requests a second each" if options.rate else "without a pause"
    command = f"python benchmarks/mix.py --rounds {options.rounds} --seconds {options.seconds} --rate {options.rate:g}"
    clients = f"{_FAST} clients of a fast page, {pace}, and {_SLOW} that ask for a page of 200 ms again and again"
    own = "*client* is the share of a core that the clients took; their own floor is the first row, a bare server."
    return (
        compare._machine(),
        f"`{command}`",
        f"{_WORKERS} workers; {clients}. Servers and clients share all cores.",
        f"Milliseconds from the moment at which a request was due; of each percentile the median of the rounds. {own}",
    )


if __name__ == "__main__":
    sys.exit(main())
