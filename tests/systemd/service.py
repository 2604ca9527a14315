"""forkserve.service in a box, as its operator knows it: deploy, systemctl, journalctl; and clients that ask it."""

import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from tests.harness import PATIENCE_S, ROOT, wait_until
from tests.systemd.box import HOME, Box

PORT = 8000
_RATE = 50  # requests a second
_GET = "import sys, urllib.request as request; print(request.urlopen(sys.argv[1]).read().decode())"
_SETTINGS = {"app": "site_app:app", "bind": [f"127.0.0.1:{PORT}"], "workers": 2, "reload_retries": 0}


def site(text: str, boot_s: float = 0.0) -> str:
    """The source of an app that says ``text`` and the query's seconds later ``slept``; it takes ``boot_s`` to boot."""
    return f"""
import time

time.sleep({boot_s})


def app(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"site {text}"]
"""


class Service:
    """A service that is stopped and new before each test: its app says ``site old``, its settings are the least."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.unit = "forkserve.service"
        self._dropin = f"/etc/systemd/system/{self.unit}.d"

    def __enter__(self) -> Self:
        self.box.run("rm", "-rf", self._dropin, "/etc/systemd/system/forkserve.socket.d")
        self.box.run("systemctl", "daemon-reload")
        self.box.run("journalctl", "--quiet", "--rotate")
        self.box.run("journalctl", "--quiet", "--vacuum-time=1us")
        self.settle()
        self.deploy(site("old"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            print(self.status(), self.journal(), sep="\n")
        self.box.run("systemctl", "stop", "forkserve.socket", self.unit)
        self.box.run("systemctl", "reset-failed")

    # what an operator does

    def deploy(self, source: str) -> None:
        """Put this code in the place of the app."""
        self.box.write(f"{HOME}/site_app.py", source)

    def settle(self, without: str = "", **settings: object) -> None:
        """Write the settings file."""
        wanted = {name: value for name, value in {**_SETTINGS, **settings}.items() if name != without}
        self.box.write(
            "/etc/forkserve/forkserve.toml", "".join(f"{name} = {json.dumps(wanted[name])}\n" for name in wanted)
        )

    def drop_in(self, text: str, unit: str = "forkserve.service") -> None:
        """Add a drop-in to the unit."""
        self.box.write(f"/etc/systemd/system/{unit}.d/50-test.conf", text)
        self.box.run("systemctl", "daemon-reload")

    def systemctl(self, verb: str, *units: str) -> None:
        """``systemctl VERB forkserve.service``, which must succeed."""
        self.box.run("systemctl", verb, *(units or [self.unit]))

    def fails(self, verb: str) -> str:
        """``systemctl VERB forkserve.service``, which must fail; what it said."""
        ran = self.box.run("systemctl", verb, self.unit, check=False)
        assert ran.returncode != 0, f"systemctl {verb} succeeded"
        return ran.stderr

    def kill(self, number: str) -> None:
        """Signal the master."""
        self.box.run("systemctl", "kill", "--kill-who=main", f"--signal={number}", self.unit)

    # what an operator sees

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.box.run("systemctl", "show", "--property", name, "--value", self.unit).stdout.strip()

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def status(self) -> str:
        """``systemctl status``."""
        return self.box.run("systemctl", "status", "--no-pager", self.unit, check=False).stdout

    def journal(self, *options: str) -> str:
        """The unit's journal."""
        return self.box.run("journalctl", "--no-pager", f"--unit={self.unit}", *options).stdout

    def wait_journal(self, piece: str) -> None:
        """Wait until the journal has ``piece``."""
        wait_until(lambda: piece in self.journal(), f"{piece!r} in the journal")

    def wait_restarts(self, count: int) -> None:
        """Wait until systemd has restarted the service so often, and it serves."""
        wait_until(lambda: self.show("NRestarts") == str(count) and self.show("ActiveState") == "active", "a restart")

    def wait_file(self, path: str) -> None:
        """Wait until a file in the box is there and not empty."""
        wait_until(lambda: self.box.run("test", "-s", path, check=False).returncode == 0, path)

    def wait_busy(self) -> None:
        """Wait until a worker runs a request."""
        command = [f"{HOME}/venv/bin/forkservectl", "-s", "/run/forkserve/control", "status", "--json"]
        wait_until(lambda: '"request":"GET' in self.box.run(*command).stdout, "a busy worker")

    # clients

    def get(self, query: str = "") -> str:
        """The body that one request gets; AssertionError when it is refused or reset."""
        return end_of(self.start_get(query))

    def start_get(self, query: str = "") -> "subprocess.Popen[str]":
        """Start one request; ``end_of`` it has the body."""
        command = self.box.beside(sys.executable, "-c", _GET, f"http://127.0.0.1:{PORT}/?{query}")
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(process: "subprocess.Popen[str]") -> str:
    """Wait for a process that must succeed, and return what it wrote."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out.strip()


figures: list[str] = []  # of this run: one line for each time that clients asked


class Asking:
    """``with Asking(service, "a reload") as asking``: clients ask all through the block, on a fixed schedule.

    After the block nothing may have failed but what ``may_fail`` names, and ``figures`` has one line more.
    """

    def __init__(self, service: Service, name: str, may_fail: tuple[str, ...] = ()) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._version = service.box.version
        self._name = name
        self._may_fail = may_fail
        command = [sys.executable, "-m", "tests.systemd.asking", str(PORT), str(_RATE), "site "]
        self._process = subprocess.Popen(
            service.box.beside(*command), cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asking\n"
        self._began = time.monotonic()
        return self

    def for_seconds(self, seconds: float) -> None:
        """Ask for so long before or after what happens, so that there is something to compare."""
        time.sleep(seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        took_s = time.monotonic() - self._began
        out, _ = self._process.communicate("", timeout=PATIENCE_S)
        if kind is not None:
            return
        found = json.loads(out)
        self.answers, self.failures = found["answers"], found["failures"]
        rate = len(self.answers) / took_s
        lost = ", ".join(sorted(set(self.failures)))
        figures.append(
            f"systemd {self._version}: {self._name}: {len(self.answers)} requests in {took_s:.1f} s, "
            f"{len(self.failures)} lost{f' ({lost})' if lost else ''}, longest stall {found['stall_s'] * 1000:.0f} ms"
        )
        assert rate >= 20, f"only {rate:.0f} requests a second"
        assert [failure for failure in self.failures if failure not in self._may_fail] == []
