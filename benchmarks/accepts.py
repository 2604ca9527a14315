"""Who gets a new connection, and who is woken for nothing: `python benchmarks/accepts.py`.

The main program: connections that come one after another to four idle workers, to four idle and four busy ones, and
many at once to four; per server how they were spread. Needs strace for the spurious wake-ups: those after which
the first accept found nothing. Everything is counted, nothing timed.
"""

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report, tree
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.servers import APPS, HERE, SERVERS, Server, interpreter, present

_SECTION = "accepts"
_CONNECTIONS = 400
_BESIDE_BUSY = 40  # connections, since each that meets a busy worker is waited for
_STUCK_S = 0.5
_CROWD = 16
_START_S = 20.0
_PATIENCE_S = 10.0
_WAITS = ("epoll_wait", "epoll_pwait", "select", "pselect6", "poll", "ppoll")
_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed)(.*)$")
_PREFORK = ("forkserve", "forkserve-threads", "gunicorn-sync", "gunicorn-gthread", "granian")


@dataclass(frozen=True, slots=True)
class Spread:
    """How the connections of one situation were spread, the busiest worker first."""

    counts: tuple[int, ...]
    stuck: int = 0  # connections that got no answer within _STUCK_S
    spurious: float | None = None  # wake-ups per connection; None: not counted
    switches: float = 0.0  # voluntary context switches of all threads per connection


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when every server could be measured."""
    parser = argparse.ArgumentParser(prog="accepts.py", description="Who gets a new connection.")
    parser.add_argument("--peers", type=compare._folder, default=".bench/peers", metavar="DIR")
    parser.add_argument("--connections", type=compare._positive, default=_CONNECTIONS, metavar="N")
    parser.add_argument(
        "--write", type=compare.page_with(_SECTION), metavar="FILE", help="Markdown page with a pair of accepts markers"
    )
    options = parser.parse_args(argv)
    versions, remarks = present([server for server in SERVERS if server.name in _PREFORK], options.peers)
    rows = []
    for server in versions:
        try:
            spreads = measure(server, options.peers, options.connections)
        except InvalidRunError as fault:
            remarks.append(f"{server.name}: {fault}")
            continue
        rows.append([server.name, *_cells(spreads)])
        print(rows[-1], file=sys.stderr)
    text = _markdown(options.connections, rows, remarks)
    print(text)
    if options.write is not None:
        page = options.write
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), text, _SECTION), "utf-8")
    return 0 if len(rows) == len(versions) else 1


def measure(server: Server, peers: Path, connections: int) -> tuple[Spread, Spread, Spread, Spread]:
    """Four idle workers, eight of which four are busy, a crowd on four, and four idle ones under strace."""
    with _running(server, peers, 4) as (pid, port):
        idle = _one_by_one(pid, port, connections)
        crowd = _all_at_once(port, connections)
        watched = _watched(pid, port, connections) if shutil.which("strace") else idle
    with _running(server, peers, 8) as (pid, port), _busy(port, 4 * _threads(server)):
        half = _one_by_one(pid, port, _BESIDE_BUSY, patience_s=_STUCK_S)
    return idle, half, crowd, watched


def spurious(lines: Iterable[str]) -> tuple[int, int]:
    """Count in what strace wrote: threads woken whose first accept then found nothing, and connections accepted."""
    woken: set[str] = set()
    wasted = accepted = 0
    for line in lines:
        found = _CALL.match(line)
        if found is None or "<unfinished" in found[3]:
            continue
        thread, call, rest = found.groups()
        if call in _WAITS:
            woken.add(thread)
        elif call in ("accept4", "accept"):
            wasted += thread in woken and "EAGAIN" in rest
            accepted += bool(re.search(r"= \d+$", rest))
            woken.discard(thread)
    return wasted, accepted


def _cells(spreads: tuple[Spread, Spread, Spread, Spread]) -> list[str]:
    idle, half, crowd, watched = spreads
    counts = [" / ".join(map(str, spread.counts)) for spread in (idle, half, crowd)]
    counts[1] += f", stuck: {half.stuck}" if half.stuck else ""
    wasted = "–" if watched.spurious is None else f"{watched.spurious:.2f}"
    return [*counts, wasted, f"{idle.switches:.1f}"]


def _markdown(connections: int, rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    header = ["server", "4 idle", "4 idle, 4 busy", "4, all at once", "spurious wake-ups", "context switches"]
    how = f"{connections} connections with one request each, one after another, or {_CROWD} at once to a page of 5 ms."
    conditions = (
        compare._machine(),
        f"`python benchmarks/accepts.py --connections {connections}`",
        f"{how} A number for each worker that got any.",
        "*4 busy*: eight workers, and as many requests as four of them have threads last all the while.",
        f"{_BESIDE_BUSY} connections beside those; *stuck* are those that got no answer within {_STUCK_S:g} s.",
        "Per connection, over four idle workers: wake-ups after which the first accept found nothing (strace).",
        "Per connection likewise: voluntary context switches of all threads of the tree.",
    )  # fmt: skip
    parts = ["\n".join(f"- {sentence}" for sentence in conditions), report.table(header, rows, 1)]
    if remarks:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


@contextmanager
def _running(server: Server, peers: Path, workers: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    words = server.arguments(port=port, workers=workers, app="who:app")
    env = environment(HERE.parent / ".bench" / "bytecode", server)
    command = [str(interpreter(server, peers)), *words]
    with tempfile.TemporaryFile() as log, started(command, APPS, env, log) as pid:
        _await_answer(pid, port, "/", time.monotonic() + _START_S)
        time.sleep(2)  # all workers have booted, or too few are counted and the table shows it
        yield pid, port


@contextmanager
def _busy(port: int, count: int) -> Iterator[None]:
    """So many requests that last until the end of the block, begun one after another: each takes a thread."""
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder) / "end"
        connections = []
        try:
            for _ in range(count):
                connections.append(_ask(port, f"/hold?{end}"))
                time.sleep(0.05)  # taken up, before the next one comes
            yield
        finally:
            end.touch()
            for connection in connections:
                connection.recv(1)
                connection.close()


def _threads(server: Server) -> int:
    return 4 if "--threads" in server.command else 1


def _one_by_one(root: int, port: int, count: int, patience_s: float = _PATIENCE_S) -> Spread:
    before = _switches(root)
    found = Counter(_who(port, "/", patience_s) for _ in range(count))
    stuck = found.pop(b"", 0)
    return Spread(_ordered(found), stuck, switches=(_switches(root) - before) / count)


def _all_at_once(port: int, count: int) -> Spread:
    with ThreadPoolExecutor(_CROWD) as clients:
        return Spread(_ordered(Counter(clients.map(lambda _: _who(port, "/pause"), range(count)))))


def _watched(root: int, port: int, count: int) -> Spread:
    """The same as one by one, under strace."""
    with tempfile.NamedTemporaryFile("r") as trace:
        calls = ",".join((*_WAITS, "accept4", "accept"))
        command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-e", "signal=none", "-o", trace.name]
        command += [word for pid in tree.pids(root) for word in ("-p", str(pid))]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as strace:
            time.sleep(1)  # attached, or the trace is empty and says so
            found = Counter(_who(port, "/") for _ in range(count))
            strace.send_signal(signal.SIGINT)
        wasted, accepted = spurious(trace)
    return Spread(_ordered(found), spurious=wasted / accepted if accepted else None)


def _ordered(found: Counter[bytes]) -> tuple[int, ...]:
    return tuple(count for _, count in found.most_common())


def _who(port: int, path: str, patience_s: float = _PATIENCE_S) -> bytes:
    """The pid that answers on a new connection; nothing, if none does."""
    answer = b""
    with _ask(port, path, patience_s) as connection:
        try:
            while got := connection.recv(4096):
                answer += got
        except TimeoutError:
            pass
    return answer.rpartition(b"\r\n\r\n")[2]


def _ask(port: int, path: str, patience_s: float = _PATIENCE_S) -> socket.socket:
    try:
        connection = socket.create_connection(("127.0.0.1", port), patience_s)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    except OSError as error:
        raise InvalidRunError(f"a request failed: {error}") from error
    return connection


def _switches(root: int) -> int:
    """Voluntary context switches of all threads of a tree."""
    total = 0
    for pid in tree.pids(root):
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            total += int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)[0])
    return total


if __name__ == "__main__":
    sys.exit(main())
