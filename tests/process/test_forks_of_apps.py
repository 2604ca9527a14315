"""Processes that apps fork, whenever they do, and programs that they start: none of ours is theirs. Promise 13."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.tools import can_be_bound, lives, open_files, status, title

HABITS = "tests.apps.habits"
AT_IMPORT = f"{HABITS}.fork_at_import:app"
COMES_BACK = f"{HABITS}.fork_that_comes_back:app"
PROGRAM = f"{HABITS}.program_signals:app"
SPAWNED = f"{HABITS}.program_spawned:app"


def _end(pid: int) -> None:
    if lives(pid):
        os.kill(pid, signal.SIGKILL)


def _helper(s: Server) -> int:
    return int(s.get().text)


def _is_let_go(pid: int) -> bool:
    """Whether it has run what every fork runs first."""
    return "forked by" in title(pid)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("helper", ["os", "daemon", "process", "manager"])
def test_helper_that_was_forked_by_an_import_holds_nothing_of_ours(helper: str, threads: int) -> None:
    with Server(app=AT_IMPORT, workers=1, threads=threads, env={"HELPER": helper}) as s:
        pid = _helper(s)
        try:
            # It lets the signals come last of all: 0.2 s after its parent goes on, where the machine is busy.
            wait_until(lambda: _is_let_go(pid) and status(pid, "SigBlk") == "0" * 16, "what every fork runs first")
            held = open_files(pid)
            assert not [target for target in held if target.startswith("anon_inode:")]
            sockets = [target for target in held if target.startswith("socket:")]
            assert sockets == [] or helper == "manager", "which has sockets of its own"
        finally:
            if helper in ("os", "process"):
                _end(pid)


@pytest.mark.parametrize("helper", ["os", "daemon", "process"])
def test_helper_that_was_forked_by_an_import_ends_by_term_and_its_worker_does_not(helper: str) -> None:
    with Server(app=AT_IMPORT, workers=1, env={"HELPER": helper}) as s:
        [worker] = [pid for pid in s.workers() if pid != _helper(s)]
        assert s.get("/terminate").text == str(-signal.SIGTERM)
        assert s.get().status == 200
        assert s.workers() == [worker]
        assert s.lines("worker retired itself") == []


def test_term_right_after_the_fork_is_the_helpers_and_not_the_workers() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(
        "import multiprocessing, os, signal, time\n"
        "context = multiprocessing.get_context('fork')\n"
        "def app(environ, start_response):\n"
        "    codes = set()\n"
        "    for _ in range(50):\n"
        "        helper = context.Process(target=time.sleep, args=(3600,))\n"
        "        helper.start()\n"
        "        helper.terminate()\n"
        "        helper.join(20)\n"
        "        codes.add(helper.exitcode)\n"
        "    start_response('200 OK', [])\n"
        "    return [str(codes).encode()]\n"
    )
    with s:
        [worker] = s.workers()
        assert s.get().text == "{-15}"
        assert s.get().text == "{-15}"
        assert s.workers() == [worker]
        assert s.lines("worker retired itself") == []


@pytest.mark.parametrize("helper", ["daemon", "manager"])
def test_helper_that_python_would_end_ends_with_its_worker_at_once(helper: str) -> None:
    with Server(app=AT_IMPORT, workers=1, env={"HELPER": helper}) as s:
        first = _helper(s)
        began = time.monotonic()
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert time.monotonic() - began < PATIENCE_S / 2
        wait_until(lambda: not lives(first), "the end of the helper")
        second = _helper(s)
        assert s.stop() == 0
        wait_until(lambda: not lives(second), "the end of the helper")


def test_port_is_free_when_a_helper_that_was_forked_by_an_import_outlives_the_service() -> None:
    with Server(app=AT_IMPORT, workers=1, env={"HELPER": "os"}) as s:
        pid = _helper(s)
        try:
            assert s.stop() == 0
            assert lives(pid)
            assert can_be_bound(s.port)
        finally:
            _end(pid)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_the_app_forks_is_not_called_forkserve(threads: int) -> None:
    with Server(app=AT_IMPORT, workers=1, threads=threads, env={"HELPER": "os"}) as s:
        pid = _helper(s)
        try:
            wait_until(lambda: _is_let_go(pid), "the title")
            assert title(pid).endswith(f": forked by {AT_IMPORT}, worker 0")
            comm = Path(f"/proc/{pid}/comm")
            wait_until(lambda: comm.read_text().startswith("python"), "the name that ps and top show")
        finally:
            _end(pid)


def test_pkill_of_every_forkserve_spares_what_the_app_forks() -> None:
    with Server(app=AT_IMPORT, workers=1, threads=2, env={"HELPER": "os"}) as s:
        pid = _helper(s)
        try:
            wait_until(lambda: _is_let_go(pid), "the title")
            # pkill's own rule, without its reach over the machine.
            for one in s.tree():
                if "forkserve" in Path(f"/proc/{one.pid}/comm").read_text():
                    os.kill(one.pid, signal.SIGHUP)
            s.wait_line("reload done")
            assert lives(pid)
        finally:
            _end(pid)
            _end(_helper(s))


@pytest.mark.parametrize("threads", [1, 3])
def test_fork_that_comes_back_ends_like_a_program(threads: int) -> None:
    with Server(app=COMES_BACK, workers=1, threads=threads) as s:
        [worker] = s.workers()
        assert s.get("/exit").text == "7"
        assert s.get("/raise").text == "1"
        assert s.get("/return").status == 200
        assert s.said().count("child leaves by ") == 3
        assert s.log().count("ValueError: the child's own fault") == 1
        assert s.lines("app raised") == [] and s.lines("child crashed") == [] and s.lines("thread failed") == []
        assert s.workers() == [worker]


UPLOADS = """
import hashlib, os, sys

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        os.waitpid(pid, 0)
    digest = hashlib.md5()
    while piece := environ["wsgi.input"].read(60_000):
        digest.update(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [digest.hexdigest().encode()]
"""


@pytest.mark.parametrize("size", [100_000, 3_000_000], ids=["in memory", "in a file"])
# With threads at length only: a fork of a process with threads may inherit a lock that nobody will ever release. Seen
# twice in some thousand forks, and not understood yet.
@pytest.mark.parametrize("threads", [1, 3] if "FORKSERVE_FULL" in os.environ else [1])
def test_fork_amid_an_upload_takes_and_adds_nothing_of_it(threads: int, size: int) -> None:
    body = os.urandom(size)
    head = f"POST /digest HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    s = Server(app="fresh_app:app", workers=1, threads=threads)
    s.write_app(UPLOADS)
    with s, s.connect() as sock:
        for start in range(0, size, size // 4):
            sock.sendall((head if not start else b"") + body[start : start + size // 4])
            assert s.get("/fork").status == 200
        answer = read_to_end(sock)
        assert answer.endswith(hashlib.md5(body).hexdigest().encode()), answer[-200:]


@pytest.mark.parametrize("threads", [1, 3])
def test_fork_of_a_fork_keeps_what_is_its_own(threads: int) -> None:
    with Server(app=f"{HABITS}.fork_twice:app", workers=1, threads=threads) as s:
        assert s.get().text == "0 True -1 whole"
        assert "Exception ignored" not in s.said()


@pytest.mark.parametrize("how", ["os_system", "posix_spawn", "popen", "subprocess", "preexec"])
@pytest.mark.parametrize("threads", [1, 3])
def test_programs_find_no_signal_ignored_that_a_plain_python_would_not_ignore(how: str, threads: int) -> None:
    with Server(app=PROGRAM, workers=1, threads=threads) as s:
        mask = int(s.get(f"/{how}").text.split()[1], 16)
        ignored = {signal.Signals(number) for number in range(1, 32) if mask >> (number - 1) & 1}
        assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}


def test_program_can_be_interrupted() -> None:
    with Server(app=PROGRAM, workers=1) as s:
        assert s.get("/interrupt").text == str(-signal.SIGINT)


def test_signals_that_mean_nothing_to_a_worker_disturb_no_call_of_the_app() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(
        "import os, select, signal, socket, threading, time\n"
        "def app(environ, start_response):\n"
        "    def rain():\n"
        "        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2) * 50:\n"
        "            os.kill(os.getpid(), number)\n"
        "            time.sleep(0.002)\n"
        "    thread = threading.Thread(target=rain)\n"
        "    thread.start()\n"
        "    began = time.monotonic()\n"
        "    time.sleep(0.2)\n"
        "    slept = time.monotonic() - began\n"
        "    ours, theirs = socket.socketpair()\n"
        "    found = select.select([ours], [], [], 0.2)[0]\n"
        "    threading.Timer(0.2, theirs.send, (b'x',)).start()\n"
        "    got = ours.recv(1)\n"
        "    thread.join()\n"
        "    start_response('200 OK', [])\n"
        "    return [f'{slept >= 0.2} {found} {got}'.encode()]\n"
    )
    with s:
        [worker] = s.workers()
        assert s.get().text == "True [] b'x'"
        assert s.workers() == [worker]


@pytest.mark.parametrize("helper", ["daemon", "process", "manager"])
def test_check_of_an_app_leaves_no_helper_of_its_import(helper: str) -> None:
    with Server(app=AT_IMPORT, workers=1, env={"HELPER": helper}, flags=["--check-config"], await_ready=False) as s:
        assert s.wait_exit() == 0
        assert s.said() == "settings and app are good\n"
        wait_until(lambda: not s.alive(), "the end of the helper")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_processes_collect_garbage(method: str) -> None:
    with Server(app=SPAWNED, workers=1) as s:
        assert s.get(f"/{method}").text.startswith("True False ")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_spawned_under_the_console_script_collect_garbage(method: str) -> None:
    s = Server(app=SPAWNED, workers=1)
    script = s.folder / "forkserve"
    script.write_text(
        "import sys\nfrom forkserve.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    at = s.command.index("-m")
    s.command[at : at + 2] = [str(script)]
    with s:
        assert s.get(f"/{method}").text.startswith("True False ")


def test_worker_at_a_terminal_that_reads_it_from_the_background_fails_and_does_not_spin() -> None:
    code = (
        "import os, pty, signal\n"
        "from forkserve.unix import signals\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.setpgid(0, 0)\n"  # in the background
        "        signals.disregard(signals.WORKER_IGNORES)\n"
        "        try:\n"
        "            os.read(0, 1)\n"
        "        except OSError:\n"
        "            os._exit(5)\n"
        "    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert ran.stdout == "5\n"


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("helper", ["daemon", "process", "manager"])
def test_worker_that_is_abandoned_while_it_boots_takes_the_helpers_of_its_import_along(
    helper: str, order: signal.Signals
) -> None:
    plain = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'plain']\n"
    s = Server(app="fresh_app:app", workers=1, env={"HELPER": helper})
    s.write_app(plain)
    with s:
        s.write_app(
            "import time\n"
            "from tests.apps.habits import fork_at_import\n"
            f"with open({str(s.folder / 'helper')!r}, 'w') as file: file.write(f'{{fork_at_import.pid}}\\n')\n"
            "time.sleep(3600)\n"
        )
        s.signal(signal.SIGHUP)
        told = s.folder / "helper"
        pid = int(wait_until(lambda: told.exists() and told.read_text().endswith("\n") and told.read_text(), "its pid"))
        assert lives(pid)
        s.write_app(plain)
        s.signal(order)
        s.wait_line("abandoning worker")
        if order == signal.SIGHUP:
            s.wait_line("reload done gen=3")
        else:
            assert s.wait_exit() == 0
        wait_until(lambda: not lives(pid), "the end of the helper")
        assert s.lines("killed worker") == []
        assert "wrote its stacks" not in s.said()
