"""How late events are beside big downloads, through nginx and directly: `python benchmarks/streams.py`.

The main program: a stream of events, and beside it a client that downloads 100 MB each second and one that takes
64 KiB every 50 ms. Each event carries the moment at which the app made it. Latencies here are wall clock, so it reports
and judges nothing. Needs nginx.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report
from benchmarks.errors import InvalidRunError
from benchmarks.measure import environment, free_port, has_ended, started
from benchmarks.mix import percentile
from benchmarks.servers import APPS, HERE, SERVERS, Server, interpreter, present
from benchmarks.stream_load import Plan, Told, run

SECTION = "streams"
FIRSTS = (0, 6_000_000)  # bytes before the first event: in one piece more than any buffer of the kernel takes
GOAL_MS = 10.0
_BESIDE = (
    "An event every 20 ms, and beside it a client that downloads 100 MB each second and one that takes 64 KiB every 50"
    " ms, all by the same way. nginx has `proxy_buffering off` for the events."
)
_FIGURES = (
    "Milliseconds from the moment at which the app made an event until its reader had it. Server, nginx and clients"
    " share all cores; *alone* is the p99 of a second without downloads."
)
_SERVER = {server.name: server for server in SERVERS}
_START_S = 20.0
_AHEAD_S = 0.5  # the downloads begin before the events
_ALONE_S = 1
_AFTER_S = 5.0  # events that are held back come at the end, if at all


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to run a server."""

    name: str
    server: Server
    workers: int


SUBJECTS = (
    Subject("forkserve, 2 workers", _SERVER["forkserve"], 2),
    Subject("forkserve, 4 threads", _SERVER["forkserve-threads"], 1),
    Subject("gunicorn gthread, 4 threads", _SERVER["gunicorn-gthread"], 1),
)


@dataclass(frozen=True, slots=True)
class Way:
    """How clients come to a server: by which transport, and by which HTTP nginx or they themselves speak to it."""

    transport: str
    version: str
    nginx: bool

    @property
    def name(self) -> str:
        """A cell of the table."""
        return f"{'nginx, ' if self.nginx else 'direct, '}HTTP/{self.version}, {self.transport}"


