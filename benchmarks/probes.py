"""Ask forkserve and its peers the same questions over raw sockets: `python benchmarks/probes.py`.

The main program: starts each server with one worker, runs every probe of benchmarks/probe_table.py, prints the table
and writes it where it was told.
"""

import argparse
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from benchmarks.errors import InvalidRunError
from benchmarks.measure import environment, free_port, started
from benchmarks.probe_table import ROWS, Row, get
from benchmarks.probe_wire import await_answer
from benchmarks.servers import APPS, SERVERS, Server, interpreter, present

RIGHT, WRONG = "✔", "✘"
_START_S = 20.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probes; 0 when all is right for forkserve (or it was not asked), 1 when something is not."""
    options = _parser().parse_args(argv)
    versions, remarks = present([server for server in SERVERS if server.name in options.servers], options.peers)
    for remark in remarks:
        print(remark, file=sys.stderr)
    cells: dict[str, list[str]] = {}
    for server in versions:
        try:
            cells[server.name] = _probed(server, options.peers)
        except InvalidRunError as error:
            remarks.append(f"{server.name}: {error}")
    text = _markdown(cells, {server.name: version for server, version in versions.items()}, remarks, options.servers)
    print(text)
    if options.write is not None:
        options.write.write_text(report.replace_between_markers(options.write.read_text("utf-8"), text), "utf-8")
    return 1 if any(cell.startswith(WRONG) for cell in cells.get("forkserve", [])) else 0


def _parser() -> argparse.ArgumentParser:
    names = [server.name for server in SERVERS]

    def known(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"{name}: not one of {', '.join(names)}")
        return name

    parser = argparse.ArgumentParser(prog="probes.py", description="What forkserve and its peers make of odd requests.")
    parser.add_argument("servers", nargs="*", default=names, type=known, help="(all)", metavar="SERVER")
    parser.add_argument("--peers", type=Path, default=Path(".bench/peers"), metavar="DIR",
                        help="virtual environment of the peers (%(default)s)")  # fmt: skip
    parser.add_argument("--write", type=Path, metavar="FILE", help="page that gets the table between its two markers")
    return parser


def _probed(server: Server, peers: Path) -> list[str]:
    """A cell for each row."""
    port = free_port()
    command = [str(interpreter(server, peers.absolute())), *server.arguments(port=port, workers=1, app="probed:app")]
    with (
        tempfile.TemporaryDirectory(prefix="probes-") as bytecode,
        tempfile.TemporaryFile() as log,
        started(command, APPS, environment(Path(bytecode), server), log),
    ):
        if not await_answer(port, get("/sized"), b"hello", _START_S):
            raise InvalidRunError(f"no answer within {_START_S:g} seconds")
        return [_cell(row, port) for row in ROWS]


def _cell(row: Row, port: int) -> str:
    verdicts = [probe(port) for probe in row.probes]
    if all(right for right, _ in verdicts):
        return RIGHT
    return f"{WRONG} " + " / ".join(RIGHT if right else told.replace("|", "\\|") for right, told in verdicts)


def _markdown(
    cells: dict[str, list[str]], versions: dict[str, str], remarks: Sequence[str], servers: Sequence[str]
) -> str:
    words = ["python", "benchmarks/probes.py", *(servers if len(servers) < len(SERVERS) else ())]
    conditions = [
        f"{datetime.now(UTC):%Y-%m-%d}: Linux {platform.release()}, CPython {platform.python_version()}.",
        f"`{shlex.join(words)}`",
        *remarks,
    ]
    rows = [[row.title, *(cells[name][number] for name in cells)] for number, row in enumerate(ROWS)]
    score = ["right", *(f"{sum(cell == RIGHT for cell in column)} of {len(ROWS)}" for column in cells.values())]
    header = ["behaviour", *(f"{name} {versions[name]}" for name in cells)]
    table = report._table(header, [*rows, score], len(header))
    return "\n".join(f"- {sentence}" for sentence in conditions) + f"\n\n{table}\n"


if __name__ == "__main__":
    sys.exit(main())
