"""Promise 5: hangs are bounded and explained, siblings serve meanwhile, and a master that stood still kills nobody."""

import os
import signal
import time

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import answers, lives, one_request, status, wait_retiring

SITE = "tests.process.site:app"
DUMPED = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]


@pytest.mark.parametrize(
    ("path", "frame", "client_gets"),
    [
        ("/busy", "in _busy", b"HTTP/1.1 504 Gateway Timeout\r\n"),
        ("/sleep?3600", "in _sleep", b"HTTP/1.1 504 Gateway Timeout\r\n"),
        ("/gil", "in _gil", b""),  # no Python can run: the connection is closed
    ],
)
def test_promise_05_hang_is_explained_and_replaced(path: str, frame: str, client_gets: bytes) -> None:
    with Server(app=SITE, workers=2, timeout="1s", expect=DUMPED) as s, s.connect() as sock:
        old = s.workers()
        began = time.monotonic()
        sock.sendall(one_request(path))
        sibling = s.get("/pid").json[0]  # the hanging one is not in epoll_wait: its sibling takes everything
        assert {s.get("/pid").json[0] for _ in range(20)} == {sibling}
        answer = read_to_end(sock)
        assert 1.0 <= time.monotonic() - began < 3.5
        assert answer.startswith(client_gets) and bool(answer) == bool(client_gets)
        line = s.wait_line("request overdue")
        assert f'request="GET {path}"' in line
        assert " age_s=1" in line
        s.wait_line("worker ready", count=3)
        wait_until(lambda: len(s.workers()) == 2, "the replacement")
        assert sibling in s.workers()
        assert len(set(s.workers()) & set(old)) == 1
        dump = s.log().partition("worker was asked for its stacks")[2]
        assert frame in dump, "the hanging frame"


def test_promise_05_every_thread_of_a_hanging_worker_is_shown() -> None:
    s = Server(app="fresh_app:app", workers=1, timeout="1s", expect=DUMPED)
    s.write_app(
        "import threading, time\n"
        "def helper_that_waits():\n    time.sleep(3600)\n"
        "threading.Thread(target=helper_that_waits, daemon=True).start()\n"
        "def app(environ, start_response):\n    threading.Lock().acquire() and forever()\n"
        "def forever():\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()\n"
    )
    with s:
        assert s.get().status == 504
        s.wait_line("worker ready", count=2)
        assert "in forever" in s.log()
        assert "in helper_that_waits" in s.log()


def test_promise_05_stopped_worker_is_continued_dumped_and_replaced() -> None:
    expect = [*DUMPED, "worker was stopped", "worker continued"]
    with Server(app=SITE, workers=2, timeout="1s", expect=expect) as s, s.connect() as sock:
        sock.sendall(one_request("/stop"))
        assert 'request="GET /stop"' in s.wait_line("request overdue")
        s.wait_line("worker ready", count=3)
        assert read_to_end(sock)[:12] in (b"HTTP/1.1 504", b"HTTP/1.1 200", b"")
        wait_until(lambda: len(s.workers()) == 2, "the replacement")
        assert s.get("/pid").status == 200


def test_promise_05_hang_after_the_head_has_left_closes_the_connection_without_a_second_head() -> None:
    s = Server(app="fresh_app:app", workers=1, timeout="1s", expect=DUMPED)
    s.write_app(
        "import time\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n    yield b'begun'\n    time.sleep(3600)\n"
    )
    with s:
        answer = s.exchange(one_request("/"))
        assert answer.startswith(b"HTTP/1.1 200") and b"begun" in answer
        assert b"504" not in answer
        assert not answer.endswith(b"0\r\n\r\n"), "the body must not look whole"


def test_promise_05_hang_at_boot_is_bounded_and_shown() -> None:
    s = Server(
        app="fresh_app:app", workers=1, boot_timeout="1s", await_ready=False,
        expect=["worker overdue", "worker was asked for its stacks", "worker exited"],
    )  # fmt: skip
    s.write_app(
        "import os, time\n"
        "if not os.path.exists('tried'):\n    open('tried', 'w')\n    time.sleep(3600)\n" + answers("second try")
    )
    with s:
        began = time.monotonic()
        s.wait_ready()
        assert 1.0 <= time.monotonic() - began < 6.0
        assert 'cause="not ready within 1 s"' in s.wait_line("worker overdue")
        assert 'fresh_app.py", line 4 in <module>' in s.log()
        assert s.get().text == "second try 1 0"


def test_promise_05_request_just_within_its_time_is_left_alone() -> None:
    with Server(app=SITE, workers=1, timeout="2s") as s:
        [worker] = s.workers()
        for _ in range(3):
            assert s.get("/sleep?0.5").status == 200
        assert s.workers() == [worker]


def test_promise_05_master_that_was_stopped_longer_than_the_timeout_kills_nobody() -> None:
    with Server(app=SITE, workers=2, timeout="1s", expect=["master overslept"]) as s:
        before = s.workers()
        for _ in range(4):
            s.get("/pid")  # rows of requests that are over
        s.signal(signal.SIGSTOP)
        wait_until(lambda: status(s.pid, "State").startswith("T"), "the stop")
        with s.connect() as sock:
            sock.sendall(one_request("/sleep?0.9"))
            time.sleep(2.5)  # the fault itself, not a wait
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        s.signal(signal.SIGCONT)
        s.wait_line("master overslept")
        assert s.get("/sleep?0.7").status == 200
        assert s.workers() == before
        assert s.lines("worker exited") == []


def test_promise_05_idle_worker_that_is_stopped_and_continued_is_left_alone() -> None:
    with Server(app=SITE, workers=1, timeout="20s", expect=["worker was stopped", "worker continued"]) as s:
        [worker] = s.workers()
        os.kill(worker, signal.SIGSTOP)
        s.wait_line("worker was stopped")
        os.kill(worker, signal.SIGCONT)
        s.wait_line("worker continued")
        assert s.get("/pid").json[0] == worker
        assert lives(worker)


def test_promise_05_idle_worker_that_stays_stopped_is_noticed_and_replaced() -> None:
    expect = [*DUMPED, "worker was stopped", "worker continued", "worker overdue"]
    with Server(app=SITE, workers=2, timeout="1s", expect=expect) as s:
        [stopped, other] = s.workers()
        os.kill(stopped, signal.SIGSTOP)
        assert 'cause="stopped for 1 s"' in s.wait_line("worker overdue")
        wait_until(lambda: not lives(stopped) and len(s.workers()) == 2, "the replacement")
        assert other in s.workers()


def test_promise_05_hang_in_an_exit_handler_of_the_app_is_bounded_by_the_grace_and_shown() -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    s = Server(app="fresh_app:app", workers=1, graceful_timeout="1s", reload_settle=0, expect=expect)
    s.write_app(
        "import atexit, time\n@atexit.register\ndef hang_at_exit():\n    time.sleep(3600)\n" + answers("clings")
    )
    with s:
        [old] = s.workers()
        s.write_app(answers("leaves"))
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        began = time.monotonic()
        wait_retiring(old)
        assert s.get().text == "leaves 2 0"
        wait_until(lambda: not lives(old), "the end of the old worker")
        assert 0.9 < time.monotonic() - began < 1.0 + 1.0 + 1.0
        assert 'cause="grace over"' in s.wait_line("worker overdue")
        assert "in hang_at_exit" in s.log()
        s.wait_line("reload done")
