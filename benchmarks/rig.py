"""One server with its app and settings in a folder of its own, for a drill to break: deploy, reload, kill, ask.

The app writes a note when its import begins and ends and when it begins a slow request, so a drill waits for facts.
Every wait is bounded; nothing is left behind. Knows how a server is spoken to, not what is expected of it.
"""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from benchmarks import tree
from benchmarks.errors import InvalidRunError
from benchmarks.measure import environment, free_port, has_ended, started
from benchmarks.openloop import Ask, Load, Outcome, steady
from benchmarks.servers import SERVERS, Server, interpreter

WORKERS = 2
RATE = 60  # requests a second, each third on a kept connection
SLOW_S = 1.0  # how long the app works on /slow
NEVER = float("inf")
_START_S = 20.0
_POLL_S = 0.01
_LONG_S = 0.02  # a request worth a line


class Code(Enum):
    """What a deploy puts on disk; the value is what the app does while it is imported."""

    GOOD = ""
    SLOW = "time.sleep(3)"
    BROKEN = "raise RuntimeError('a broken deploy')"
    DYING = "import threading; threading.Timer(0.1, os._exit, [1]).start()"  # after it has become ready


_APP = """import os, time

def note(word):
    with open({notes!r}, "a") as notes:
        notes.write(f"{{word}} {version} {{os.getpid()}} {{time.monotonic()}}\\n")

note("began")
{fault}
BODY = f"drill {version} {{os.getpid()}}".encode()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        note("busy")
        time.sleep({slow})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]

note("ready")
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is drilled: its row among the servers, its settings file, and how it is told to reload."""

    server: Server
    settings: str  # the file's name, for -c
    good: str
    broken: str
    reload: signal.Signals = signal.SIGHUP

    @property
    def name(self) -> str:
        """That of the server."""
        return self.server.name


_SERVER = {server.name: server for server in SERVERS}
SUBJECTS = (
    Subject(_SERVER["forkserve"], "settings.toml", 'timeout = "30s"\n', 'timeout = "30s\n'),
    Subject(_SERVER["gunicorn-sync"], "settings.py", "timeout = 30\n", "timeout = = 30\n"),
)


class Note(NamedTuple):
    """What the app wrote: a word (began, ready, busy), its version, who, and when by the monotonic clock."""

    word: str
    version: int
    pid: int
    at: float


