"""Promise 11: an upgrade in place keeps the PID and loses nothing; one that cannot work changes nothing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

from tests.harness import ROOT, Server, wait_until
from tests.process.load import Load
from tests.process.probes import status as server_status
from tests.process.tools import Gate, answers, lives, open_files, status

SITE = "tests.process.site:app"
QUICK: dict[str, Any] = {"reload_settle": 0}
FULL = bool(os.environ.get("FORKSERVE_FULL"))


def upgrade(s: Server, count: int = 1) -> None:
    """USR2, and wait for the end of the reload that it ends in, the ``count``-th of all."""
    s.signal(signal.SIGUSR2)
    s.wait_line("reload done", count)


def ctl(s: Server, *words: str, program: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [program, "-m", "forkserve.ops.ctl", "--pid", str(s.pid), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


def descriptors(pid: int) -> dict[str, int]:
    """How many of each kind a process has open; numbers of sockets and the like are left out."""
    counts: dict[str, int] = {}
    for target in open_files(pid):
        kind = target.partition(":[")[0]
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def copy_of_the_package(s: Server) -> Path:
    """A forkserve of the server's own, which its import path has first."""
    return Path(shutil.copytree(ROOT / "forkserve", s.folder / "forkserve", ignore=shutil.ignore_patterns("*.pyc")))


class Steady:
    """A client that asks at a steady pace, in turn on a connection of its own and on one that is kept."""

    def __init__(self, server: Server) -> None:
        self.count = 0
        self.longest_s = 0.0
        self.failures: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        kept = HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        while not self._over.wait(0.02):
            began = time.monotonic()
            connection = kept if self.count % 2 else HTTPConnection("127.0.0.1", self._server.port, timeout=30)
            try:
                connection.request("GET", "/")
                assert connection.getresponse().read().startswith(b"x ")
            except (OSError, HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
            if connection is not kept:
                connection.close()
            self.count += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        kept.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def test_promise_11_upgrade_keeps_the_pid_and_runs_what_is_installed_now() -> None:
    s = Server(app="fresh_app:app", workers=2, **QUICK)
    s.write_app(answers("old"))
    package = copy_of_the_package(s)
    with s:
        born = psutil.Process(s.pid).create_time()
        (package / "__init__.py").write_text('"""New."""\n\n__version__ = "9.9.9"\n')
        s.write_app(answers("new"))
        ran = ctl(s, "upgrade", "--wait")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "generation 2\n", "")
        assert not s.exited
        assert psutil.Process(s.pid).create_time() == born
        assert s.get().text == "new 2 0"
        assert "before=0.1.0" in s.wait_line("forkserve resumed version=9.9.9")
        assert s.wait_status("generation 2, 2 workers")
        assert '"version":"9.9.9"' in ctl(s, "status", "--json").stdout
        assert s.pidfile.read_text() == f"{s.pid}\n"


def test_promise_11_nothing_is_lost_and_nothing_grows_over_many_upgrades() -> None:
    """50 for the every-day run, 1,000 with FORKSERVE_FULL=1; the figures are printed."""
    count = 1000 if FULL else 50
    s = Server(app="fresh_app:app", workers=2, loglevel="info", **QUICK)
    s.write_app(answers("x"))
    with s:
        master = psutil.Process(s.pid)
        upgrade(s, 1)
        server_status(s)  # answered once the master has let go of who ended last, a moment after the line
        first, began_bytes = descriptors(s.pid), master.memory_info().rss
        began = time.monotonic()
        with Steady(s) as client:
            for number in range(2, count + 1):
                upgrade(s, number)
        took_s = time.monotonic() - began
        grown = master.memory_info().rss - began_bytes
        print(
            f"{count} upgrades in {took_s:.1f} s: {client.count} requests, {len(client.failures)} lost, the longest"
            f" {client.longest_s * 1000:.0f} ms; rss {grown:+} B, {sum(first.values())} descriptors"
        )
        assert client.failures == []
        assert client.count >= count
        wait_until(lambda: descriptors(s.pid) == first, f"no descriptor more than {first}")
        assert grown < 2 << 20
        assert len(s.workers()) == 2


