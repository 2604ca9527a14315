"""A first start that cannot boot ends soon, with an exit code that says why and the traceback last in the log."""

import signal

import pytest

from tests.harness import Server

EXPECT = ["worker could not boot", "worker exited", "first start failed", "worker overdue", "asked for its stacks"]
TRIES = 3


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("source", "code", "last"),
    [
        ("raise RuntimeError('no database')\n", 3, "RuntimeError: no database"),
        ("def app(:\n", 3, "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\n", 3, "SystemExit: 0"),
        ("x = 1\n", 4, "has no 'app'"),
    ],
)
def test_start_that_cannot_boot_exits_with_its_code_and_the_traceback_last(
    source: str, code: int, last: str, workers: int
) -> None:
    s = Server(app="fresh_app:app", workers=workers, await_ready=False, expect=EXPECT)
    s.write_app(source)
    with s:
        assert s.wait_exit() == code
        assert not s.heard("READY")
        lines = s.log().splitlines()
        assert last in lines[-1]
        assert "[critical] first start failed" in [line for line in lines if " [" in line and "] [" in line][-1]
        assert max(TRIES, workers) <= len(s.lines("worker could not boot")) <= TRIES + workers
        s.wait_status("first start failed: ")


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_start_whose_workers_die_without_a_word_ends_too(end: str) -> None:
    s = Server(app="fresh_app:app", workers=2, await_ready=False, expect=EXPECT)
    s.write_app(f"import os\n{end}\n")
    with s:
        assert s.wait_exit() == 3
        assert not s.heard("READY")
        assert "worker exited before it was ready" in s.log().splitlines()[-1]


def test_start_with_no_such_module_says_so() -> None:
    with Server(app="no_such_module:app", workers=1, await_ready=False, expect=EXPECT) as s:
        assert s.wait_exit() == 3
        assert "No module named 'no_such_module'" in s.log()


def test_start_that_succeeds_at_the_second_try_serves() -> None:
    s = Server(app="fresh_app:app", workers=1, await_ready=False, expect=EXPECT)
    s.write_app(
        "import os\nif not os.path.exists('tried'):\n    open('tried', 'w')\n    raise OSError('not yet')\n"
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'at last']\n"
    )
    with s:
        s.wait_ready()
        assert s.get().text == "at last"
        assert len(s.lines("worker could not boot")) == 1


@pytest.mark.parametrize(
    ("flags", "piece"),
    [
        (["--workers", "0"], "--workers"),
        (["--no-such-flag"], "--no-such-flag"),
        (["-c", "no/such/file.toml"], "no/such/file.toml"),
        (["--error-logfile", "no/such/folder/log"], "no/such/folder/log"),
    ],
)
def test_wrong_settings_end_the_start_with_2_and_one_line(flags: list[str], piece: str) -> None:
    errorlog = None if "--error-logfile" in flags else "error.log"
    with Server(app="tests.process.site:app", flags=flags, await_ready=False, errorlog=errorlog) as s:
        assert s.wait_exit() == 2
        [line] = s.said().splitlines()
        assert line.startswith("forkserve: error: ")
        assert piece in line
        assert not s.notify.heard()


def test_reload_before_the_first_worker_is_ready_takes_the_new_code() -> None:
    s = Server(app="fresh_app:app", workers=1, await_ready=False, expect=EXPECT)
    s.write_app("import time\ntime.sleep(3600)\n")
    with s:
        s.wait_line("worker forked")
        s.write_app("def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'new']\n")
        s.signal(signal.SIGHUP)
        s.wait_ready()
        assert s.get().text == "new"