class Rig:
    """A running server of a drill. ``version`` is that of the last deploy."""

    def __init__(self, subject: Subject, folder: Path, port: int) -> None:
        self.subject = subject
        self.port = port
        self.pid = 0  # the master's; it stays a zombie until the drill is over, so it cannot become anyone else's
        self.version = 0
        self.loads: list[Load] = []
        self._folder = folder
        self.deploy(Code.GOOD)
        self.configure(subject.good)

    @property
    def log(self) -> Path:
        """Everything that the server said."""
        return self._folder / "log"

    # doing something to it

    def deploy(self, code: Code) -> None:
        """Put the next version of the app on disk in one step."""
        self.version += 1
        text = _APP.format(notes=str(self._folder / "notes"), version=self.version, fault=code.value, slow=SLOW_S)
        new = self._folder / "app.new"
        new.write_text(text)
        # Python trusts compiled code whose source has the same second and size: make each version differ.
        moment = int(time.time()) - 100_000 + self.version
        os.utime(new, (moment, moment))
        new.rename(self._folder / "drilled.py")

    def configure(self, text: str) -> None:
        """Write the settings file."""
        (self._folder / self.subject.settings).write_text(text)

    def reload(self) -> float:
        """Tell the master to reload; the moment of it."""
        return self.signal(self.subject.reload)

    def signal(self, number: signal.Signals) -> float:
        """Signal the master; the moment of it."""
        os.kill(self.pid, number)
        return time.monotonic()

    def kill_worker(self) -> float:
        """KILL one worker that is ready; the moment of it."""
        victim = next(note.pid for note in self.notes("ready") if note.pid in self.processes())
        os.kill(victim, signal.SIGKILL)
        return time.monotonic()

    def load(self, schedule: Iterable[Ask] | None = None) -> Load:
        """A load on it, to be used in a with statement; RATE requests a second unless told otherwise."""
        load = Load(self.port, steady(RATE) if schedule is None else schedule, b"drill ")
        self.loads.append(load)
        return load

    # asking about it

    def notes(self, word: str, version: int = 0) -> list[Note]:
        """The notes of this kind so far; of one version, or of all."""
        path = self._folder / "notes"
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            said, number, pid, at = line.split()
            if said == word and version in (0, int(number)):
                found.append(Note(said, int(number), int(pid), float(at)))
        return found

    def processes(self) -> list[int]:
        """All its processes that live, orphans included."""
        return tree.group(self.pid)

    def ended(self) -> bool:
        """Whether the master has ended."""
        return has_ended(self.pid)

    def keep(self, base: Path) -> None:
        """Keep what it said, and a line for each request that failed or took long, by the wall clock of the log."""
        base.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.log, f"{base}.log")
        entries = [entry for load in self.loads for entry in load.entries]
        epoch = time.time() - time.monotonic()
        lines = []
        for entry in sorted(entries, key=lambda entry: entry.due):
            if entry.failed or entry.latency_s > _LONG_S:
                at = datetime.fromtimestamp(entry.due + epoch).isoformat(" ", "milliseconds")
                sent = f"sent after {(entry.sent - entry.due) * 1e3:.1f} ms" if entry.sent else "not sent"
                lines.append(
                    f"{at} {'kept' if entry.kept else 'own'} connection: {sent}, {entry.outcome.value} after"
                    f" {entry.latency_s * 1e3:.1f} ms {entry.body.decode(errors='replace')}\n"
                )
        Path(f"{base}.requests").write_text("".join(lines))

    def lives(self) -> bool:
        """Whether the master lives and a request is answered."""
        return not self.ended() and self._asked() is Outcome.OK

    def at_strength(self, version: int) -> bool:
        """Whether as many workers as wanted have imported this version and live."""
        ready = {note.pid for note in self.notes("ready", version)}
        return len(ready) >= WORKERS and len(ready & set(self.processes())) >= WORKERS

    def log_lines(self) -> int:
        """How many lines it has said."""
        return self.log.read_bytes().count(b"\n")

    def can_bind(self) -> bool:
        """Whether somebody else could listen on its port now, as a server does that is started in its place."""
        with socket.socket() as successor:
            successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                successor.bind(("127.0.0.1", self.port))
                successor.listen()
            except OSError:
                return False
            return True

    def _asked(self) -> Outcome:
        with Load(self.port, [Ask(0.0)], b"drill ", timeout_s=2.0) as load:
            load.finish()
        return load.entries[0].outcome


def wait(fact: Callable[[], bool], bound_s: float) -> float:
    """Wait until it is so; the seconds that it took, NEVER when it took longer than the bound."""
    began = time.monotonic()
    while not fact():
        if time.monotonic() - began > bound_s:
            return NEVER
        time.sleep(_POLL_S)
    return time.monotonic() - began


@contextmanager
def rigged(subject: Subject, peers: Path, bytecode: Path) -> Iterator[Rig]:
    """Start the server with a good app and wait until all workers have it; at the end stop what it has become."""
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as name:
        rig = Rig(subject, Path(name), free_port())
        words = subject.server.arguments(port=rig.port, workers=WORKERS, app="drilled:app")
        command = [str(interpreter(subject.server, peers)), *words, "-c", subject.settings]
        with (
            rig.log.open("w+b") as log,
            started(command, Path(name), environment(bytecode, subject.server), log) as rig.pid,
        ):
            wait(lambda: rig.ended() or rig.at_strength(1), _START_S)
            if wait(lambda: rig.ended() or rig.lives(), _START_S) == NEVER or rig.ended():
                raise InvalidRunError(f"{subject.name} did not begin to serve")
            yield rig
