"""Who waits for whom: overload, and clients that send many requests at once: `python benchmarks/fairness.py`.

The main program. Overload: 60 clients with a connection for each request of 100 ms. Pipelines: what a neighbour waits
beside a client that has sent 496 requests of 10 ms at once, and what such clients cost in memory that read nothing.
"""

import argparse
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report, tree
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.mix import percentile
from benchmarks.servers import APPS, HERE, SERVERS, Server, interpreter, present

_SECTION = "fairness"
_START_S = 20.0
_CLIENTS = 60
_PIPELINED, _BEHIND_BYTES, _STUCK = 496, 64 * 1024, 300
_PERCENTS = (50, 90, 99, 100)
_GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to run a server."""

    name: str
    server: Server
    more: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run all; 0 when everything was answered."""
    parser = argparse.ArgumentParser(prog="fairness.py", description="Who waits for whom.")
    parser.add_argument("--seconds", type=compare._positive, default=8, metavar="N", help="of each run (%(default)s)")
    parser.add_argument("--peers", type=compare._folder, default=".bench/peers", metavar="DIR")
    parser.add_argument("--write", type=compare.page_with(_SECTION), metavar="FILE", help="page with a pair of markers")
    options = parser.parse_args(argv)
    versions, remarks = present(list(SERVERS), options.peers)
    rows = {server.name: server for server in versions}
    wanted = [
        ("forkserve", "forkserve", ()),
        ("forkserve, no relay", "forkserve", ("--no-relay",)),
        ("forkserve, 4 threads", "forkserve-threads", ()),
        ("gunicorn-sync", "gunicorn-sync", ()),
        ("gunicorn-gthread", "gunicorn-gthread", ()),
    ]
    subjects = [Subject(name, rows[row], more) for name, row, more in wanted if row in rows]
    text = "\n\n".join([
        f"- {compare._machine()}\n- `python benchmarks/fairness.py`",
        "### Overload\n\n60 clients, a connection for each request, requests of 100 ms; milliseconds.\n\n"
        + _overload(subjects, options),
        f"### Beside a pipeline\n\nOne worker. One client sends {_PIPELINED} requests of 10 ms at once; another asks"
        f" for a fast page, 30 times in a row, beside it. Then {_STUCK} clients ask for 8 MiB, read nothing, and have"
        " 64 KiB of requests behind: memory per connection beyond that of clients which only ask for the 8 MiB.\n\n"
        + _pipelines(subjects, options),
        *("\n".join(f"- {remark}" for remark in remarks) for _ in [0] if remarks),
    ])  # fmt: skip
    print(text)
    if options.write is not None:
        page = options.write
        page.write_text(report.replace_between_markers(page.read_text("utf-8"), f"{text}\n", _SECTION), "utf-8")
    return 0


@contextmanager
def serving(options: argparse.Namespace, subject: Subject, workers: int) -> Iterator[tuple[int, int]]:
    """Run one; gives pid and port."""
    port = free_port()
    words = subject.server.arguments(port=port, workers=workers, app="fair:app", more=subject.more)
    env = environment(HERE.parent / ".bench" / "bytecode", subject.server)
    command = [str(interpreter(subject.server, options.peers)), *words]
    with tempfile.TemporaryFile() as log, started(command, APPS, env, log) as pid:
        _await_answer(pid, port, "/", time.monotonic() + _START_S)
        time.sleep(0.5)  # the other workers boot
        yield pid, port


def _overload(subjects: Sequence[Subject], options: argparse.Namespace) -> str:
    rows = []
    for workers in (1, 2, 4):
        for subject in subjects:
            with serving(options, subject, workers) as (_, port):
                told = sorted(_crowd(port, options.seconds))
            waits = [f"{percentile(told, one) * 1000:.0f}" for one in _PERCENTS]
            rows.append([str(workers), subject.name, f"{len(told)}", *waits])
            print(" | ".join(rows[-1]), file=sys.stderr)
    return report.table(["workers", "server", "requests", "p50", "p90", "p99", "worst"], rows, 2)


def _crowd(port: int, seconds: float) -> list[float]:
    """Ask for so long; return how long each request took, in seconds."""
    told: list[float] = []
    until = time.monotonic() + seconds

    def go_on() -> None:
        while (began := time.monotonic()) < until:
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"GET /100 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b""
                while data := sock.recv(4096):
                    answer += data
            if not answer.endswith(b"ok"):
                raise InvalidRunError(f"a bad answer: {answer[:60]!r}")
            told.append(time.monotonic() - began)

    clients = [threading.Thread(target=go_on) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return told


def _pipelines(subjects: Sequence[Subject], options: argparse.Namespace) -> str:
    rows = []
    for subject in subjects:
        with serving(options, subject, 1) as (_, port):
            waits = sorted(_beside_a_pipeline(port))
        with serving(options, subject, 1) as (pid, port):
            alone = _held(pid, port, b"")
        with serving(options, subject, 1) as (pid, port):
            behind = _held(pid, port, (_GET % b"") * (_BEHIND_BYTES // len(_GET % b"")))
        more = (behind - alone) / _STUCK / 1024
        rows.append([subject.name, *(f"{percentile(waits, one) * 1000:.0f}" for one in (50, 100)), f"{more:.1f}"])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return report.table(["server", "neighbour, p50 ms", "worst ms", "KiB per connection"], rows, 1)


def _beside_a_pipeline(port: int) -> Iterator[float]:
    with socket.create_connection(("127.0.0.1", port)) as many:
        many.sendall((_GET % b"10") * _PIPELINED)
        many.recv(1)
        for _ in range(30):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while sock.recv(4096):
                    pass
            yield time.monotonic() - began


def _held(pid: int, port: int, behind: bytes) -> int:
    """Bytes of memory of a service whose clients ask for much and read nothing."""
    with ExitStack() as stack:
        for _ in range(_STUCK):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            rest = memoryview(_GET % b"large" + behind)
            try:
                while rest:
                    rest = rest[sock.send(rest) :]
            except BlockingIOError:
                pass
        time.sleep(5)  # until the worker has looked at all of them
        return tree.pss_bytes(pid)


if __name__ == "__main__":
    sys.exit(main())
