"""A pause of everything: STOP for all processes, then CONT. Nobody is overdue for the time in which nobody ran."""

import os
import signal
import time

import pytest

from tests.harness import Server, read_to_end
from tests.process.tools import one_request

# 30 steps of a tenth of a second: what time passes between two steps is not the app's doing.
APP = """
import time

def app(environ, start_response):
    for step in range(int(environ["QUERY_STRING"])):
        time.sleep(0.1)
    start_response("200 OK", [])
    return [b"done"]
"""
EXPECT = ["master overslept", "worker was stopped", "worker continued"]


def pause(s: Server, seconds: float) -> None:
    pids = [s.pid, *s.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # the fault itself
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pause_s", [3.0, 8.0])
def test_promise_05_request_with_time_left_is_answered_after_a_pause_of_everything(
    pause_s: float, threads: int
) -> None:
    """The shorter one ends before the deadline, so that the master has not overslept it."""
    s = Server(app="fresh_app:app", workers=1, threads=threads, timeout="5s", expect=EXPECT)
    s.write_app(APP)
    with s, s.connect() as sock:
        [worker] = s.workers()
        sock.sendall(one_request("/?40"))
        time.sleep(0.5)  # of its time
        pause(s, pause_s)
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.workers() == [worker]
        assert not s.lines("request overdue")


def test_promise_05_hang_is_still_found_after_a_pause() -> None:
    expect = [*EXPECT, "request overdue", "asked for its stacks", "worker exited", "degraded"]
    s = Server(app="fresh_app:app", workers=1, timeout="2s", expect=expect)
    s.write_app(APP)
    with s, s.connect() as sock:
        sock.sendall(one_request("/?4000"))
        time.sleep(0.5)
        began = time.monotonic()
        pause(s, 3.0)
        assert read_to_end(sock).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - began < 3.0 + 2.0 + 6.0
        s.wait_line("worker ready", count=2)


def test_boot_with_time_left_goes_on_after_a_pause_of_everything() -> None:
    s = Server(app="fresh_app:app", workers=1, boot_timeout="4s", await_ready=False, expect=EXPECT)
    s.write_app("import time\nfor step in range(25):\n    time.sleep(0.1)\n" + APP)
    with s:
        s.wait_line("worker forked")
        pause(s, 5.0)
        s.wait_ready()
        assert not s.lines("worker overdue")
