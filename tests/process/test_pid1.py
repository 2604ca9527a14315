"""forkserve as PID 1 of a PID namespace, as in a container that has no init: the kernel gives PID 1 every orphan to
reap, and no default action to any signal."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.harness import Server, wait_until
from tests.process.load import Load
from tests.process.tools import answers

_AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")
LAUNCHER = ("unshare", *_AS_ROOT, "--pid", "--fork", "--kill-child", "--mount-proc")

# Each request leaves one process behind that nobody waits for: it ends with 7 when its parent has gone.
LEAVES_ORPHANS = """
import subprocess

def app(environ, start_response):
    subprocess.run(["sh", "-c", "(exit 7) &"], check=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"left one"]
"""


class ContainedServer(Server):
    """A server whose master is PID 1 in a namespace of its own; ``pid`` is what this side calls it."""

    def __init__(self, **settings: object) -> None:
        # An abstract name would be that of every PID 1 on this machine.
        super().__init__("fresh_app:app", bind=["127.0.0.1:0"], launcher=LAUNCHER, control_socket="control", **settings)  # type: ignore[arg-type]
        self._master = 0

    @property
    def pid(self) -> int:
        if not self._master:
            assert self.process is not None
            outer = psutil.Process(self.process.pid)
            self._master = wait_until(outer.children, "the namespace")[0].pid
        return self._master


@pytest.fixture(autouse=True)
def _needs_a_namespace() -> None:
    tried = subprocess.run([*LAUNCHER, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no PID namespace can be had here: {tried.stderr.strip()}")


def test_pid_1_serves_reloads_and_stops_on_term_with_0() -> None:
    s = ContainedServer(workers=2)
    s.write_app(answers("old"))
    with s:
        assert s.pidfile.read_text().strip() == "1"
        [address] = s.addresses
        s.write_app(answers("new"))
        with Load(s, address) as load:
            s.signal(signal.SIGHUP)
            s.wait_line("reload done gen=2")
        assert load.failures == []
        assert s.get_at(address).text == "new 2 0"
        assert s.stop() == 0


def test_pid_1_reaps_strangers_and_leaves_no_zombie() -> None:
    s = ContainedServer(workers=2)
    s.write_app(LEAVES_ORPHANS)
    with s:
        for _ in range(20):
            assert s.get_at(s.addresses[0]).text == "left one"
        line = s.wait_line("reaped a process that is not ours", count=20)
        assert "code=7" in line
        assert [p.pid for p in s.tree() if p.status() == psutil.STATUS_ZOMBIE] == []
        assert len(s.workers()) == 2


def test_pid_1_is_told_nothing_by_signals_that_it_does_not_know() -> None:
    s = ContainedServer(workers=1)
    s.write_app(answers("old"))
    with s:
        for number in (signal.SIGPIPE, signal.SIGALRM, signal.SIGWINCH):
            s.signal(number)
        s.wait_line("signal ignored signal=SIGWINCH")
        assert s.get_at(s.addresses[0]).text == "old 1 0"


def test_promise_07_nobody_outlives_a_pid_1_that_is_killed() -> None:
    s = ContainedServer(workers=2, expect=["master is gone"])
    s.write_app(answers("old"))
    with s:
        workers = s.workers()
        assert len(workers) == 2
        s.signal(signal.SIGKILL)
        assert s.wait_exit() != 0
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers), "the end of the workers")
        s.forget_pidfile()


def test_promise_11_upgrade_in_place_of_pid_1_loses_nothing() -> None:
    s = ContainedServer(workers=2)
    s.write_app(answers("old"))
    with s:
        [address] = s.addresses
        s.write_app(answers("new"))
        born = psutil.Process(s.pid).create_time()
        with Load(s, address) as load:
            s.signal(signal.SIGUSR2)
            wait_until(lambda: s.get_at(address).text == "new 2 0" and s.lines("gen=2 workers=2"), "the upgrade")
        assert load.failures == []
        assert s.pidfile.read_text().strip() == "1"
        assert psutil.Process(s.pid).create_time() == born
