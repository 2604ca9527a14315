"""Promise 8: out of processes, descriptors or disk, forkserve serves on, and is whole again once there is room."""

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.harness import ROOT, Server, read_to_end, wait_until
from tests.process.probes import ask, control, cpu_share, status
from tests.process.tools import Gate, one_request
from tests.process.tools import status as field

SITE = "tests.process.site:app"
IS_ROOT = os.geteuid() == 0
SOMEBODY = str(61_000 + os.getpid() % 1000)  # a user that has no other process
AS_SOMEBODY = ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--inh-caps=-all")
# A tmpfs of its own, in a mount namespace that ends with the server.
SMALL_DISK = ("unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=64k none small && exec "$0" "$@"')


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0


def _limit(pid: int, which: int, soft: int) -> None:
    resource.prlimit(pid, which, (soft, resource.prlimit(pid, which)[1]))


def _leave_room(pid: int, room: int) -> None:
    """Let a process open so many more descriptors."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    free = (fd for fd in range(1024) if fd not in used)
    _limit(pid, resource.RLIMIT_NOFILE, next(itertools.islice(free, room, None)))


def _as_somebody_who_may_be_refused() -> Server:
    """A server of a user whom the kernel limits: root's forks are never refused."""
    limited = ("prlimit", "--nproc=3:3", *AS_SOMEBODY)  # a master and two workers
    s = Server(app=SITE, workers=2, launcher=limited if IS_ROOT else ())
    s.folder.chmod(0o777)
    s.notify.path.chmod(0o777)
    return s


@contextmanager
def _no_room_for_a_process(s: Server) -> Iterator[None]:
    if IS_ROOT:
        with subprocess.Popen([*AS_SOMEBODY, "sleep", "60"]) as other:
            try:
                wait_until(lambda: field(other.pid, "Uid").startswith(SOMEBODY), "another process of that user")
                yield
            finally:
                other.kill()
        return
    before = resource.prlimit(s.pid, resource.RLIMIT_NPROC)[0]
    _limit(s.pid, resource.RLIMIT_NPROC, 1)
    try:
        yield
    finally:
        _limit(s.pid, resource.RLIMIT_NPROC, before)


@pytest.mark.skipif(
    IS_ROOT and not _works(*AS_SOMEBODY, sys.executable, "-c", "import forkserve.master.loop, tests.harness"),
    reason="needs a user other than root: no setpriv, or that user may not read this checkout",
)
def test_promise_08_pool_is_whole_again_when_the_kernel_allows_processes_again() -> None:
    with _as_somebody_who_may_be_refused() as s:
        s.expect = ["worker exited", "fork failed", "degraded"]
        with _no_room_for_a_process(s):
            s.kill(s.workers()[0])
            assert "Resource temporarily unavailable" in s.wait_line("fork failed")
            s.wait_line("degraded workers=1 size=2")
            assert [s.get("/pid").status for _ in range(10)] == [200] * 10
            assert ask(s, verb="status")["status"]["degraded"] is True
        s.wait_line("full strength again")
        assert len(s.workers()) == 2
        assert len(s.lines("fork failed")) <= 4, "one line for each pause"


def test_promise_08_worker_without_descriptors_neither_spins_nor_forgets_who_waits() -> None:
    with Server(app=SITE, workers=1, expect=["cannot accept"]) as s, ExitStack() as held:
        [worker] = s.workers()
        _leave_room(worker, 3)
        kept = [held.enter_context(s.connect()) for _ in range(3)]
        for sock in kept:
            sock.sendall(one_request("/pid", close=False))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        waiting = [held.enter_context(s.connect()) for _ in range(10)]
        for sock in waiting:
            sock.sendall(one_request("/pid"))
        s.wait_line("cannot accept")
        assert cpu_share(worker, 2.0) < 0.2
        assert len(s.lines("cannot accept")) == 1
        kept[0].sendall(one_request("/pid", close=False))
        assert kept[0].recv(65536).startswith(b"HTTP/1.1 200"), "who is inside is served"
        kept[1].close()
        for sock in waiting:
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert s.workers() == [worker]


def test_promise_08_sibling_serves_while_one_worker_has_no_descriptors() -> None:
    with Server(app=SITE, workers=2, expect=["cannot accept"]) as s, ExitStack() as held:
        [poor, rich] = s.workers()
        _leave_room(poor, 0)
        began = time.monotonic()
        clients = [held.enter_context(s.connect()) for _ in range(20)]
        for sock in clients:
            sock.sendall(one_request("/pid"))
        assert all(f"[{rich}, ".encode() in read_to_end(sock) for sock in clients)
        assert time.monotonic() - began < 3.0
        for _ in range(6):  # one alone: the kernel wakes one worker for it, and that may be the poor one
            assert s.get("/pid").json[0] == rich
        assert time.monotonic() - began < 6.0
        _limit(poor, resource.RLIMIT_NOFILE, 1024)
        wait_until(lambda: s.get("/pid").json[0] == poor, "the other one's return")


def test_promise_08_reload_without_descriptors_fails_and_a_later_one_succeeds() -> None:
    expect = ["reload rejected", "fork failed", "reload failed", "degraded"]
    with Server(app=SITE, workers=1, reload_retries=0, expect=expect) as s:
        before = resource.prlimit(s.pid, resource.RLIMIT_NOFILE)[0]
        _limit(s.pid, resource.RLIMIT_NOFILE, 3)
        s.signal(signal.SIGHUP)
        assert "Too many open files" in s.wait_line("Too many open files")
        assert s.get("/pid").json[1] == 1
        with control(s) as nobody:
            nobody.sendall(b'{"verb":"status"}\n')
            assert cpu_share(s.pid, 0.5) < 0.2
            _limit(s.pid, resource.RLIMIT_NOFILE, before)
            assert status(s)["ready"] == 1, "not deaf for having been poor"
            assert b'"ready":1' in nobody.recv(65536)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get("/pid").json[1] > 1


needs_small_disk = pytest.mark.skipif(
    not _works("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"), reason="needs the right to mount"
)


def _has_size(s: Server, size: int) -> bool:
    return bool(status(s)["size"] == size)


def _fill(place: Path) -> None:
    with (place / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


@needs_small_disk
def test_promise_08_full_disk_under_the_log_stops_nobody_and_the_loss_is_said() -> None:
    s = Server(app=SITE, workers=1, launcher=SMALL_DISK, errorlog="small/log", expect=["log lines were lost"])
    (s.folder / "small").mkdir()
    with s:
        inside = Path(f"/proc/{s.pid}/root{s.folder}/small")
        _fill(inside)
        # What is left of the log's last page is filled first.
        for _ in range(300):
            assert s.exchange(b"\0").startswith(b"HTTP/1.1 400 ")
        assert s.get("/pid").status == 200
        for number in range(40):
            s.signal(signal.SIGTTIN if number % 2 == 0 else signal.SIGTTOU)
            size = 2 if number % 2 == 0 else 1
            wait_until(partial(_has_size, s, size), "the new size")
        (inside / "filler").unlink()
        s.signal(signal.SIGUSR1)
        wait_until(lambda: "log lines were lost count=" in (inside / "log").read_text(), "the loss")
        assert s.get("/pid").status == 200


@needs_small_disk
def test_promise_08_full_disk_under_the_pidfile_is_one_clear_line() -> None:
    fill = "dd if=/dev/zero of=small/filler bs=4k 2>/dev/null; "
    launcher = [*SMALL_DISK[:-1], SMALL_DISK[-1].replace("&& ", "&& { " + fill + "true; } && ")]
    s = Server(app=SITE, launcher=launcher, pidfile="small/pid", errorlog="-", await_ready=False)
    (s.folder / "small").mkdir()
    with s:
        assert s.wait_exit() not in (0, None)
        [line] = [line for line in s.said().splitlines() if "pidfile" in line]
        assert "No space left on device" in line
        assert "Traceback" not in s.said()


def test_promise_08_stderr_that_is_full_stops_nobody() -> None:
    launcher = ("bash", "-c", 'exec "$0" "$@" 2>/dev/full')
    with Server(app=SITE, workers=2, launcher=launcher, errorlog="-", accesslog="-") as s:
        s.signal(signal.SIGHUP)
        wait_until(lambda: status(s)["generation"] == 2 and not status(s)["reloading"], "the reload")
        assert [s.get("/pid").json[1] for _ in range(5)] == [2] * 5


def test_promise_08_reader_of_stderr_may_die_and_its_successor_learns_what_was_lost() -> None:
    s = Server(app=SITE, workers=1, launcher=("bash", "-c", 'exec "$0" "$@" 2<>fifo 2>fifo'), errorlog="-")
    fifo = s.folder / "fifo"
    os.mkfifo(fifo)
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with s, ExitStack() as held:
        gate = held.enter_context(Gate(s))
        assert b"forkserve started" in os.read(first, 65536)
        os.close(first)
        for number in range(3):
            s.signal(signal.SIGTTIN)
            wait_until(partial(_has_size, s, number + 2), "one more worker")
        with s.connect() as sock:
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
            gate.open()
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        held.callback(os.close, second)
        s.signal(signal.SIGUSR1)
        found = bytearray()

        def read() -> bool:
            try:
                found.extend(os.read(second, 65536))
            except BlockingIOError:
                pass
            return b"log lines were lost count=" in found and b"log files reopened" in found

        wait_until(read, "the loss")