def test_promise_11_keep_alive_connections_and_running_requests_outlive_the_exec() -> None:
    with (
        Server(app=SITE, workers=1, keepalive="60s", **QUICK) as s,
        Gate(s) as gate, s.connect() as kept, s.connect() as slow,
    ):  # fmt: skip
        kept.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536)
        slow.sendall(f"GET {gate.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        gate.wait_entered()
        s.signal(signal.SIGUSR2)
        s.wait_line("retiring worker")  # by the program that this process has become
        gate.open()
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 OK")
        s.wait_line("reload done")
        kept.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b", 2, " in kept.recv(65536), "the new generation answers on the old connection"


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract"])
def test_promise_12_own_listeners_live_on_and_their_names_are_tidied_at_the_end(kind: str) -> None:
    bind = {"tcp": "127.0.0.1:0", "unix": "unix:web.sock", "abstract": f"unix:@forkserve-upgrade-{os.getpid()}"}[kind]
    with Server(app=SITE, bind=[bind], workers=1, **QUICK) as s:
        [address] = s.addresses
        with s.connect(address) as queued:
            upgrade(s)
            queued.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert queued.recv(65536).startswith(b"HTTP/1.1 200")
        assert s.get_at(address, "/pid").json[1] == 2
        assert s.addresses == [address], "nothing was bound anew"
        s.stop()
        assert not (s.folder / "web.sock").exists()


def test_promise_11_broken_package_is_refused_by_the_trial_and_everything_stays() -> None:
    s = Server(app=SITE, workers=1, expect=["upgrade failed"], **QUICK)
    package = copy_of_the_package(s)
    with s:
        before, open_before = s.get("/pid").json, descriptors(s.pid)
        good = (package / "master" / "loop.py").read_text()
        (package / "master" / "supervisor.py").unlink()
        (package / "master" / "loop.py").write_text("def broken(:\n")
        ran = ctl(s, "upgrade", "--wait")
        assert ran.returncode == 1
        assert "SyntaxError" in ran.stderr
        assert ran.stderr.splitlines()[-1].startswith(
            "forkservectl: error: upgrade failed: the new program exited with"
        )
        assert s.wait_status("generation 1 serving; upgrade failed: the new program exited with 1")
        assert s.get("/pid").json == before
        wait_until(lambda: descriptors(s.pid) == open_before, f"no descriptor more than {open_before}")
        assert "SyntaxError" in s.log()
        (package / "master" / "loop.py").write_text(good)
        shutil.copy(ROOT / "forkserve" / "master" / "supervisor.py", package / "master")
        assert ctl(s, "upgrade", "--wait").returncode == 0
        assert s.wait_status("generation 2, 1 worker")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("#!/bin/sh\necho no libpython >&2; exit 3\n", "exited with 3: no libpython"),
        ("#!/bin/sh\nexit 0\n", "exited with 0: without a word"),
        ("#!/bin/sh\nkill -9 $$\n", "was ended by signal 9"),
        ("", "Exec format error"),
        ("#!/nonexistent/interpreter\n", "No such file or directory"),
    ],
)
def test_promise_11_interpreter_that_cannot_run_is_refused(script: str, why: str) -> None:
    s = Server(app=SITE, workers=1, expect=["upgrade failed"])
    current = s.folder / "venv"
    current.symlink_to(sys.prefix)
    s.command[0] = str(current / "bin" / "python")
    with s:
        [worker] = s.workers()
        broken = s.folder / "broken" / "bin" / "python"
        broken.parent.mkdir(parents=True)
        broken.write_text(script)
        broken.chmod(0o755)
        current.unlink()
        current.symlink_to("broken")
        s.signal(signal.SIGUSR2)
        assert why in s.wait_line("upgrade failed")
        assert s.workers() == [worker]
        assert s.get("/pid").status == 200
        current.unlink()
        current.symlink_to(sys.prefix)
        upgrade(s)


