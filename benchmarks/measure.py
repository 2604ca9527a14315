"""Start one server, take one figure of one case, end the server; nothing of it is left behind.

Every figure is taken from a fresh process, so rounds also sample what differs from start to start (hash seeds,
address layout). A run that cannot be trusted has no figure.
"""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, assert_never

from benchmarks import idle, tree, wrk
from benchmarks.cases import Case, Kind, More
from benchmarks.errors import InvalidRunError
from benchmarks.servers import APPS, HERE, Server, interpreter

_START_S = 20.0
_WARM_UP_S = 0.4
_STOP_S = 10.0
_POLL_S = 0.001
_MEMORY_REQUESTS = 200
_MEMORY_CLIENTS = 4  # for each worker: it may have so many threads
_MEMORY_S = 20.0
# Many workers start on all cores; what they hold and do when idle is the same wherever they are.
_PINNED = (Kind.CPU, Kind.START)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for all figures of a run."""

    peers: Path  # the peers' virtual environment
    seconds: int  # of load per figure, after a warm-up
    connections: int
    server_core: int | None  # None: not pinned
    bytecode: Path  # where all servers keep compiled modules
    held: int = 10_000  # idle connections
    idle_s: float = 6.0  # how long idleness is watched


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value in the unit of its case, or the fault that stands in its place."""

    case: str
    server: str
    round: int
    value: float | None = None
    fault: str = ""
    requests: int = 0
    wall_s: float = 0.0
    cpu_ns: int = 0

    @property
    def busy(self) -> float:
        """The share of one core that the server used during the load; 0 where there was none."""
        return self.cpu_ns / 1e9 / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    port: int
    first_answer_s: float


def can(server: Server, case: Case) -> bool:
    """Whether a server has what a case asks for."""
    if case.only and server.name not in case.only:
        return False
    if case.more is More.HOLDING and server.holding is None:
        return False
    return case.workers == 1 or server.prefork


def figure(setup: Setup, server: Server, case: Case, number: int) -> Figure:
    """Take one figure; an InvalidRunError becomes its fault, so that the others are still taken."""
    try:
        with _running(setup, server, case) as running:
            match case.kind:
                case Kind.CPU:
                    return _cpu(setup, server, case, number, running)
                case Kind.START:
                    return Figure(case.name, server.name, number, running.first_answer_s * 1e3)
                case Kind.MEMORY:
                    _reach_all_workers(case, running.port)
                    return Figure(case.name, server.name, number, tree.pss_bytes(running.pid) / 2**20)
                case Kind.IDLE:
                    value = idle.cpu_us_per_s(running.pid, case.workers, setup.idle_s)
                    return Figure(case.name, server.name, number, value)
                case Kind.HELD:
                    value = idle.kib_per_connection(running.pid, running.port, setup.held)
                    return Figure(case.name, server.name, number, value)
                case Kind.HELD_CPU:
                    value = idle.cpu_of_held(running.pid, running.port, setup.held, setup.idle_s)
                    return Figure(case.name, server.name, number, value)
                case _:
                    assert_never(case.kind)
    except InvalidRunError as fault:
        return Figure(case.name, server.name, number, fault=str(fault))


def _cpu(setup: Setup, server: Server, case: Case, number: int, running: _Running) -> Figure:
    command = _wrk_command(setup, case, running.port)
    # The interpreter specialises its bytecode, connections and buffers have been there once.
    wrk.warm_up(command, _WARM_UP_S)
    before = tree.quiet_usage(running.pid)
    done = wrk.load(command, setup.seconds)
    spent_ns = tree.spent_ns(before, tree.quiet_usage(running.pid))
    value = spent_ns / done.requests / 1e3
    return Figure(case.name, server.name, number, value, "", done.requests, done.wall_s, spent_ns)


def _wrk_command(setup: Setup, case: Case, port: int) -> list[str]:
    command = ["wrk", "-t1", f"-c{setup.connections}", f"-d{setup.seconds}s"]
    for header in case.headers:
        command += ["-H", header]
    if case.script:
        command += ["-s", str(HERE / case.script)]
    return [*command, f"http://127.0.0.1:{port}{case.path}"]


