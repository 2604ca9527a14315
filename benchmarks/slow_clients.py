"""What an honest client feels while a crowd of slow ones sits on the same single worker, beside the peers.

The main program: `python benchmarks/slow_clients.py`. Starts each server, gathers the crowd (a process of its own),
asks one small request after another on new connections for some seconds, and writes a table. Servers run on one core,
crowd and honest client on another, where taskset (util-linux) is there.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import tree
from benchmarks.compare import _machine, _pin
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.openloop import Ask, Load
from benchmarks.servers import APPS, HERE, SERVERS, Server, interpreter, present
from benchmarks.slow_crowd import raise_descriptor_limit
from benchmarks.slow_report import CLIENTS, Feeling, clients_table, replace_section

_SERVER = {server.name: server for server in SERVERS}
_ROOM = 4000  # connections, for the servers that can be told how many they may hold
_APP = "slow_pages:app"
_END_S = 20.0


def _with_flags(name: str, title: str, *flags: str) -> Server:
    server = _SERVER[name]
    return replace(server, name=title, command=(*server.command[:-1], *flags, server.command[-1]))


SUBJECTS = (
    _with_flags("forkserve", f"forkserve, room for {_ROOM}", "--worker-connections", str(_ROOM)),
    _with_flags("forkserve", "forkserve, as it comes"),
    _with_flags("gunicorn-sync", "gunicorn-sync"),
    _with_flags("waitress", "waitress, as it comes"),
    _with_flags(
        "waitress", f"waitress, room for {_ROOM}", "--connection-limit", str(_ROOM), "--asyncore-use-poll",
    ),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when there is a figure for each server that is installed."""
    options = _parser().parse_args(argv)
    raise_descriptor_limit()
    versions, remarks = present(SUBJECTS, options.peers)
    core, pinned = _pin()
    conditions = (
        _machine(), pinned,
        f"`{shlex.join(['python', 'benchmarks/slow_clients.py', '--seconds', str(options.seconds)])}`",
        f"{options.heads} clients send a head and {options.bodies} a body at a byte a second.",
        f"{options.readers} ask for 4 MiB and take 16 bytes a second. Who is closed comes again. One worker has all.",
        f"Beside them {options.rate} small requests a second, each on a new connection, for {options.seconds} s.",
        "A request is given up after 8 s.",
    )  # fmt: skip
    feelings = []
    for server in versions:
        feelings.append(_feel(server, options, core))
        print(f"{server.name}: {len(feelings[-1].answered_ms)} of {feelings[-1].asked}", file=sys.stderr)
    text = clients_table(conditions, feelings, remarks)
    print(text)
    if options.write is not None:
        options.write.write_text(replace_section(options.write.read_text("utf-8"), CLIENTS, text), "utf-8")
    return 1 if not feelings or any(f.fault for f in feelings) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slow_clients.py", description="An honest client amid slow ones.")
    add = parser.add_argument
    add("--heads", type=int, default=2000, metavar="N", help="clients that are slow with a head (%(default)s)")
    add("--bodies", type=int, default=500, metavar="N", help="with a body (%(default)s)")
    add("--readers", type=int, default=500, metavar="N", help="with reading (%(default)s)")
    add("--rate", type=int, default=50, metavar="N", help="honest requests a second (%(default)s)")
    add("--seconds", type=int, default=10, metavar="N", help="of honest requests (%(default)s)")
    add("--peers", type=lambda text: Path(text).absolute(), default=Path(".bench/peers").absolute(), metavar="DIR",
        help="virtual environment of the peers")  # fmt: skip
    add("--write", type=Path, metavar="FILE", help="Markdown page that gets the table between its markers")
    return parser


def _feel(server: Server, options: argparse.Namespace, core: int | None) -> Feeling:
    """Put the crowd on one server and ask; a fault stands in place of the figures."""
    port = free_port()
    command = [str(interpreter(server, options.peers)), *server.arguments(port=port, workers=1, app=_APP)]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    bytecode = HERE.parent / ".bench" / "bytecode"
    try:
        with (
            tempfile.TemporaryFile() as log,
            started(command, APPS, environment(bytecode, server), log) as pid,
        ):
            _await_answer(pid, port, "/", time.monotonic() + 20)
            return _amid(server.name, pid, port, options)
    except InvalidRunError as fault:
        return Feeling(server.name, fault=str(fault))


def _amid(name: str, pid: int, port: int, options: argparse.Namespace) -> Feeling:
    """Gather the crowd, ask, and read what it cost."""
    idle_bytes = tree.pss_bytes(pid)
    before_pids = set(tree.pids(pid))
    numbers = [str(number) for number in (port, options.heads, options.bodies, options.readers)]
    crowd = subprocess.Popen(
        [sys.executable, str(HERE / "slow_crowd.py"), *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=HERE.parent, env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    try:
        assert crowd.stdout is not None
        crowd.stdout.readline()  # gathered, or as far as the server lets them
        before = tree.usage(pid).cpu_ns
        began = time.monotonic()
        count = options.rate * options.seconds
        with Load(port, [Ask(number / options.rate) for number in range(count)], b"ok\n") as load:
            load.finish()
        wall_s = time.monotonic() - began
        after = tree.usage(pid).cpu_ns
        busy = sum(spent - before.get(key, 0) for key, spent in after.items()) / 1e9 / wall_s
        memory = tree.pss_bytes(pid) - idle_bytes
        survived = before_pids <= set(tree.pids(pid))
        said, _ = crowd.communicate("", timeout=_END_S)
        told = json.loads(said.splitlines()[-1])
    finally:
        crowd.kill()
        crowd.wait()
    answered = sorted(entry.latency_s * 1e3 for entry in load.entries if not entry.failed)
    return Feeling(name, len(load.entries), tuple(answered), busy, memory, told["begun"], told["reopened"], survived)


if __name__ == "__main__":
    sys.exit(main())
