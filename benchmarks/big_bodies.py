"""Gigabytes through one worker of forkserve, up and down, and what its memory does: `python benchmarks/big_bodies.py`.

The main program: uploads with a length and in chunks, downloads a file (sparse, so it costs no disk) that the app hands
to wsgi.file_wrapper. An upload is gathered on disk before the app runs: the folder of temporary files (TMPDIR) must
have room for it.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import tree
from benchmarks.compare import _machine
from benchmarks.errors import InvalidRunError
from benchmarks.measure import _await_answer, environment, free_port, started
from benchmarks.servers import APPS, HERE, SERVERS, interpreter
from benchmarks.slow_report import BODIES, Passage, bodies_table, replace_section

GOAL_BYTES = 32 << 20  # how far from idle the worker's memory may be
_PIECE = bytes(1 << 20)
_LOOK_S = 0.005
_ANSWER_S = 120.0
_SPARE_BYTES = 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when the worker stayed within its goal, 2 when there is no room on the disk."""
    options = _parser().parse_args(argv)
    size = options.mebibytes << 20
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < size + _SPARE_BYTES:
        print(
            f"{tempfile.gettempdir()} has only {free >> 20} MiB free; name another TMPDIR, or --mebibytes",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="big-") as name, serving(Path(name), size) as (pid, port):
        [worker] = [child for child in tree.pids(pid) if child != pid]
        passages = [
            measured("upload, Content-Length", worker, size, lambda: upload(port, size, chunked=False)),
            measured("upload, chunked", worker, size, lambda: upload(port, size, chunked=True)),
            measured("download by wsgi.file_wrapper", worker, size, lambda: download(port, size)),
        ]
    conditions = (
        _machine(),
        f"`python benchmarks/big_bodies.py --mebibytes {options.mebibytes}`: one worker, `limit_request_body = 0`.",
        f"The app reads uploads by the mebibyte. Goal: the worker stays within {GOAL_BYTES >> 20} MiB of idle.",
    )
    text = bodies_table(conditions, passages)
    print(text)
    if options.write is not None:
        options.write.write_text(replace_section(options.write.read_text("utf-8"), BODIES, text), "utf-8")
    return 0 if all(passage.peak_bytes - passage.idle_bytes <= GOAL_BYTES for passage in passages) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="big_bodies.py", description="Big bodies through one worker of forkserve.")
    parser.add_argument("--mebibytes", type=int, default=5120, metavar="N", help="of each body (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown page that gets the table")
    return parser


@contextmanager
def serving(folder: Path, size: int) -> Iterator[tuple[int, int]]:
    """Serve benchmarks/apps/big.py with a file of that size; the master's pid and the port."""
    server = SERVERS[0]
    big = folder / "big"
    with big.open("wb") as file:
        file.truncate(size)
    port = free_port()
    words = server.arguments(port=port, workers=1, app="big:app")
    command = [str(interpreter(server, HERE)), *words, "--limit-request-body", "0", "--timeout", "300"]
    env = {**environment(HERE.parent / ".bench" / "bytecode", server), "BIG_FILE": str(big)}
    with tempfile.TemporaryFile() as log, started(command, APPS, env, log) as pid:
        _await_answer(pid, port, "/", time.monotonic() + 20)
        yield pid, port


def measured(what: str, worker: int, size: int, passage: Callable[[], None]) -> Passage:
    """Look at the worker's memory before and, every few milliseconds, during the passage of a body."""
    idle = peak = rss_bytes(worker)
    over = threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(_LOOK_S):
            peak = max(peak, rss_bytes(worker))

    looker = threading.Thread(target=look)
    looker.start()
    began = time.monotonic()
    try:
        passage()
    finally:
        took_s = time.monotonic() - began
        over.set()
        looker.join()
    return Passage(what, size, took_s, idle, peak)


def rss_bytes(pid: int) -> int:
    """The resident memory of a process, without the pages of files that it shares."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def upload(port: int, size: int, *, chunked: bool) -> None:
    """Send a body of zeros; InvalidRunError unless the app has read all of it."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as sock:
        sock.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n\r\n".encode())
        for _ in range(size // len(_PIECE)):
            if chunked:
                sock.sendall(b"%x\r\n" % len(_PIECE))
            sock.sendall(_PIECE)
            if chunked:
                sock.sendall(b"\r\n")
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"\r\n\r\n%d" % size):
        raise InvalidRunError(f"the answer to an upload was {answer[:200]!r}")


def download(port: int, size: int) -> None:
    """Read the file; InvalidRunError unless all of it came."""
    got = 0
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as sock:
        sock.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        buffer = bytearray(1 << 20)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        got = len(head) - head.index(b"\r\n\r\n") - 4
        while count := sock.recv_into(buffer):
            got += count
    if got != size:
        raise InvalidRunError(f"{got} of {size} bytes came")


if __name__ == "__main__":
    sys.exit(main())