WAYS = tuple(
    Way(transport, version, nginx)
    for nginx in (False, True) for version in ("1.0", "1.1") for transport in ("tcp", "unix")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One row: how old events were when they arrived, or the fault in its place."""

    subject: str
    way: str
    first: int
    ages_ms: tuple[float, ...] = ()  # sorted
    alone_ms: float = 0.0  # p99 without downloads
    downloaded: int = 0  # bytes, by both
    fault: str = ""

    @property
    def p99_ms(self) -> float:
        """What 99 of 100 events do not exceed."""
        return percentile(self.ages_ms, 99)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when every row has figures, 2 when nginx is not installed."""
    options = _parser().parse_args(argv)
    if shutil.which("nginx") is None:
        print("nginx is missing: tests/gateways/install installs it", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, compare._interrupt)
    versions, remarks = present([subject.server for subject in SUBJECTS], options.peers)
    try:
        runs = list(_runs(options, [subject for subject in SUBJECTS if subject.server in versions]))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    text = markdown(_conditions(options), runs, remarks)
    print(text)
    if options.write is not None:
        page = options.write
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), text, SECTION), "utf-8")
    return 1 if not runs or any(run.fault for run in runs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streams.py", description="How late events are beside big downloads.")
    add = parser.add_argument
    add("--seconds", type=compare._positive, default=4, metavar="N", help="of each stream (%(default)s)")
    add("--peers", type=compare._folder, default=".bench/peers", metavar="DIR", help="environment of the peers")
    add("--code", type=compare._folder, default=HERE.parent, metavar="DIR", help="tree whose forkserve is run")
    add("--write", type=compare.page_with(SECTION), metavar="FILE", help="Markdown page that gets the table")
    return parser


def _runs(options: argparse.Namespace, subjects: Sequence[Subject]) -> Iterator[Run]:
    for subject in subjects:
        for way in WAYS:
            for first in FIRSTS:
                try:
                    row = _run(options, subject, way, first)
                except InvalidRunError as fault:
                    row = Run(subject.name, way.name, first, fault=str(fault))
                said = row.fault or f"{len(row.ages_ms)} events, p99 {row.p99_ms:.1f} ms"
                print(f"{subject.name}, {way.name}, {first} bytes first: {said}", file=sys.stderr, flush=True)
                yield row


def _run(options: argparse.Namespace, subject: Subject, way: Way, first: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="streams-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        port = free_port()
        upstream = f"127.0.0.1:{port}" if way.transport == "tcp" else str(folder / "it.sock")
        words = subject.server.arguments(port=port, workers=subject.workers, app="streamed:app")
        if way.transport == "unix":
            words = [f"unix:{upstream}" if word == f"127.0.0.1:{port}" else word for word in words]
        env = environment(HERE.parent / ".bench" / "bytecode", subject.server)
        if subject.server.own:
            env["PYTHONPATH"] = str(options.code)
        log = stack.enter_context((folder / "log").open("w+b"))
        command = [str(interpreter(subject.server, options.peers)), *words]
        pid = stack.enter_context(started(command, APPS, env, log))
        place = stack.enter_context(_nginx(folder / "nginx", upstream, way.version)) if way.nginx else upstream
        # What a client says to nginx is no matter; without chunks it has less to do.
        version = "1.0" if way.nginx else way.version
        _await_answer(pid, place)
        time.sleep(_AHEAD_S)  # the other workers boot
        return _load(options.seconds, subject, way, first, place, version)


def _load(seconds: int, subject: Subject, way: Way, first: int, place: str, version: str) -> Run:
    alone = _events(place, version, first, _ALONE_S)
    with ExitStack() as stack:
        downloads = [
            stack.enter_context(_client(Plan(place, "/download", version, _AHEAD_S + seconds, slow=slow)))
            for slow in (False, True)
        ]
        time.sleep(_AHEAD_S)
        ages_ms = _events(place, version, first, seconds)
        taken = sum(_told(client, seconds).body_bytes for client in downloads)
    return Run(subject.name, way.name, first, tuple(ages_ms), percentile(alone, 99), taken)


def _events(place: str, version: str, first: int, seconds: int) -> list[float]:
    """Read a stream; the ages of its events, sorted."""
    plan = Plan(place, f"/events?first={first}&seconds={seconds}", version, seconds + _AFTER_S, events=True)
    with _client(plan) as client:
        ages_ms = sorted(_told(client, plan.seconds).ages_ms)
    if not ages_ms:
        raise InvalidRunError("no event arrived")
    return ages_ms


@contextmanager
def _client(plan: Plan) -> Iterator["subprocess.Popen[str]"]:
    """Start a client; it has ended when the block is left."""
    client = subprocess.Popen(
        [sys.executable, str(HERE / "stream_load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert client.stdin is not None
        client.stdin.write(json.dumps(asdict(plan)))
        client.stdin.close()
        client.stdin = None
        yield client
    finally:
        client.kill()
        client.wait()
        if client.stdout is not None:
            client.stdout.close()


def _told(client: "subprocess.Popen[str]", bound_s: float) -> Told:
    try:
        said, _ = client.communicate(timeout=bound_s + 30)
    except subprocess.TimeoutExpired as error:
        raise InvalidRunError("a client did not end") from error
    if client.returncode:
        raise InvalidRunError("a client failed")
    told = Told(**json.loads(said))
    if told.fault:
        raise InvalidRunError(told.fault)
    return told


@contextmanager
def _nginx(folder: Path, upstream: str, version: str) -> Iterator[str]:
    """Run nginx before the server; give its address."""
    folder.mkdir()
    place = f"127.0.0.1:{free_port()}"
    shown = upstream if ":" in upstream else f"unix:{upstream}"
    kinds = ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
{"user root;" if os.getuid() == 0 else ""}
events {{ worker_connections 512; }}
http {{
    access_log off; {temporary}
    server {{
        listen {place}; proxy_http_version {version};
        location / {{ proxy_pass http://{shown}; }}
        location /events {{ proxy_pass http://{shown}; proxy_buffering off; }}
    }}
}}
""")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "output").open("w+b") as log, started(command, folder, dict(os.environ), log):
        yield place


def _await_answer(pid: int, place: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if has_ended(pid):
            raise InvalidRunError("the server ended before it answered")
        if not run(Plan(place, "/", "1.0", 5.0, events=True)).fault:
            return
        time.sleep(0.02)
    raise InvalidRunError(f"no answer within {_START_S:g} seconds")


def markdown(conditions: Sequence[str], runs: Sequence[Run], remarks: Sequence[str]) -> str:
    """The section of docs/performance.md, without its markers."""
    parts = ["\n".join(f"- {sentence}" for sentence in conditions), _goal(runs)]
    rows = []
    for row in runs:
        if row.ages_ms:
            figures = [percentile(row.ages_ms, 50), row.p99_ms, row.ages_ms[-1], row.alone_ms]
            rest = [f"{len(row.ages_ms)}", f"{row.downloaded / 1e6:,.0f}"]
            rows.append([row.subject, row.way, _first(row.first), *(f"{ms:.2f}" for ms in figures), *rest])
    header = ["server", "way", "first piece", "p50", "p99", "max", "alone", "events", "MB beside"]
    parts.append(report.table(header, rows, 3))
    faults = [f"- {row.subject}, {row.way}, {_first(row.first)} first: {row.fault}" for row in runs if row.fault]
    if lines := [*(f"- {remark}" for remark in remarks), *faults]:
        parts.append("\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def _goal(runs: Sequence[Run]) -> str:
    own = [row for row in runs if row.subject.startswith("forkserve")]
    if not own:
        return ""
    met = sum(bool(row.ages_ms) and row.p99_ms <= GOAL_MS for row in own)
    verdict = "met" if met == len(own) else "not met"
    goal = f"p99 of forkserve at most {GOAL_MS:g} ms, whose readers read"
    return report.table(["goal", "measured", ""], [[goal, f"{met} of {len(own)} rows", verdict]], 2)


def _first(size: int) -> str:
    return f"{size / 1e6:g} MB" if size else "an event"


def _conditions(options: argparse.Namespace) -> tuple[str, ...]:
    command = shlex.join(["python", "benchmarks/streams.py", "--seconds", str(options.seconds)])
    return (compare._machine(), f"`{command}`", _BESIDE, _FIGURES)


if __name__ == "__main__":
    sys.exit(main())
