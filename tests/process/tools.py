"""What the process tests share: a gate that holds an app inside a request, and questions to /proc."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness import Server, wait_until


class Gate:
    """A FIFO at which the app (/gate?PATH of tests/process/site.py) waits until the test lets it through, once."""

    def __init__(self, server: Server, name: str = "gate") -> None:
        self._fifo = server.folder / name
        os.mkfifo(self._fifo)
        self.path = f"/gate?{self._fifo}"
        self._fd = -1

    def wait_entered(self) -> None:
        """Wait until the app stands at the gate: a FIFO opens for writing once it has a reader."""
        self._fd = wait_until(self._try_open, "a request at the gate")

    def _try_open(self) -> int:
        try:
            return os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: no reader
            return 0

    def open(self) -> None:
        """Let the app go on."""
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd >= 0:
            self.open()


def answers(text: str) -> str:
    """The source of an app that says ``text``, its generation and the length of the body that came."""
    return f"""
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{text} {{environ['forkserve.generation']}} {{len(body)}}".encode()]
"""


def live_children(pid: int) -> list[int]:
    """The children of a process that are not zombies, read as quickly as Python can."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry))
    return found


def title(pid: int) -> str:
    """The process's command line, as ps shows it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def wait_retiring(pid: int) -> None:
    """Wait until this worker has read the order to leave, or is gone: the log tells only that the master gave it."""
    wait_until(lambda: _retires(pid), f"worker {pid} to retire")


def _retires(pid: int) -> bool:
    try:
        return not lives(pid) or title(pid).endswith(" retiring")
    except OSError:  # gone between the two looks
        return True


def status(pid: int, field: str) -> str:
    """One field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(field + ":"))


def lives(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        return not status(pid, "State").startswith("Z")
    except (OSError, StopIteration):
        return False


def open_files(pid: int) -> list[str]:
    """What each descriptor of a process leads to, without those that are closed while we look."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return found


def sockets(pid: int) -> int:
    """How many sockets a process holds."""
    return sum(target.startswith("socket:") for target in open_files(pid))


def can_be_bound(port: int) -> bool:
    """Whether the port is free; a client of somebody else on this machine may hold it for a moment."""
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            again.bind(("127.0.0.1", port))
            again.listen()
        except OSError:
            return False
    return True


def one_request(path: str, close: bool = True) -> bytes:
    """The bytes of a plain GET."""
    ending = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{ending}\r\n".encode()


def may_mount() -> bool:
    """Whether a mount namespace with a disk of its own can be had."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_small_disk(folder: str, size: str) -> list[str]:
    """A launcher: below the server's own, this folder is a disk of this size, which ends with the server."""
    return ["unshare", "-m", "bash", "-c", f'mount -t tmpfs -o size={size} none {folder} && exec "$0" "$@"']
