"""Cost of a request behind nginx over a unix socket: HTTP, FastCGI, uwsgi, SCGI; forkserve, uWSGI and gunicorn.

    python benchmarks/gateways.py --peers .bench/peers --write docs/performance.md

Only the server's own CPU time counts; nginx and wrk share the other core. A fresh server for every figure, all of them
by turns, round by round.
"""

import argparse
import http.client
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import tree, wrk
from benchmarks.errors import InvalidRunError
from benchmarks.measure import free_port, has_ended, started
from benchmarks.report import replace_between_markers, table
from benchmarks.servers import APPS

MARKER = "gateways"
_APP = "small:app"
_START_S = 20.0
_WARM_UP_S = 0.5
_SERVER_CORE, _OTHER_CORE = "0", "1"
# What nginx does for each protocol; only HTTP and FastCGI keep their connections.
_PASS = {
    "HTTP": 'proxy_pass http://it; proxy_http_version 1.1; proxy_set_header Connection "";',
    "HTTP, closed": "proxy_pass http://unix:{path};",
    "FastCGI": "include {params}/fastcgi_params; fastcgi_pass it; fastcgi_keep_conn on;",
    "FastCGI, closed": "include {params}/fastcgi_params; fastcgi_pass unix:{path};",
    "uwsgi": "include {params}/uwsgi_params; uwsgi_pass unix:{path};",
    "SCGI": "include {params}/scgi_params; scgi_pass unix:{path};",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One server at one protocol."""

    server: str
    protocol: str
    command: tuple[str, ...]  # {path} is the socket; the first word is of the peers' folder


_FORKSERVE = ("python", "-m", "forkserve", "-w", "1", "--keep-alive", "75", "-b")
_UWSGI = (
    "uwsgi", "--master", "--processes", "1", "--module", _APP, "--need-app", "--disable-logging", "--die-on-term",
    "--chmod-socket=666",
)  # fmt: skip
_GUNICORN = ("gunicorn", "-w", "1", "--no-control-socket", "-b", "unix:{path}")

ROWS = (
    Row("forkserve", "HTTP", (*_FORKSERVE, "unix:{path}", _APP)),
    Row("forkserve", "HTTP, closed", (*_FORKSERVE, "unix:{path}", _APP)),
    Row("forkserve", "FastCGI", (*_FORKSERVE, "fastcgi://unix:{path}", _APP)),
    Row("forkserve", "FastCGI, closed", (*_FORKSERVE, "fastcgi://unix:{path}", _APP)),
    Row("forkserve", "uwsgi", (*_FORKSERVE, "uwsgi://unix:{path}", _APP)),
    Row("forkserve", "SCGI", (*_FORKSERVE, "scgi://unix:{path}", _APP)),
    Row("uWSGI", "HTTP", (*_UWSGI, "--http11-socket", "{path}")),
    Row("uWSGI", "FastCGI, closed", (*_UWSGI, "--fastcgi-socket", "{path}")),
    Row("uWSGI", "uwsgi", (*_UWSGI, "--socket", "{path}")),
    Row("uWSGI", "SCGI", (*_UWSGI, "--scgi-socket", "{path}")),
    Row("gunicorn sync", "HTTP, closed", (*_GUNICORN, _APP)),
    Row("gunicorn sync", "uwsgi", (*_GUNICORN, "--protocol", "uwsgi", _APP)),
    Row("gunicorn gthread", "HTTP", (*_GUNICORN, "--threads", "4", "--keep-alive", "75", _APP)),
)


def main() -> None:
    """Measure, print the table, and write it into a page if asked to."""
    parser = argparse.ArgumentParser(description="Cost of a request behind nginx over a unix socket.")
    parser.add_argument("--peers", type=Path, required=True, help="the peers' virtual environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--write", type=Path, help="a page with the markers of this table")
    options = parser.parse_args()
    figures: dict[Row, list[float]] = {row: [] for row in ROWS}
    faults: dict[Row, str] = {}
    for number in range(options.rounds):
        for row in ROWS:
            try:
                value = measure(row, options.peers.absolute(), options.seconds, options.connections)
            except InvalidRunError as fault:
                faults[row] = str(fault)
                continue
            figures[row].append(value)
            print(f"round {number + 1}: {row.server}, {row.protocol}: {value:.1f} us", flush=True)
    report = markdown(figures, faults, _conditions(options))
    print(report)
    if options.write is not None:
        options.write.write_text(replace_between_markers(options.write.read_text(), report, MARKER))


def measure(row: Row, peers: Path, seconds: int, connections: int) -> float:
    """Start one server behind nginx and return its CPU microseconds per request. Raises InvalidRunError."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        folder = Path(name)
        path = folder / "it.sock"
        first, *rest = (word.format(path=path) for word in row.command)
        program = sys.executable if row.server == "forkserve" else str(peers / "bin" / first)
        if not os.access(program, os.X_OK):
            raise InvalidRunError(f"{program} is not there")
        command = ["taskset", "-c", _SERVER_CORE, program, *rest]
        with (
            tempfile.TemporaryFile() as log,
            started(command, APPS, _environment(row), log) as pid,
            _nginx(folder, _PASS[row.protocol].format(path=path, params="/etc/nginx")) as port,
        ):
            _await_answer(pid, port)
            load = [
                "taskset", "-c", _OTHER_CORE,
                "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/",
            ]  # fmt: skip
            wrk.warm_up(load, _WARM_UP_S)
            before = tree.quiet_usage(pid)
            done = wrk.load(load, seconds)
            return tree.spent_ns(before, tree.quiet_usage(pid)) / done.requests / 1e3


def markdown(figures: dict[Row, list[float]], faults: dict[Row, str], conditions: Sequence[str]) -> str:
    """The section, without its markers."""
    least = {row: statistics.median(values) for row, values in figures.items() if values}
    own = {row.protocol: least.get(row) for row in ROWS if row.server == "forkserve"}
    rows = []
    for row in ROWS:
        values = figures[row]
        median, base = least.get(row), own.get(row.protocol)
        if median is None:
            rows.append([row.server, row.protocol, "–", "–", "–"])
            continue
        ratio = f"{median / base:.2f}" if base else "–"
        rows.append([row.server, row.protocol, f"{median:.1f}", f"{min(values):.1f} – {max(values):.1f}", ratio])
    parts = ["\n".join(f"- {sentence}" for sentence in conditions)]
    parts.append("CPU microseconds per request of the server's process tree, user and system.")
    header = ["server", "protocol", "median", "min – max", "× forkserve at the same"]
    parts.append(table(header, rows, 2))
    parts += [f"{row.server}, {row.protocol}: not measured ({fault})." for row, fault in faults.items()]
    return "\n\n".join(parts) + "\n"


def _conditions(options: argparse.Namespace) -> list[str]:
    command = f"python benchmarks/gateways.py --rounds {options.rounds} --seconds {options.seconds}"
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        f"`{command}`: nginx before one worker, {options.connections} kept connections of wrk; CPython {python}.",
        "HTTP and FastCGI over connections that nginx keeps, where the server lets it; others: one for each request.",
    ]


def _environment(row: Row) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FORKSERVE"))}
    if row.server == "forkserve":
        env["PYTHONPATH"] = str(APPS.parent.parent)
    return env


@contextmanager
def _nginx(folder: Path, directive: str) -> Iterator[int]:
    """Run nginx with one location; give its port."""
    port = free_port()
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
{"user root;" if os.getuid() == 0 else ""}
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 10000000; {temporary}
    upstream it {{ server unix:{folder}/it.sock; keepalive 32; keepalive_requests 10000000; }}
    server {{ listen 127.0.0.1:{port}; location / {{ {directive} }} }}
}}
""")
    command = ["taskset", "-c", _OTHER_CORE, "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    command += ["-e", str(folder / "error.log")]
    with tempfile.TemporaryFile() as log, started(command, folder, dict(os.environ), log):
        yield port


def _await_answer(pid: int, port: int) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if has_ended(pid):
            raise InvalidRunError("the server ended before it answered")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise InvalidRunError(f"no answer within {_START_S:g} seconds")


if __name__ == "__main__":
    main()