def test_promise_11_new_environment_behind_a_link_is_used_with_the_same_flags() -> None:
    """The link leads to another folder with an interpreter; -X and -W are kept, and so is the environment."""
    s = Server(app="fresh_app:app", workers=1, env={"STARTED_WITH": "this"}, **QUICK)
    s.write_app(
        "import os, sys\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    said = [sys.prefix, sys._xoptions, sys.warnoptions, os.environ['STARTED_WITH'], os.getcwd()]\n"
        "    return [repr(said).encode()]\n"
    )
    for name in ("one", "two"):
        (s.folder / name / "bin").mkdir(parents=True)
        (s.folder / name / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        (s.folder / name / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    s.env["PYTHONPATH"] += os.pathsep + packages
    current = s.folder / "current"
    current.symlink_to("one")
    s.command[0:1] = [str(current / "bin" / "python"), "-X", "utf8", "-W", "ignore"]
    with s:
        before = s.get().text
        assert "{'utf8': True}, ['ignore'], 'this'" in before
        current.unlink()
        current.symlink_to("two")
        upgrade(s)
        assert s.get().text == before, "the same words lead to the new folder"
        assert os.readlink(f"/proc/{s.pid}/exe") == str(Path(sys.executable).resolve())


def test_promise_11_settings_that_became_bad_are_refused_by_the_trial() -> None:
    with Server(app=SITE, config="workers = 1\n", expect=["upgrade failed"]) as s:
        s.config.write_text("workers = 0\n")
        ran = ctl(s, "upgrade", "--wait")
        assert ran.returncode == 1
        assert "config.toml:1: workers = 0: must be between 1 and 1024" in ran.stderr
        assert len(s.workers()) == 1


def test_target_that_hangs_is_left_alone_by_a_stop() -> None:
    s = Server(app=SITE, workers=1)
    package = copy_of_the_package(s)
    with s:
        (package / "cli.py").write_text("import time\ntime.sleep(60)\n")
        s.signal(signal.SIGUSR2)
        trial = wait_until(
            lambda: [pid for pid in s.workers() if "-m forkserve" in " ".join(psutil.Process(pid).cmdline())]
        )
        assert s.stop() == 0
        wait_until(lambda: not lives(trial[0]))


def test_promise_11_worker_that_dies_during_the_exec_is_noticed_and_replaced() -> None:
    """The target stops before it has read a line of ours: for as long as it takes, nobody is there to hear."""
    s = Server(app=SITE, workers=2, expect=["worker exited", "overslept"], **QUICK)
    package = copy_of_the_package(s)
    entry = package / "__main__.py"
    with s:
        victim, other = s.workers()
        stop = (
            "import os, signal\n"
            "if os.environ.get('_FORKSERVE_HANDOVER', '').startswith('take:'):\n"
            "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        )
        entry.write_text(stop + entry.read_text().replace('"""The process', '"""The process', 1))
        s.signal(signal.SIGUSR2)
        wait_until(lambda: status(s.pid, "State").startswith("T"))
        s.signal(signal.SIGHUP)  # and a wish that comes meanwhile is kept too
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: status(victim, "State").startswith("Z"))
        assert s.get("/pid").json[0] == other, "the others serve meanwhile"
        s.signal(signal.SIGCONT)
        line = s.wait_line("worker exited")
        assert f"pid={victim}" in line and "killed by signal 9, not sent by us" in line
        s.wait_status("generation 3, 2 workers")
        assert not {victim, other} & set(s.workers())


def test_promise_9_storms_of_signals_around_an_upgrade_end_well() -> None:
    s = Server(app="fresh_app:app", workers=2, expect=["upgrade refused"], **QUICK)
    s.write_app(answers("x"))
    with s:
        with Load(s) as load:
            for gap_ms in range(0, 100, 5):
                for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                    s.signal(number)
                    time.sleep(gap_ms / 1000)
            s.wait_line("upgraded gen=")
            s.write_app(answers("last"))
            last = ctl(s, "reload", "--wait")
        assert last.returncode == 0, last.stderr
        assert load.failures == []
        assert s.get().text.startswith("last ")
        assert len(s.workers()) == 2


@pytest.mark.parametrize("gap_ms", [0, 50, 150, 400])
def test_promise_9_term_during_an_upgrade_ends_the_service(gap_ms: int) -> None:
    with Server(app=SITE, workers=1, **QUICK) as s:
        s.signal(signal.SIGUSR2)
        time.sleep(gap_ms / 1000)
        assert s.stop() == 0


def test_upgrade_that_is_refused_says_why_to_who_asked() -> None:
    s = Server(app="fresh_app:app", workers=1, expect=["upgrade refused"], **QUICK)
    s.write_app(answers("x"))
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n" + answers("y"))
        s.signal(signal.SIGHUP)
        gate.wait_entered()
        for words in (["upgrade", "--wait"], ["upgrade"]):
            ran = ctl(s, *words)
            assert ran.returncode == 1
            assert ran.stderr == "forkservectl: error: upgrade refused: a reload is under way\n"
        gate.open()
        s.wait_line("reload done")
        assert s.get().text.startswith("y 2")


def test_upgrade_whose_new_code_cannot_boot_keeps_the_old_workers() -> None:
    s = Server(app="fresh_app:app", workers=2, reload_retries=0, expect=["could not boot", "reload failed"], **QUICK)
    s.write_app(answers("old"))
    with s:
        old = s.workers()
        s.write_app("import nothing_of_that_name\n")
        ran = ctl(s, "upgrade", "--wait")
        assert ran.returncode == 1
        assert "ModuleNotFoundError" in ran.stderr
        assert s.workers() == old
        assert s.get().text == "old 1 0"
        s.write_app(answers("new"))
        assert ctl(s, "reload", "--wait").returncode == 0
        assert s.get().text == "new 3 0"


def test_pidfile_and_control_socket_change_with_an_upgrade_only() -> None:
    s = Server(app=SITE, pidfile=None, config='pidfile = "a.pid"\ncontrol_socket = "a.sock"\n', **QUICK)
    with s:
        s.config.write_text('pidfile = "b.pid"\ncontrol_socket = "b.sock"\n')
        s.signal(signal.SIGHUP)
        assert 'applies_to="the next upgrade"' in s.wait_line("setting changed name=pidfile")
        s.wait_line("reload done")
        assert (s.folder / "a.pid").exists() and not (s.folder / "b.pid").exists()
        command = [sys.executable, "-m", "forkserve.ops.ctl", "-s", str(s.folder / "a.sock"), "upgrade", "--wait"]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (ran.returncode, ran.stdout) == (0, "generation 3\n"), "who waits on the old socket hears the end"
        assert sorted(path.name for path in s.folder.glob("*.pid")) == ["b.pid"]
        assert sorted(path.name for path in s.folder.glob("*.sock")) == ["b.sock"]
        assert (s.folder / "b.pid").read_text() == f"{s.pid}\n"
        asked = subprocess.run(
            [*command[:4], str(s.folder / "b.sock"), "status"], cwd=ROOT, capture_output=True, check=False
        )
        assert asked.returncode == 0


def test_upgrade_under_socket_activation_keeps_the_sockets_and_their_names(tmp_path: Path) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "admin.sock"))
    unix.listen()
    fds = (tcp.fileno(), unix.fileno())
    s = Server(app=SITE, bind=["fd://web", "fd://admin"], workers=1, pass_fds=fds, **QUICK)
    shell = f'exec 3<&{unix.fileno()} 4<&{tcp.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=2; exec "$@"'
    s.env["LISTEN_FDNAMES"] = "admin:web"
    s.command = ["bash", "-c", shell, "launch", *s.command]
    with s, tcp, unix:
        address = f"127.0.0.1:{tcp.getsockname()[1]}"
        assert s.addresses == [address, f"unix:{tmp_path}/admin.sock"]
        for generation in (2, 3):
            upgrade(s, generation - 1)
            assert s.get_at(address, "/pid").json[1] == generation
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "admin.sock"))
            client.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(s.get_at(address, "/env").json)
        s.stop()
        assert (tmp_path / "admin.sock").exists(), "the path is its giver's"
