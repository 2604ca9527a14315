"""What apps with habits keep and lose, with forkserve and gunicorn: `python benchmarks/habits.py`.

The main program. Each app of tests/apps/habits is served, reloaded by HUP, and stopped by TERM, by one server after the
other; told is what went wrong: answers, work that was begun, processes and ports that are left, stops that take long.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import compare, report
from benchmarks.servers import HERE
from tests.apps.habit_table import NAMES, SPECIAL, Habit

_SECTION = "habits"
_GRACE_S = 3
_BOOT_S = 10.0
_SLOW_S = 1.5  # an end that takes longer is told
_ROOT = HERE.parent


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to serve."""

    name: str
    command: tuple[str, ...]
    is_own: bool
    threads: int


_OWN = ("-m", "forkserve", "-w", "2", "--graceful-timeout", str(_GRACE_S), "--reload-settle", "0", "--pid", "pid")
_PEER = ("-m", "gunicorn", "-w", "2", "--graceful-timeout", str(_GRACE_S), "--no-control-socket", "--pid", "pid")
SUBJECTS = (
    Subject("forkserve", _OWN, True, 1),
    Subject("forkserve, 3 threads", (*_OWN, "--threads", "3"), True, 3),
    Subject("gunicorn", _PEER, False, 1),
    Subject("gunicorn gthread, 3 threads", (*_PEER, "-k", "gthread", "--threads", "3"), False, 3),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all; 0 where forkserve has lost nothing that gunicorn keeps, else 1."""
    parser = argparse.ArgumentParser(prog="habits.py", description="What apps with habits keep and lose.")
    parser.add_argument("--only", default="", metavar="A,B", help="apps")
    parser.add_argument("--peers", type=compare._folder, default=".bench/peers", metavar="DIR")
    parser.add_argument("--write", type=compare.page_with(_SECTION), metavar="FILE", help="page with a pair of markers")
    options = parser.parse_args(argv)
    rows, is_worse = [], False
    for name in NAMES:
        if options.only and name not in options.only.split(","):
            continue
        found = {subject.name: live(subject, name, options.peers) for subject in SUBJECTS}
        own, peer = ([found[s.name] for s in SUBJECTS if s.is_own is is_own] for is_own in (True, False))
        is_worse |= any(
            mine and mine != "refused at boot" and not theirs for mine, theirs in zip(own, peer, strict=True)
        )
        rows.append([name.replace("_", " "), *(words or "✓" for words in found.values())])
        print(" | ".join(rows[-1]), flush=True)
    text = (
        f"- {compare._machine()}\n- `python benchmarks/habits.py`; a grace of {_GRACE_S} s, 2 workers. ✓: all answered,"
        " all that was begun is done, nothing left, each end in less than 1.5 s.\n\n"
        f"{report.table(['app', *(subject.name for subject in SUBJECTS)], rows, len(SUBJECTS) + 1)}\n"
    )
    if options.write:
        options.write.write_text(
            report.replace_between_markers(options.write.read_text("utf-8"), text, _SECTION), "utf-8"
        )
    return int(is_worse)


def live(subject: Subject, name: str, peers: Path) -> str:
    """One life of one app with one server; what went wrong, in words, empty for nothing."""
    habit = SPECIAL.get(name, Habit())
    if subject.threads not in habit.threads and subject.threads != 1 and 3 not in habit.threads:
        return "not asked"
    with tempfile.TemporaryDirectory(prefix="habits-") as place, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        life = _Life(subject, name, habit, Path(place), port, peers)
        try:
            return life.run()
        finally:
            life.end_all()


class _Life:
    def __init__(self, subject: Subject, name: str, habit: Habit, folder: Path, port: int, peers: Path) -> None:
        self._subject, self._name, self._habit = subject, name, habit
        self._folder, self._port = folder, port
        python = sys.executable if subject.is_own else str(peers / "bin" / "python")
        self._command = [python, *subject.command, "-b", f"127.0.0.1:{port}", "tests.apps.habit_with_hang:app"]
        theirs = ("PYTHON", "FORKSERVE", "GUNICORN")
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
        self._env |= {"HABIT": name, "PYTHONPATH": f"{folder}:{_ROOT}", **habit.env}
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = self._answered = 0

    def run(self) -> str:
        """Live it."""
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._env, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        if not _wait(self._answers, _BOOT_S):
            said = (self._folder / "output").read_text(errors="replace")
            return "needs a module" if "ModuleNotFoundError" in said else "refused at boot"
        wrong = self._show()
        old = self._workers()
        self._process.send_signal(signal.SIGHUP)
        began = time.monotonic()
        if not _wait(lambda: not any(_lives(pid) for pid in old), _GRACE_S + 4.0):
            wrong.append("old workers stay after HUP")
        elif (took_s := time.monotonic() - began) > _SLOW_S + 1.0:
            wrong.append(f"a reload of {took_s:.1f} s")
        _wait(self._answers, _BOOT_S)
        wrong += self._show()
        self._process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        if not _wait(lambda: self._process is None or self._process.poll() is not None, _GRACE_S + 6.0):
            return ", ".join(dict.fromkeys([*wrong, "TERM does not end it"]))
        if (took_s := time.monotonic() - began) > _SLOW_S:
            wrong.append(f"a stop of {took_s:.1f} s")
        if not _can_be_bound(self._port):
            wrong.append("the port stays bound")
        if self._habit.outlives:
            (self._folder / "end").touch()
        _wait(lambda: not self._ours(), 1.0)
        if left := len(self._ours()):
            wrong.append(f"{left} processes left")
        return ", ".join(dict.fromkeys([*wrong, *self._lost_work()]))

    def _show(self) -> list[str]:
        wrong = []
        for path in self._habit.paths:
            self._asked += 1
            if (status := self._get(path)) != 200:
                wrong.append(f"{path.partition('?')[0]} gets {status or 'no answer'}")
        if self._habit.fails and (status := self._get(self._habit.fails)) != 500:
            wrong.append(f"the fault gets {status or 'no answer'}")
        return wrong

    def _lost_work(self) -> list[str]:
        """What was begun and is not done."""
        wrong = []
        if self._name == "background_threads":
            done = self._folder / "done"
            count = len(done.read_text().splitlines()) if done.exists() else 0
            if count < self._asked:
                wrong.append(f"{self._asked - count} of {self._asked} jobs lost")
        if self._name == "background_files":
            lines = sum(len(path.read_text().splitlines()) for path in self._folder.glob("audit.*.log"))
            if lines < self._answered:
                wrong.append(f"{self._answered - lines} of {self._answered} lines lost")
        if self._name.startswith("exit_handler_raises") and not list(self._folder.glob("goodbye.*")):
            wrong.append("exit handlers did not run")
        return wrong

    def _get(self, path: str) -> int:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=15.0)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            self._answered += 1
            return answer.status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        return self._get("/nowhere") != 0 if self._habit.paths == ("/",) else _connects(self._port)

    def _workers(self) -> list[int]:
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/task/{self._process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def _ours(self) -> list[int]:
        """Every process of this life, whoever is its parent by now: by its session, its folder or its environment, of
        which a habit changes one or the other (and a title may overwrite the last)."""
        first = 0 if self._process is None else self._process.pid
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError, ValueError):
                is_ours = os.getsid(int(entry)) == first or os.readlink(f"/proc/{entry}/cwd") == str(self._folder)
                is_ours = is_ours or f"{self._folder}:".encode() in Path(f"/proc/{entry}/environ").read_bytes()
                if is_ours and _lives(int(entry)):
                    found.append(int(entry))
        return found

    def end_all(self) -> None:
        """Leave nobody."""
        for pid in self._ours():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


def _wait(fact: Callable[[], bool], patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if fact():
            return True
        time.sleep(0.02)
    return False


def _connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _can_be_bound(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
