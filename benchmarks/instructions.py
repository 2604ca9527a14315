"""How many instructions a request costs in user code, beside another tree: `python benchmarks/instructions.py DIR`.

The main program. CPU time on a shared machine is known to some per cent; what valgrind counts is the same each time. It
does not see the kernel's part. Each figure is the difference of two runs, so what a start costs is not in it.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report
from benchmarks.cases import CASES, Case, Kind
from benchmarks.errors import InvalidRunError
from benchmarks.servers import APPS, HERE

_SECTION = "instructions"
_FEW, _MANY = 50, 450
_START_S = 60.0
_MOST = 1.02


def main(argv: Sequence[str] | None = None) -> int:
    """Count; 0 when every case costs at most 2 % more than before, 1 when one does not."""
    options = _parser().parse_args(argv)
    with ThreadPoolExecutor(2) as pool:
        figures = [pool.map(_each, (options.before, HERE.parent), (case, case)) for case in options.cases]
        rows = [_row(case, *pair) for case, pair in zip(options.cases, figures, strict=True)]
    names = ",".join(case.name for case in options.cases)
    text = (
        f"- {compare._machine()} valgrind's callgrind, worker and master together, without the relay.\n"
        f"- `python benchmarks/instructions.py {options.label} --only-cases {names}`\n\n"
        f"{report.table(('case', 'before', 'now', 'ratio', 'at most'), [cells for cells, _ in rows], 1)}\n"
    )
    print(text)
    if options.write:
        page = options.write.read_text("utf-8")
        options.write.write_text(report.replace_between_markers(page, text, _SECTION), "utf-8")
    return 0 if all(ratio <= _MOST for _, ratio in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="instructions.py", description="Instructions a request, beside another tree.")
    counted = [case for case in CASES if case.kind is Kind.CPU and not case.script]
    add = parser.add_argument
    add("before", type=compare._folder, metavar="DIR", help="the other tree: git worktree add DIR COMMIT")
    add("--label", default="DIR", help="what the page calls it, such as the commit (%(default)s)")
    add("--only-cases", dest="cases", type=compare._chosen(counted), default=counted[:2], metavar="A,B")
    add("--write", type=compare.page_with(_SECTION), metavar="FILE", help="Markdown page with a pair of markers")
    return parser


def _row(case: Case, before: float, now: float) -> tuple[list[str], float]:
    ratio = now / before
    met = "met" if ratio <= _MOST else "missed"
    return [case.title, f"{before:,.0f}", f"{now:,.0f}", f"{ratio:.3f}", f"{_MOST:g}: {met}"], ratio


def _each(tree: Path, case: Case) -> float:
    """Instructions a request."""
    return (_count(tree, case, _MANY) - _count(tree, case, _FEW)) / (_MANY - _FEW)


def _count(tree: Path, case: Case, requests: int) -> int:
    """All instructions of a service that answers so many requests over one connection."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [
            "valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/%p", sys.executable,
            "-m", "forkserve", "-w", "1", "-b", f"127.0.0.1:{port}", "--no-relay", case.app,
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(command, cwd=APPS, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with _connected(port) as sock, sock.makefile("rb") as answers:
                fields = "".join(f"{field}\r\n" for field in case.headers)
                for _ in range(requests):
                    sock.sendall(f"GET {case.path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
                    _read_answer(answers)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_START_S)
        told = [path.read_text() for path in Path(folder).iterdir()]
        return sum(int(found[1]) for text in told if (found := re.search(r"^(?:summary|totals): (\d+)", text, re.M)))


def _connected(port: int) -> socket.socket:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=_START_S)
        except OSError:
            time.sleep(0.05)
    raise InvalidRunError("the server does not listen")


def _read_answer(answers: BinaryIO) -> None:
    length = -1
    while (line := answers.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    if length >= 0:
        answers.read(length)
        return
    while size := int(answers.readline(), 16):
        answers.read(size + 2)
    answers.readline()


if __name__ == "__main__":
    raise SystemExit(main())
