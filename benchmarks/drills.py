"""What users see when a deploy or a process goes wrong, with forkserve and gunicorn: `python benchmarks/drills.py`.

The main program and the drills, one function each: it does something bad to a running server under a load on a fixed
schedule, and returns figures; its row in DRILLS says what happens. The servers take turns within each drill and round.
Every wait is bounded. Source of most drills: what was seen to take other servers down.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, drill_report, report
from benchmarks.drill_report import Results, Row, Run
from benchmarks.errors import InvalidRunError
from benchmarks.openloop import KEPT, Ask, Load, Outcome
from benchmarks.rig import NEVER, RATE, SLOW_S, SUBJECTS, WORKERS, Code, Rig, Subject, rigged, wait
from benchmarks.servers import present

_SETTLED_S = 0.5  # of load before something happens, and after it is over
_OLD_S = 2.3  # a worker that dies younger than 2 s counts for forkserve as one that cannot boot
_REPAIR_S = 5.0
_LEFT_S = 4.0
_NONE = (NEVER, 0.0)  # no answer at all
_UNLUCKY_S = 0.005  # a process is dead this long after its KILL

Figures = dict[str, float]


def calm(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(1.5)
    return _of_load(load)


def slow_boot(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_SETTLED_S)
        rig.deploy(Code.SLOW)
        told = rig.reload()
        wait(lambda: rig.ended() or rig.at_strength(rig.version), 12.0)
        time.sleep(_SETTLED_S)
    new = f"drill {rig.version} ".encode()
    new_s = min((entry.ended - told for entry in load.entries if entry.body.startswith(new)), default=NEVER)
    return {**_of_load(load), "new_s": new_s}


def broken_deploy(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_SETTLED_S)
        rig.deploy(Code.BROKEN)
        rig.reload()
        time.sleep(5.0)
        lives = rig.lives()
        back_s = _repair(rig)
    return {**_of_load(load), "lives": lives, "back_s": back_s}


def broken_settings(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_SETTLED_S)
        rig.configure(rig.subject.broken)
        rig.reload()
        time.sleep(3.0)
        lives = rig.lives()
        rig.configure(rig.subject.good)
        back_s = _repair(rig)
    return {**_of_load(load), "lives": lives, "back_s": back_s}


def worker_killed(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_OLD_S)
        killed = rig.kill_worker()
        wait(lambda: any(note.at > killed for note in rig.notes("ready")), _REPAIR_S)
        time.sleep(_SETTLED_S)
    strength_s = min((note.at - killed for note in rig.notes("ready") if note.at > killed), default=NEVER)
    return {**_of_load(load, killed), "strength_s": strength_s}


def worker_killed_while_broken(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_OLD_S)
        rig.deploy(Code.BROKEN)
        killed = rig.kill_worker()
        time.sleep(2.5)
        lives = rig.lives()
        back_s = _repair(rig)
    return {**_of_load(load, killed), "lives": lives, "back_s": back_s}


def stop_with_queue(rig: Rig) -> Figures:
    at_once, queued = [Ask(0.0, "/slow")] * WORKERS, [Ask(0.2, "/slow")] * (2 * WORKERS)
    with rig.load([*at_once, *queued]) as load:
        if wait(lambda: len({note.pid for note in rig.notes("busy")}) == WORKERS, SLOW_S / 2) == NEVER:
            raise InvalidRunError("the first two requests did not meet a worker each")
        time.sleep(0.3)  # the others have been sent
        rig.signal(signal.SIGTERM)
        exit_s = wait(rig.ended, 3 * SLOW_S + 2.0)
        load.finish()
    answered = sum(not entry.failed for entry in load.entries)
    return {**_of_load(load), "answered": answered, "reset": _broken_off(load), "exit_s": exit_s}


def master_killed(rig: Rig) -> Figures:
    killed = rig.signal(signal.SIGKILL)
    port_s = wait(rig.can_bind, _LEFT_S)
    wait(lambda: not rig.processes(), killed + _LEFT_S - time.monotonic())
    return {"left": len(rig.processes()), "port_s": port_s}


def crash_loop(rig: Rig) -> Figures:
    before = rig.log_lines()
    with rig.load() as load:
        time.sleep(_SETTLED_S)
        rig.deploy(Code.DYING)
        rig.reload()
        time.sleep(5.0)
        forks, lines = len(rig.notes("began", rig.version)), rig.log_lines() - before
        back_s = _repair(rig)
    return {**_of_load(load), "forks": forks, "lines": lines, "back_s": back_s}


def five_reloads(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(_SETTLED_S)
        for _ in range(5):
            rig.deploy(Code.GOOD)
            rig.reload()
            time.sleep(0.6)
        wait(lambda: rig.ended() or rig.at_strength(rig.version), _REPAIR_S)
        time.sleep(_SETTLED_S)
    return _of_load(load)


def stop_under_load(rig: Rig) -> Figures:
    with rig.load() as load:
        time.sleep(1.0)
        told = rig.signal(signal.SIGTERM)
        exit_s = wait(rig.ended, _REPAIR_S)
        time.sleep(_SETTLED_S)
    refused = sum(entry.outcome is Outcome.REFUSED for entry in load.entries if entry.due >= told)
    return {**_of_load(load), "reset": _broken_off(load), "refused": refused, "exit_s": exit_s}


@dataclass(frozen=True, slots=True)
class Drill(Row):
    """A row of the table: its name, what happens, the goals, and what does it."""

    run: Callable[[Rig], Figures]


_BRIEF = Drill("first", "nothing happens, and soon", {}, lambda rig: {"lives": rig.lives()})
_NO_HARM: dict[str, float | None] = {"failed": 0, "worst_ms": 50}
_SURVIVED: dict[str, float | None] = {**_NO_HARM, "lives": True, "back_s": _REPAIR_S}

DRILLS = (
    Drill("calm", "nothing happens", _NO_HARM, calm),
    Drill("slow-boot", "new code takes 3 s to import; HUP", {**_NO_HARM, "new_s": None}, slow_boot),
    Drill("broken-deploy", "new code raises at import; HUP; 5 s later a repaired deploy", _SURVIVED, broken_deploy),
    Drill(
        "broken-settings", "the settings file has a syntax error; HUP; 3 s later repaired", _SURVIVED, broken_settings
    ),
    Drill("worker-killed", "KILL to a worker", {**_NO_HARM, "caught": None, "strength_s": 1}, worker_killed),
    Drill(
        "worker-killed-while-broken",
        "KILL to a worker while the code on disk cannot boot; 2.5 s later a repaired deploy",
        {**_NO_HARM, "caught": None, "lives": True, "back_s": _REPAIR_S},
        worker_killed_while_broken,
    ),
    Drill(
        "stop-with-queue",
        "TERM with 2 requests of 1 s in flight and 4 queued",
        {"answered": 3 * WORKERS, "reset": 0, "worst_ms": None, "exit_s": None},
        stop_with_queue,
    ),
    Drill("master-killed", "KILL to the master", {"left": 0, "port_s": 1}, master_killed),
    Drill(
        "crash-loop",
        "new code ends its process 0.1 s after each boot; HUP; 5 s later a repaired deploy",
        {"forks": None, "lines": None, "failed": None, "back_s": _REPAIR_S},
        crash_loop,
    ),
    Drill("five-reloads", "5 deploys and HUPs, 0.6 s apart", _NO_HARM, five_reloads),
    Drill(
        "stop-under-load",
        "TERM while requests keep coming",
        {"reset": 0, "worst_ms": 50, "refused": None, "exit_s": None},
        stop_under_load,
    ),
)


def _of_load(load: Load, killed: float = 0.0) -> Figures:
    """The failures, those apart that were inside a worker when it was killed, and the worst latency of an answer."""
    failed = [entry for entry in load.entries if entry.failed]
    for entry in failed:
        entry.caught = 0 < entry.sent <= killed + _UNLUCKY_S and killed <= entry.ended
    caught = sum(entry.caught for entry in failed)
    worst_s, late_s = max(
        ((entry.latency_s, entry.late_s) for entry in load.entries if not entry.failed), default=_NONE
    )
    return {"failed": len(failed) - caught, "caught": caught, "worst_ms": worst_s * 1e3, "late_ms": late_s * 1e3}


def _broken_off(load: Load) -> int:
    """How many requests met neither an answer nor a closed door."""
    return sum(entry.failed and entry.outcome is not Outcome.REFUSED for entry in load.entries)


def _repair(rig: Rig) -> float:
    """Deploy good code and reload; the seconds until all workers have it, or NEVER."""
    rig.deploy(Code.GOOD)
    rig.reload()
    back_s = wait(lambda: rig.ended() or rig.at_strength(rig.version), _REPAIR_S)
    if rig.ended():
        return NEVER
    time.sleep(_SETTLED_S)
    return back_s


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drills; 0 when forkserve reaches all goals, 1 when it does not, 130 when interrupted."""
    options = _parser().parse_args(argv)
    sys.setswitchinterval(0.0005)  # what watches the server must not hold up the client
    signal.signal(signal.SIGTERM, compare._interrupt)
    versions, remarks = present([subject.server for subject in options.servers], options.peers)
    for remark in remarks:
        print(remark, file=sys.stderr)
    subjects = [subject for subject in options.servers if subject.server in versions]
    conditions = (compare._machine(), *_method(options))
    try:
        runs = tuple(_runs(options, subjects))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    named = {server.name: number for server, number in versions.items()}
    results = Results(conditions, tuple(options.only), named, runs, tuple(remarks))
    _publish(results, options.write, options.json)
    return 1 if not runs or any(run.fault for run in runs) or drill_report.missed(results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drills.py", description="What users see when a deploy or a process goes wrong."
    )
    add = parser.add_argument
    names = ", ".join(drill.name for drill in DRILLS)
    add("--only", type=compare._chosen(DRILLS), default=list(DRILLS), metavar="A,B", help=names)
    names = ", ".join(subject.name for subject in SUBJECTS)
    add("--servers", type=compare._chosen(SUBJECTS), default=list(SUBJECTS), metavar="A,B", help=names)
    add("--rounds", type=compare._positive, default=3, metavar="N", help="of each drill for each server (%(default)s)")
    add(
        "--peers",
        type=compare._folder,
        default=".bench/peers",
        metavar="DIR",
        help="virtual environment of the peers (%(default)s)",
    )
    add("--write", type=compare._page, metavar="FILE", help="Markdown page that gets the table between its two markers")
    add("--json", type=Path, metavar="FILE", help="gets the figures of every single run")
    add("--logs", type=Path, metavar="DIR", help="gets what each server said in each run, and the requests that failed")
    return parser


