"""Promise 2: broken code or settings never cost capacity; whoever looks is told why, and the next good HUP works."""

import re
import signal
from http.client import HTTPException

import pytest

from tests.harness import Server, wait_until
from tests.process.tools import answers

BROKEN = {
    "syntax error": ("def app(:\n", "SyntaxError"),
    "import error": ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
    "raises": ("raise RuntimeError('the database is down')\n", "RuntimeError: the database is down"),
    "sys.exit(0)": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "os._exit(3)": ("import os\nos._exit(3)\n", "exit code 3"),
    "segfault": ("import os\nos.kill(os.getpid(), 11)\n", "killed by signal 11"),
    "app missing": ("x = 1\n", "has no 'app'"),
    "app not callable": ("app = 3\n", "cannot be called"),
    "endless import": ("import time\ntime.sleep(3600)\n", "not ready within 1 s"),
}
WHY = ["worker could not boot", "worker exited", "reload failed", "worker overdue", "worker was asked for its stacks"]


@pytest.mark.parametrize("fault", BROKEN)
def test_promise_02_broken_code_leaves_the_old_generation_at_full_strength(fault: str) -> None:
    source, why = BROKEN[fault]
    s = Server(app="fresh_app:app", workers=2, reload_retries=0, boot_timeout="1s", expect=WHY)
    s.write_app(answers("old"))
    with s:
        old = s.workers()
        s.write_app(source)
        s.signal(signal.SIGHUP)
        said = s.wait_line("reload failed gen=2")
        assert why in said
        assert s.workers_from(old) == old
        assert {s.get().text for _ in range(6)} == {"old 1 0"}
        assert why in s.wait_status("generation 1 serving; reload to 2 failed: ")
        if "rror" in why:
            traceback = s.log().partition("worker could not boot")[2]
            assert '\n      File "' in traceback  # from the user's code on
            assert why in traceback
        s.write_app(answers("new"))
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=3")
        assert {s.get().text for _ in range(6)} == {"new 3 0"}
        s.wait_status("generation 3, 2 workers")
        assert s.lines("retiring worker")[0] > said, "an old worker was retired for code that cannot boot"


SICK = {
    "thread": "import os, threading\nthreading.Timer(0.3, os._exit, [1]).start()\n" + answers("sick"),
    "request": "import os\ndef app(environ, start_response):\n    os.kill(os.getpid(), 11)\n",
}


@pytest.mark.parametrize("fault", SICK)
def test_promise_02_code_that_dies_as_soon_as_it_is_ready_costs_no_old_worker(fault: str) -> None:
    s = Server(app="fresh_app:app", workers=2, reload_retries=1, expect=WHY)
    s.write_app(answers("old"))
    with s:
        old = s.workers()
        s.write_app(SICK[fault])
        s.signal(signal.SIGHUP)
        wait_until(lambda: _ask_anything(s) and s.lines("reload failed gen=2"), "the end of the reload")
        # Somebody may have been answered before.
        assert re.search("exited as soon as it was ready|died at work", s.lines("reload failed")[0])
        assert len(s.lines("worker ready")) == 2 + 2, "one more try"
        assert s.workers_from(old) == old
        assert not s.lines("retiring worker")
        s.write_app(answers("new"))
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=3")
        assert {s.get().text for _ in range(6)} == {"new 3 0"}


def _ask_anything(s: Server) -> bool:
    """Send a request, which may meet the sick one; always true."""
    try:
        s.get()
    except (OSError, HTTPException):
        pass
    return True


def test_broken_code_is_tried_again_as_often_as_set_before_the_reload_fails() -> None:
    s = Server(app="fresh_app:app", workers=1, reload_retries=1, expect=WHY)
    s.write_app(answers("old"))
    with s:
        s.write_app("raise RuntimeError('no')\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        assert len(s.lines("worker could not boot")) == 2
        assert s.log().count("RuntimeError: no\n    ") <= 2, "one traceback for one fault"


def test_worker_that_dies_while_the_code_on_disk_is_broken_costs_one_worker_only() -> None:
    s = Server(app="fresh_app:app", workers=2, reload_retries=0, expect=[*WHY, "degraded"])
    s.write_app(answers("old"))
    with s:
        s.write_app("raise RuntimeError('no')\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        victim, other = s.workers()
        s.kill(victim)
        s.wait_line("degraded workers=1 size=2")
        s.wait_status("generation 1 degraded, 1 of 2 workers: ")
        assert s.get().text == "old 1 0"
        assert other in s.workers()
        s.write_app(answers("fixed"))
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert {s.get().text.split()[0] for _ in range(6)} == {"fixed"}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ('workers = "many"\n', "config.toml:1: workers = "),
        ("workers = \n", "config.toml:1"),
        ("wrokers = 3\n", "wrokers"),
        (None, "cannot be read"),
    ],
)
def test_promise_02_broken_settings_leave_all_as_it_was(broken: str | None, why: str) -> None:
    with Server(app="tests.process.site:app", config="workers = 2\n", expect=["reload rejected"]) as s:
        old = s.workers()
        if broken is None:
            s.config.unlink()
        else:
            s.config.write_text(broken)
        s.signal(signal.SIGHUP)
        assert why in s.wait_line("reload rejected")
        assert s.workers() == old
        assert {s.get("/pid").json[1] for _ in range(4)} == {1}
        assert why in s.wait_status("generation 1 serving; reload rejected: ")
        assert s.notify.heard()[-1]["READY"] == "1", "there is no word for failure: systemd must not wait for ever"
        s.config.write_text("workers = 3\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert len(s.workers()) == 3
        s.wait_status("generation 2, 3 workers")