def _reach_all_workers(case: Case, port: int) -> None:
    """Make requests side by side until every worker has answered and enough were made."""
    end = time.monotonic() + _MEMORY_S
    seen: set[bytes] = set()
    made = 0
    wanted = _MEMORY_CLIENTS * case.workers
    with ThreadPoolExecutor(wanted) as clients:
        while made < _MEMORY_REQUESTS or len(seen) < case.workers:
            if time.monotonic() > end:
                raise InvalidRunError(
                    f"only {len(seen)} of {case.workers} workers answered within {_MEMORY_S:g} seconds"
                )
            try:
                seen |= set(clients.map(lambda _: _get(port, case.path, _MEMORY_S), range(wanted)))
            except (OSError, http.client.HTTPException) as error:
                raise InvalidRunError(f"a request failed: {error!r}") from error
            made += wanted


@contextmanager
def _running(setup: Setup, server: Server, case: Case) -> Iterator[_Running]:
    """Start the server, wait for its first answer; at the end stop it and kill what is left of it."""
    port = free_port()
    python = str(interpreter(server, setup.peers))
    more = {More.NOTHING: (), More.LOG: server.logging or (), More.HOLDING: server.holding or ()}[case.more]
    command = [python, *server.arguments(port=port, workers=case.workers, app=case.app, more=more)]
    if setup.server_core is not None and case.kind in _PINNED:
        command = ["taskset", "-c", str(setup.server_core), *command]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as log, started(command, APPS, environment(setup.bytecode, server), log) as pid:
        _await_answer(pid, port, case.path, begun + _START_S)
        yield _Running(pid, port, time.monotonic() - begun)


@contextmanager
def started(command: Sequence[str], folder: Path, env: Mapping[str, str], log: IO[bytes]) -> Iterator[int]:
    """Start a server in a session of its own and give its pid; at the end stop it and kill what is left of it.

    An InvalidRunError of the block gets the last line of the log.
    """
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield process.pid
    except InvalidRunError as fault:
        raise InvalidRunError(f"{fault}{_last_words(log)}") from fault
    finally:
        _end(process)


def environment(bytecode: Path, server: Server) -> dict[str, str]:
    """Ours, cleaned of what would favour one server.

    Peers are installed with their bytecode and forkserve runs from its tree, which has none where writing it is
    switched off: it would compile itself at every start. So all servers use one cache, filled by the dropped round.
    """
    theirs = ("PYTHON", "FORKSERVE", "GUNICORN", "GRANIAN")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    env["PYTHONPYCACHEPREFIX"] = str(bytecode)
    if server.own:
        env["PYTHONPATH"] = str(server.code)
    return env


def _await_answer(pid: int, port: int, path: str, end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        if has_ended(pid):
            raise InvalidRunError("the server ended before it answered")
        try:
            _get(port, path, left)
            return
        except (OSError, http.client.HTTPException):  # nobody listens yet, or not yet in earnest
            time.sleep(_POLL_S)
    raise InvalidRunError(f"no answer within {_START_S:g} seconds")


def _get(port: int, path: str, timeout_s: float) -> bytes:
    """The body of an answer; InvalidRunError when its status is not 200, OSError or HTTPException when none came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise InvalidRunError(f"the answer to {path} was {answer.status}")
            return answer.read()
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server and whatever is left in its process group.

    The root stays a zombie until the group was killed, so its number cannot have been given to anyone else.
    """
    handle = os.pidfd_open(process.pid)
    try:
        os.kill(process.pid, signal.SIGTERM)
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        if not ended.poll(_STOP_S * 1e3):
            print(f"pid {process.pid} did not stop within {_STOP_S:g} seconds and was killed", file=sys.stderr)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(handle)


def has_ended(pid: int) -> bool:
    """Whether a server that `started` gave has ended; its pid stays its own until the block is left."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f" (its last words: {lines[-1]})" if lines else ""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