def _method(options: argparse.Namespace) -> list[str]:
    words = ["python", "benchmarks/drills.py"]
    if options.only != list(DRILLS):
        words += ["--only", ",".join(drill.name for drill in options.only)]
    words += ["--rounds", str(options.rounds)]
    figures = (
        f"{WORKERS} workers, a fresh server for every drill and round; median of {options.rounds} rounds, the worst one"
        " in brackets where it differs. Goals are for forkserve, in every round."
    )
    load = (
        f"Load: {RATE} requests a second on a fixed schedule, two of three on a connection of their own, the others on"
        f" {KEPT} kept ones; latency counts from the moment at which a request was due. Server and client share all"
        " cores."
    )
    return [f"`{shlex.join(words)}`", figures, load]


def _runs(options: argparse.Namespace, subjects: Sequence[Subject]) -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="drills-") as bytecode:
        for subject in subjects:  # fills the cache of bytecode; dropped
            _run(_BRIEF, subject, 0, options, Path(bytecode))
        for number in range(1, options.rounds + 1):
            for drill in options.only:
                for subject in subjects:
                    run = _run(drill, subject, number, options, Path(bytecode))
                    said = run.fault or ", ".join(f"{key} {figure:g}" for key, figure in run.figures.items())
                    print(f"round {number}/{options.rounds} {drill.name} {subject.name}: {said}", file=sys.stderr)
                    yield run


