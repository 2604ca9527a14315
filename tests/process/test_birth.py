"""Promise 13: workers are born clean, the master stays without the app, and stray signals harm nobody."""

import os
import re
import signal
from collections import Counter

import pytest

from tests.harness import Server, wait_until
from tests.process.test_upgrade import copy_of_the_package
from tests.process.tools import answers, status

SITE = "tests.process.site:app"
NOTIFY = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

# What a worker may have open, and how often.
WHITE_LIST = {
    r"anon_inode:\[eventfd\]": 2,  # its bell, and the one that it calls the master with
    r"/dev/null": 1,  # stdin
    r"/.*/output": 2,  # stdout, stderr
    r"/.*/error\.log": 1,
    r"socket:\[\d+\]": 8,  # listener, channel, both ends of the relay and three spares for it, the connection that asks
    r"pipe:\[\d+\]": 3,  # the wakeup pipe, and the lifeline
    r"anon_inode:\[eventpoll\]": 1,
    r"/memfd:forkserve-stacks \(deleted\)": 1,
    r"/memfd:forkserve-scoreboard \(deleted\)": 1,  # Python's mmap keeps the descriptor
}


def test_promise_13_worker_has_no_signal_blocked_and_none_of_the_service_managers_variables() -> None:
    with Server(app=SITE, workers=1, env={"LISTEN_FDNAMES": "web"}) as s:
        [pid] = s.workers()
        assert status(pid, "SigBlk") == "0" * 16
        env = s.get("/env").json
        assert not set(NOTIFY) & set(env)
        ignored = {number for number in range(1, 65) if int(status(pid, "SigIgn"), 16) >> (number - 1) & 1}
        caught = {number for number in range(1, 65) if int(status(pid, "SigCgt"), 16) >> (number - 1) & 1}
        # What whoever started us ignores is none of our business (the C library's own signals, of some make).
        ignored -= {number for number in range(32, 65) if int(status(os.getpid(), "SigIgn"), 16) >> (number - 1) & 1}
        assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}, "Python's own; programs inherit what is ignored"
        assert {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1} <= caught
        assert signal.SIGCHLD not in ignored | caught, "the app's own children are its own business"


@pytest.mark.parametrize("workers", [1, 3])
def test_promise_13_worker_has_only_the_descriptors_of_the_white_list(workers: int) -> None:
    with Server(app=SITE, workers=workers) as s:
        for _ in range(2):
            open_now = list(s.get("/fds").json.values())
            counts = Counter(
                next((pattern for pattern in WHITE_LIST if re.fullmatch(pattern, link)), link) for link, _ in open_now
            )
            assert counts == WHITE_LIST
            standard = sum(passed_on for _, passed_on in open_now)
            assert standard == 3, f"a program that the app runs gets more than stdin, stdout and stderr: {open_now}"
            s.signal(signal.SIGHUP)  # and the same for those that are born beside older siblings
            s.wait_line("reload done")


def test_promise_13_worker_that_is_born_while_an_upgrade_is_tried_has_nothing_of_the_trial() -> None:
    s = Server(app=SITE, workers=1)
    package = copy_of_the_package(s)
    with s:
        [first] = s.workers()
        (package / "cli.py").write_text("import time\ntime.sleep(60)\n")
        s.signal(signal.SIGUSR2)
        trial = wait_until(lambda: [pid for pid in s.workers() if pid != first], "the trial")
        s.signal(signal.SIGTTIN)
        s.wait_line("worker ready", count=2)
        [born] = set(s.workers()) - {first, *trial}
        links = [os.readlink(f"/proc/{born}/fd/{fd}") for fd in os.listdir(f"/proc/{born}/fd")]
        assert sorted(link for link in links if "memfd" in link) == [
            "/memfd:forkserve-scoreboard (deleted)",
            "/memfd:forkserve-stacks (deleted)",
        ]


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_standard_descriptor_that_was_closed_is_one_in_the_programs_of_the_app_too(closed: int) -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(
        "import subprocess\n"
        "def app(environ, start_response):\n"
        f"    subprocess.run(['sh', '-c', 'where=$(readlink /proc/$$/fd/{closed}); echo $where >out'])\n"
        "    start_response('200 OK', [])\n    return [open('out', 'rb').read()]\n"
    )
    s.command = ["bash", "-c", f'exec {closed}<&-; exec "$@"', "launch", *s.command]
    with s:
        assert s.get().text == "/dev/null\n"


def test_promise_13_master_has_one_thread_and_never_runs_the_app() -> None:
    s = Server(app="fresh_app:app", workers=2)
    s.write_app("import os, threading\nopen('importers', 'a').write(f'{os.getpid()}\\n')\n" + answers("x"))
    with s:
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get().status == 200
        assert os.listdir(f"/proc/{s.pid}/task") == [str(s.pid)]
        importers = (s.folder / "importers").read_text().split()
        assert len(importers) == 4
        assert str(s.pid) not in importers


def test_promise_13_workers_have_random_streams_of_their_own() -> None:
    s = Server(app="fresh_app:app", workers=3)
    s.write_app("import random\nopen('streams', 'a').write(f'{random.random()}\\n')\n" + answers("x"))
    with s:
        streams = (s.folder / "streams").read_text().split()
        assert len(streams) == len(set(streams)) == 3


def test_promise_13_child_of_the_app_is_reaped_by_the_app() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(
        "import subprocess\n"
        "def app(environ, start_response):\n"
        "    ran = subprocess.run(['sh', '-c', 'echo from a child; exit 5'], capture_output=True)\n"
        "    start_response('200 OK', [])\n    return [ran.stdout + str(ran.returncode).encode()]\n"
    )
    with s:
        assert s.get().text == "from a child\n5"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGWINCH])
def test_promise_13_signal_that_is_meant_for_the_master_does_nothing_to_a_worker(number: signal.Signals) -> None:
    with Server(app=SITE, workers=1) as s:
        [pid] = s.workers()
        os.kill(pid, number)
        assert s.get("/pid").json[0] == pid


def test_promise_09_hup_to_every_process_kills_nobody_and_reloads_once() -> None:
    with Server(app=SITE, workers=3) as s:
        for process in s.tree():
            process.send_signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert len(s.lines("reload began")) == 1
        assert len(s.lines("worker forked")) == 6
        assert {s.get("/pid").json[1] for _ in range(6)} == {2}


def test_signal_without_a_meaning_is_said_and_ignored() -> None:
    with Server(app=SITE, workers=1) as s:
        s.signal(signal.SIGWINCH)
        s.wait_line("signal ignored signal=SIGWINCH")
        assert s.get("/pid").status == 200


def test_promise_13_nohup_still_reloads() -> None:
    with Server(app=SITE, workers=1, launcher=["nohup"]) as s:
        assert int(status(s.pid, "SigIgn"), 16) & 1 == 0
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2")


def test_promise_13_signals_that_a_careless_parent_blocked_or_ignored_work_all_the_same() -> None:
    careless = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    with Server(app=SITE, workers=1, launcher=["python3", "-c", careless], expect=["worker exited"]) as s:
        [pid] = s.workers()
        assert status(s.pid, "SigBlk") == status(pid, "SigBlk") == "0" * 16
        s.kill(pid)
        s.wait_line("not sent by us")
        wait_until(lambda: s.workers() and s.workers() != [pid], "the replacement")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
