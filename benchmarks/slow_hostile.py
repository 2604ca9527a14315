"""slowhttptest against one worker of forkserve as it comes, in each of its modes: `python benchmarks/slow_hostile.py`.

The main program: starts the server, runs the tool (Debian's package slowhttptest), and reads from its own statistics
in how many seconds its probe, an honest client, was answered.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compare import _machine
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.servers import APPS, HERE, SERVERS, interpreter
from benchmarks.slow_crowd import raise_descriptor_limit
from benchmarks.slow_report import HOSTILE, Siege, replace_section, sieges_table


@dataclass(frozen=True, slots=True)
class Mode:
    """One of the tool's attacks."""

    title: str
    flags: tuple[str, ...]
    path: str = "/"


MODES = (
    Mode("slow head (-H)", ("-H", "-i", "5", "-t", "GET", "-x", "24")),
    Mode("slow body (-B)", ("-B", "-i", "5", "-s", "8192", "-t", "POST", "-x", "10")),
    Mode("many ranges (-R)", ("-R", "-a", "10", "-b", "3000", "-t", "HEAD")),
    Mode("slow read (-X)", ("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "1"), "/large"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every mode; 0 when the service was available throughout, 2 when the tool is missing."""
    options = _parser().parse_args(argv)
    if shutil.which("slowhttptest") is None:
        print("slowhttptest is not installed, so nothing was tested: apt install slowhttptest", file=sys.stderr)
        return 2
    raise_descriptor_limit()
    sieges = []
    for mode in MODES:
        sieges.append(_besiege(mode, options.connections, options.rate, options.seconds))
        print(sieges[-1], file=sys.stderr)
    conditions = (
        _machine(),
        f"{options.connections} connections, {options.rate} new ones a second, {options.seconds} s for each mode.",
        "One worker of forkserve with no settings. The tool's probe asks once a second, and waits for 3 s.",
    )
    text = sieges_table(conditions, sieges)
    print(text)
    if options.write is not None:
        options.write.write_text(replace_section(options.write.read_text("utf-8"), HOSTILE, text), "utf-8")
    return 0 if all(siege.available == siege.seconds and not siege.fault for siege in sieges) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slow_hostile.py", description="slowhttptest against forkserve.")
    add = parser.add_argument
    add("--connections", type=int, default=2000, metavar="N", help="of the attacker (%(default)s)")
    add("--rate", type=int, default=200, metavar="N", help="of them that come in a second (%(default)s)")
    add("--seconds", type=int, default=20, metavar="N", help="for each mode (%(default)s)")
    add("--write", type=Path, metavar="FILE", help="Markdown page that gets the table between its markers")
    return parser


def _besiege(mode: Mode, connections: int, rate: int, seconds: int) -> Siege:
    """Run one mode on a fresh server."""
    server = SERVERS[0]
    port = free_port()
    command = [str(interpreter(server, HERE)), *server.arguments(port=port, workers=1, app="slow_pages:app")]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="siege-") as folder,
            tempfile.TemporaryFile() as log,
            started(command, APPS, environment(HERE.parent / ".bench" / "bytecode", server), log) as pid,
        ):
            _await_answer(pid, port, "/", time.monotonic() + 20)
            tool = [
                "slowhttptest", *mode.flags, "-c", str(connections), "-r", str(rate), "-l", str(seconds), "-p", "3",
                "-g", "-o", "siege", "-u", f"http://127.0.0.1:{port}{mode.path}",
            ]  # fmt: skip
            subprocess.run(tool, cwd=folder, capture_output=True, timeout=seconds + 60, check=False)
            return _read(mode.title, Path(folder) / "siege.csv")
    except (InvalidRunError, OSError, subprocess.TimeoutExpired) as fault:
        return Siege(mode.title, fault=str(fault))


def _read(title: str, path: Path) -> Siege:
    """Read the tool's statistics: a line a second; its column of availability is 0 where the probe got no answer."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return Siege(title, fault="slowhttptest has no statistics")
    available = sum(row["Service Available"] != "0" for row in rows)
    return Siege(title, len(rows), available, max(int(row["Connected"]) for row in rows), int(rows[-1]["Closed"]))


if __name__ == "__main__":
    sys.exit(main())
