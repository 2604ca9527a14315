"""The harness: a real forkserve under a test that plays its service manager.

It hands in a bound socket as descriptor 3 (LISTEN_FDS, LISTEN_PID) and blocks on READY=1 (NOTIFY_SOCKET), so there is
no race for a port and no sleep until it "should be up". At the end it stops the server and fails the test if it did
not exit with 0, or if a process, a pidfile, an unexpected error line or a traceback on stderr is left. Whoever waits
here waits for a fact, with a bound.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.service_manager import NotifySocket

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 30.0  # a bound, not an expectation: machines that run tests are slow and shared

# The master says so where its epoll returned a second late: this machine did not run it, or the test stopped it.
_NAME_IS_TAKEN = "name of the control socket is taken"  # by the test of that, which takes those of the next PIDs
_STARVED = "master overslept"

# LISTEN_PID must name the process that exec makes of this shell.
_LAUNCH = 'export LISTEN_PID=$$; exec "$@"'


def wait_until(fact: Callable[[], Any], what: str = "", patience_s: float = PATIENCE_S) -> Any:
    """Return the first true answer of ``fact``; AssertionError when it takes longer than any machine would."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = fact()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s} s in vain for {what or fact}")
        select.select([], [], [], 0.005)


def clean_environ() -> dict[str, str]:
    """The environment of a program that imports us, without the variables that are settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORKSERVE_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def as_asked() -> tuple[str, ...]:
    """What is put before the command of a server: nothing, or what takes root's capabilities away, if
    FORKSERVE_TEST_PLAIN is set. (Another user could not read root's checkout.)"""
    if os.environ.get("FORKSERVE_TEST_PLAIN") and os.geteuid() == 0 and shutil.which("setpriv"):
        return ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return ()


class Server:
    """A running forkserve. Keywords are settings; ``env`` and ``flags`` are added to its environment and command.

    ``bind`` replaces the socket that is handed in; the log says where it listens, see ``addresses``. ``launcher`` is
    put before the command; ``pass_fds`` stay open for it. ``expect`` holds pieces of the error lines that the test
    provokes. Without ``await_ready`` the with statement only starts it: the test wants to see it fail, or to act before
    it is ready.
    """

    def __init__(
        self,
        app: str,
        *,
        bind: Iterable[str] = (),
        env: dict[str, str] | None = None,
        flags: Iterable[str] = (),
        config: str | None = None,
        expect: Iterable[str] = (),
        launcher: Iterable[str] = (),
        pass_fds: Iterable[int] = (),
        await_ready: bool = True,
        **settings: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forkserve-test-"))
        self.app = app
        self.expect = list(expect)
        self.pass_fds = tuple(pass_fds)
        self.await_ready = await_ready
        self.notify = NotifySocket(self.folder / "notify")
        self.config = self.folder / "config.toml"
        if config is not None:
            self.config.write_text(config)
            flags = [*flags, "-c", str(self.config)]
        self.pidfile = self.folder / "pid"
        self.error_log = self.folder / "error.log"
        settings = {"pidfile": str(self.pidfile), "errorlog": str(self.error_log), "loglevel": "debug", **settings}
        self._listener: socket.socket | None = None
        self.port = 0
        if not bind:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
            self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [*launcher, sys.executable, "-m", "forkserve"]
        for address in bind:
            self.command += ["--bind", address]
        self.command += [*flags, app]
        self.env = {
            **clean_environ(),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "NOTIFY_SOCKET": str(self.notify.path),
            **{f"FORKSERVE_{name.upper()}": str(value) for name, value in settings.items() if value is not None},
            **(env or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._writes = 0

    def write_app(self, source: str, module: str = "fresh_app") -> None:
        """Write or replace a module in the server's own folder, which is on its import path."""
        path = self.folder / f"{module}.py"
        temporary = path.with_suffix(".new")
        temporary.write_text(source)
        # The interpreter trusts a cached module whose source has the same second and size: make each write differ.
        self._writes += 1
        moment = int(time.time()) - 100_000 + self._writes
        os.utime(temporary, (moment, moment))
        temporary.rename(path)

    def start(self) -> Self:
        """Start and return at once."""
        self.notify.forget()
        passed: dict[str, Any] = {"pass_fds": self.pass_fds}
        command = [*as_asked(), *self.command]
        if self._listener is not None:
            fd = self._listener.fileno()
            # The shell moves the socket to descriptor 3, as a service manager would hand it in.
            command = ["bash", "-c", f"exec 3<&{fd} {fd}<&-; " + _LAUNCH if fd != 3 else _LAUNCH, "launch", *command]
            self.env["LISTEN_FDS"] = "1"
            passed["pass_fds"] = (*self.pass_fds, fd)
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=self.folder, start_new_session=True, **passed,
            )  # fmt: skip
        if self._listener is not None:
            self._listener.close()
        return self

    def wait_ready(self) -> Self:
        """Block until READY=1, or fail with what the server said."""
        wait_until(lambda: self.heard("READY") or self.exited, "READY=1")
        if not self.heard("READY"):
            raise AssertionError(f"the server exited {self.exit_code}:\n{self.log()}\n{self.said()}")
        return self

    def __enter__(self) -> Self:
        try:
            self.start()
            return self.wait_ready() if self.await_ready else self
        except BaseException:
            self._kill_all()
            print(self.log(), self.said(), sep="\n")
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if not self.exited:
                code = self.stop()
                assert kind is not None or code == 0, f"exit code {code} after TERM"
            wait_until(lambda: not self.alive(), "the end of every child")
            if kind is None:
                assert not self.pidfile.exists(), "the pidfile was left behind"
                unexpected = self.unexpected()
                assert not unexpected, f"unexpected in the error log: {unexpected}"
                assert f'File "{ROOT}/forkserve/' not in self.said(), "a traceback of ours on stderr"
        except BaseException:
            kind = kind or AssertionError
            raise
        finally:
            self._kill_all()
            self.notify.close()
            if kind is None:
                shutil.rmtree(self.folder)
            else:
                print(f"kept {self.folder}", self.log(), self.said(), sep="\n")

    def _kill_all(self) -> None:
        for process in [*self.tree(), *self.alive()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        if self.process is not None:
            self.process.wait()

    # asking the process

    @property
    def pid(self) -> int:
        """The master's pid: the launching shell has become it."""
        assert self.process is not None
        return self.process.pid

    @property
    def exited(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def wait_exit(self) -> int:
        """Wait for the master's end and return its exit code."""
        wait_until(lambda: self.exited, "the master's exit")
        assert self.exit_code is not None
        return self.exit_code

    def signal(self, number: signal.Signals) -> None:
        """Signal the master."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """TERM the master, wait for its end and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def forget_pidfile(self) -> None:
        """Remove what a master that was killed could not; its workers may see its end before we do."""
        self.wait_exit()
        self.pidfile.unlink()

    def tree(self) -> list[psutil.Process]:
        """The master and all its descendants that live."""
        try:
            master = psutil.Process(self.pid)
            return [master, *master.children(recursive=True)]
        except (psutil.NoSuchProcess, AssertionError):
            return []

    def alive(self) -> list[psutil.Process]:
        """Every process that stands in this server's folder, its parent dead or not: nobody else has reason to."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/cwd") == str(self.folder) and _lives(process):
                    found.append(process)
            except OSError:
                pass
        return found

    def workers(self) -> list[int]:
        """The pids of the children that are not zombies."""
        found = []
        for process in self.tree()[1:]:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.NoSuchProcess:
                pass
        return found

    def workers_from(self, pids: list[int]) -> list[int]:
        """Those of ``pids`` that still work."""
        return [pid for pid in self.workers() if pid in pids]

    def kill(self, worker: int) -> None:
        """kill -9 a worker."""
        assert worker in self.workers()
        os.kill(worker, signal.SIGKILL)

    # asking what it said

    def heard(self, key: str) -> list[str]:
        """Every value that sd_notify gave for ``key``, in order."""
        return [fields[key] for fields in self.notify.heard() if key in fields]

    def wait_status(self, beginning: str) -> str:
        """Wait until the last STATUS begins like this, and return it; lines of the log come a moment earlier."""
        wait_until(lambda: self.heard("STATUS")[-1:] and self.heard("STATUS")[-1].startswith(beginning), beginning)
        return self.heard("STATUS")[-1]

    def log(self) -> str:
        """The error log so far."""
        return self.error_log.read_text() if self.error_log.exists() else ""

    def log_from(self, line: int) -> str:
        """What the error log says from this line on."""
        return "\n".join(self.log().splitlines()[line:])

    def said(self) -> str:
        """What was written to stdout and stderr."""
        return (self.folder / "output").read_text(errors="replace")

    def lines(self, piece: str) -> list[str]:
        """The lines of the error log that hold ``piece``."""
        return [line for line in self.log().splitlines() if piece in line]

    def wait_line(self, piece: str, count: int = 1) -> str:
        """Wait until ``count`` lines of the error log hold ``piece``; returns the last of these."""
        return str(wait_until(lambda: self.lines(piece)[count - 1 : count] or None, f"the line {piece!r}")[0])

    def unexpected(self) -> list[str]:
        """Lines of level warning and up that the test did not announce."""
        loud = ("[warning]", "[error]", "[critical]")
        announced = [*self.expect, _STARVED, _NAME_IS_TAKEN]
        if self.expect:  # whose work it was is told with every end that is no peaceful one
            announced.append("request was cut off")
            announced.append("more requests were cut off")
        return [
            line
            for line in self.log().splitlines()
            if any(level in line for level in loud) and not any(piece in line for piece in announced)
        ]

    @property
    def addresses(self) -> list[str]:
        """Where the log says that it listens, in order."""
        found = re.findall(r"\] listening address=(?:\"([^\"\n]*)\"|(\S+))", self.log())
        return [quoted or plain for quoted, plain in found]

    # being a client

    def connect(self, address: str = "") -> socket.socket:
        """A raw connection, to the socket that was handed in or to one of ``addresses``."""
        address = re.sub("^(uwsgi|fastcgi|scgi)://", "", address)
        if address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(PATIENCE_S)
            name = address.removeprefix("unix:")
            try:
                sock.connect("\0" + name[1:] if name.startswith("@") else str(self.folder / name))
            except OSError:
                sock.close()
                raise
            return sock
        host, _, port = address.rpartition(":") if address else ("127.0.0.1", ":", str(self.port))
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def get(self, path: str = "/", **headers: str) -> "Answer":
        """GET over a connection of its own."""
        return self.get_at("", path, **headers)

    def get_at(self, address: str, path: str = "/", **headers: str) -> "Answer":
        """The same at one of ``addresses``."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.sock = self.connect(address)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            with connection.getresponse() as response:
                return Answer(response)
        finally:
            connection.close()

    def exchange(self, raw: bytes) -> bytes:
        """Send raw bytes, return all that comes until the server closes."""
        with self.connect() as sock:
            sock.sendall(raw)
            return read_to_end(sock)


class Answer:
    """A response that was read to its end."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until the peer closes; a reset raises ConnectionResetError."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
