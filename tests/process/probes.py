"""What looks at a running server from outside: its control socket, forkservectl, and how many children live."""

import os
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Self

import psutil

from forkserve.typed import from_json, to_json
from tests.harness import PATIENCE_S, ROOT, Server, read_to_end, wait_until
from tests.process.tools import live_children


def auto_socket(pid: int) -> str:
    """Where a master of this PID, in our PID namespace, listens by default: an abstract name."""
    return f"\0forkserve/{os.stat('/proc/self/ns/pid').st_ino}/{pid}"


def control(server: Server, path: str = "") -> socket.socket:
    """A connection to the control socket: the abstract one of this master, or a path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    try:
        wait_until(lambda: _connected(sock, path or auto_socket(server.pid)), "room in the queue")
    except OSError:
        sock.close()
        raise
    return sock


def _connected(sock: socket.socket, place: str) -> bool:
    try:
        sock.connect(place)
    except BlockingIOError:
        return False
    return True


def ask(server: Server, path: str = "", **request: object) -> dict[str, Any]:
    """Send one request and return the last line of its answer."""
    with control(server, path) as sock:
        sock.sendall(to_json(request) + b"\n")
        answer = from_json(read_to_end(sock).splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def status(server: Server) -> dict[str, Any]:
    """The whole status, as the master tells it."""
    answer = ask(server, verb="status")
    assert answer["ok"] is True
    found = answer["status"]
    assert isinstance(found, dict)
    return found


def start_ctl(server: Server, *arguments: str) -> "subprocess.Popen[str]":
    """Start forkservectl for this server."""
    return subprocess.Popen(
        [sys.executable, "-m", "forkserve.ops.ctl", "-p", str(server.pidfile), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a forkservectl: its exit code, its stdout and its stderr."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def ctl(server: Server, *arguments: str) -> tuple[int, str, str]:
    """Run forkservectl to its end."""
    return end_of(start_ctl(server, *arguments))


def cpu_share(pid: int, seconds: float) -> float:
    """How much of one core a process takes in the next so many seconds."""
    process = psutil.Process(pid)
    return process.cpu_percent(interval=seconds) / 100


class MostLive(threading.Thread):
    """Watches the master's children in /proc and keeps the largest number that lived at once."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.most = 0
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, len(live_children(self._pid)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self.join()
