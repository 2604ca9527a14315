"""What this tree costs beside another one of forkserve, such as an earlier commit: `python benchmarks/before.py DIR`.

The main program. The two take turns within each case, and the lowest figure of each counts: what else a machine does
can only add to CPU time.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report
from benchmarks.cases import CASES, Case, Kind
from benchmarks.measure import Setup, figure
from benchmarks.servers import HERE, SERVERS, Server

_SECTION = "before"
_NOW = next(server for server in SERVERS if server.name == "forkserve")
_MOST = 1.02


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when every case costs at most 2 % more than before, 1 when one does not."""
    options = _parser().parse_args(argv)
    before = replace(_NOW, name="before", code=options.before)
    core, pinned = compare._pin()
    setup = Setup(options.before, options.seconds, 16, core, HERE.parent / ".bench" / "bytecode")
    rows = [_row(setup, case, before, options.rounds) for case in options.cases]
    names = ",".join(case.name for case in options.cases)
    header = ("case", "before", "now", "ratio", "medians", "at most")
    text = (
        f"- {compare._machine()} {pinned}\n"
        f"- `python benchmarks/before.py {options.label} --only-cases {names} --rounds {options.rounds}`\n"
        "- CPU µs a request, the lowest of the rounds: what else the machine does can only add to it.\n\n"
        f"{report.table(header, [cells for cells, _ in rows], 1)}\n"
    )
    print(text)
    if options.write:
        page = options.write.read_text("utf-8")
        options.write.write_text(report.replace_between_markers(page, text, _SECTION), "utf-8")
    return 0 if all(ratio <= _MOST for _, ratio in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="before.py", description="What this tree costs beside another of its own.")
    measured = [case for case in CASES if case.kind is Kind.CPU]
    add = parser.add_argument
    add("before", type=compare._folder, metavar="DIR", help="the other tree: git worktree add DIR COMMIT")
    add("--label", default="DIR", help="what the page calls it, such as the commit (%(default)s)")
    add("--only-cases", dest="cases", type=compare._chosen(measured), default=measured, metavar="A,B")
    add("--rounds", type=compare._positive, default=9, metavar="N", help="pairs of figures per case (%(default)s)")
    add("--seconds", type=compare._positive, default=1, metavar="N", help="of load per figure (%(default)s)")
    add("--write", type=compare.page_with(_SECTION), metavar="FILE", help="Markdown page with a pair of before markers")
    return parser


def _row(setup: Setup, case: Case, before: Server, rounds: int) -> tuple[list[str], float]:
    """One case: the cells of its row, and the ratio."""
    then, now = [], []
    for number in range(rounds + 1):
        pair = [figure(setup, server, case, number) for server in (before, _NOW)]
        faults = [one.fault for one in pair if one.fault]
        if faults:
            print(f"{case.name}: {faults[0]}", file=sys.stderr)
        elif number:  # the first round fills caches
            then.append(pair[0].value or 0.0)
            now.append(pair[1].value or 0.0)
    if len(now) < 2:
        return [case.name, "", "", "no figures", "", ""], float("inf")
    ratio = min(now) / min(then)
    return [
        case.title, f"{min(then):.2f}", f"{min(now):.2f}", f"{ratio:.3f}", f"{median(then):.1f}, {median(now):.1f}",
        f"{_MOST:g}: {'met' if ratio <= _MOST else 'missed'}",
    ], ratio  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