def _run(drill: Drill, subject: Subject, number: int, options: argparse.Namespace, bytecode: Path) -> Run:
    """One drill of a fresh server; an InvalidRunError becomes its fault, so that the others are still taken."""
    try:
        with rigged(subject, options.peers, bytecode) as rig:
            try:
                figures = {key: float(figure) for key, figure in drill.run(rig).items()}
            finally:
                if options.logs is not None:
                    rig.keep(options.logs / f"{drill.name}-{subject.name}-{number}")
    except InvalidRunError as fault:
        return Run(drill.name, subject.name, number, fault=str(fault))
    entries = [entry for load in rig.loads for entry in load.entries]
    failures = dict(Counter(entry.outcome.value for entry in entries if entry.failed and not entry.caught))
    late_ms = max((entry.late_s * 1e3 for entry in entries), default=0.0)
    return Run(drill.name, subject.name, number, figures, len(entries), failures, late_ms)


def _publish(results: Results, page_of: Path | None, data: Path | None) -> None:
    text = drill_report.markdown(results)
    print(text)
    if page_of is not None:
        page_of.write_text(report.replace_between_markers(page_of.read_text("utf-8"), text), "utf-8")
    if data is not None:
        record = {
            "conditions": results.conditions,
            "versions": results.versions,
            "missed": drill_report.missed(results),
            "runs": [{**asdict(run), "figures": _finite(run.figures)} for run in results.runs],
        }
        data.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def _finite(figures: Figures) -> dict[str, float | None]:
    """JSON has no infinity: never is null."""
    return {measure: None if figure == NEVER else figure for measure, figure in figures.items()}


if __name__ == "__main__":
    sys.exit(main())
