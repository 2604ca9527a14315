"""Promise 7: KILL of the master at any moment of its life leaves nobody behind, and the port is free again."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.harness import Server, wait_until
from tests.process.probes import status
from tests.process.tools import Gate, answers, can_be_bound, lives, one_request

SITE = "tests.process.site:app"
# FORKSERVE_FULL=1 asks for the long form, as `make promises` does.
KILLS = 100 if os.environ.get("FORKSERVE_FULL") else 8
EXPECT = ["master is gone"]


@pytest.mark.parametrize("seed", range(KILLS))
def test_promise_07_kill_at_a_random_moment_of_starts_and_reloads_leaves_nobody(seed: int) -> None:
    rng = random.Random(seed)
    s = Server(app="fresh_app:app", workers=3, reload_settle=0, await_ready=False, expect=EXPECT)
    s.write_app(answers("app"))
    with s:
        s.wait_line("listening")
        if seed % 4:  # else it dies while the first workers are forked and boot
            s.wait_ready()
            s.signal(signal.SIGHUP)
        time.sleep(rng.uniform(0, 0.03))  # the stimulus: about as long as three are forked, or replaced
        began = time.monotonic()
        s.signal(signal.SIGKILL)
        wait_until(lambda: not s.alive(), f"the end of all, seed {seed}")
        assert time.monotonic() - began < 1.0 + 0.5, "nothing holds up any of them: it is idle, or boots in no time"
        s.wait_exit()
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.forget_pidfile()


def test_promise_07_kill_in_the_middle_of_a_reload_ends_the_old_the_busy_and_the_booting() -> None:
    s = Server(app="fresh_app:app", workers=2, graceful_timeout="1s", expect=EXPECT)
    s.write_app(
        "import time\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/hang':\n        time.sleep(3600)\n"
        "    start_response('200 OK', [])\n    return [b'old']\n"
    )
    with s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request("/hang"))
        wait_until(lambda: any(worker["request"] for worker in status(s)["workers"]), "the request in the app")
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\napp = print\n")
        s.signal(signal.SIGHUP)
        gate.wait_entered()
        assert {worker["stage"] for worker in status(s)["workers"]} == {"ready", "booting"}
        everybody = s.workers()
        assert len(everybody) == 3
        began = time.monotonic()
        s.signal(signal.SIGKILL)
        gate.open()
        wait_until(lambda: not any(lives(pid) for pid in everybody), "the end of all")
        assert 0.8 < time.monotonic() - began < 1.0 + 1.0, "the busy one had its grace, and no more"
        s.wait_exit()
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.forget_pidfile()


def test_promise_07_kill_while_workers_retire_bounds_them_too() -> None:
    with Server(app=SITE, workers=2, graceful_timeout="1s", expect=EXPECT) as s, s.connect() as sock:
        sock.sendall(one_request("/sleep?3600"))
        wait_until(lambda: any(worker["request"] for worker in status(s)["workers"]), "the request in the app")
        everybody = s.workers()
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        s.signal(signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not any(lives(pid) for pid in everybody), "the end of all")
        assert time.monotonic() - began < 1.0 + 1.0
        s.wait_exit()
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.forget_pidfile()


def test_promise_07_import_that_hangs_is_bounded_after_the_master_was_killed() -> None:
    s = Server(app="fresh_app:app", workers=1, graceful_timeout="1s", await_ready=False)
    s.write_app(f"import time\nopen({str(s.folder / 'gate')!r}).read()\ntime.sleep(3600)\n")
    with s, Gate(s) as gate:
        gate.wait_entered()
        [worker] = s.workers()
        gate.open()
        # A signal that comes between Python's look at its signals and a call that blocks is met after that call only.
        wait_until(lambda: "nanosleep" in Path(f"/proc/{worker}/wchan").read_text(), "the import to hang")
        s.signal(signal.SIGKILL)
        began = time.monotonic()
        s.wait_exit()
        wait_until(lambda: not s.alive(), "the end of the worker")
        assert time.monotonic() - began < 1.0 + 1.0
        s.forget_pidfile()


def test_promise_07_exit_handler_that_hangs_is_bounded_after_the_master_was_killed() -> None:
    s = Server(app="fresh_app:app", workers=2, graceful_timeout="1s", expect=EXPECT)
    s.write_app("import atexit, time\natexit.register(time.sleep, 3600)\n" + answers("clings"))
    with s:
        s.signal(signal.SIGKILL)
        began = time.monotonic()
        s.wait_exit()
        wait_until(lambda: not s.alive(), "the end of the workers")
        assert time.monotonic() - began < 1.0 + 1.0
        s.forget_pidfile()
