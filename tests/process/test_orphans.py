"""Promise 7: nobody outlives a master that was killed by more than the grace, whatever the app does meanwhile."""

import signal
import time

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import Gate, can_be_bound, lives, one_request

SITE = "tests.process.site:app"
GRACE_S = 1.0
EXPECT = ["master is gone"]


@pytest.mark.parametrize("hang", ["/sleep?60", "/busy"])
def test_promise_07_worker_that_hangs_is_gone_after_the_grace_of_a_killed_master(hang: str) -> None:
    with (
        Server(app=SITE, workers=2, timeout=0, graceful_timeout=f"{GRACE_S}s", expect=EXPECT) as s,
        s.connect() as sock,
    ):
        workers = s.workers()
        sock.sendall(one_request(hang))
        wait_until(lambda: any(_busy(s, pid) for pid in workers), "the request in the app")
        began = time.monotonic()
        s.signal(signal.SIGKILL)
        wait_until(lambda: not any(lives(pid) for pid in workers), "the end of the workers")
        assert GRACE_S * 0.8 < time.monotonic() - began < GRACE_S + 1.0
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.wait_exit()
        assert f" in _{hang[1:].partition('?')[0]}\n" in s.log(), "what it was doing"
        s.forget_pidfile()


def _busy(s: Server, pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return b" busy " in file.read()


def test_promise_07_request_that_ends_within_the_grace_of_a_killed_master_is_answered_whole() -> None:
    with Server(app=SITE, workers=1, graceful_timeout="20s", expect=EXPECT) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        [worker] = s.workers()
        with s.connect() as queued:
            queued.sendall(one_request("/pid"))
            s.signal(signal.SIGKILL)
            s.wait_exit()
            gate.open()
            assert b'"through"' in read_to_end(sock)
            assert f"[{worker}, 1, 0]".encode() in read_to_end(queued), "who was queued is answered too"
        began = time.monotonic()
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert time.monotonic() - began < 1.0, "it does not wait for the rest of the grace"
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.forget_pidfile()


def test_promise_07_sleep_of_a_busy_worker_is_not_interrupted_by_the_end_of_the_master() -> None:
    with Server(app=SITE, workers=1, graceful_timeout="20s", expect=EXPECT) as s, s.connect() as sock:
        sock.sendall(one_request("/sleep?1"))
        wait_until(lambda: _busy(s, s.workers()[0]), "the request in the app")
        s.signal(signal.SIGKILL)
        assert b'"slept"' in read_to_end(sock)
        wait_until(lambda: not s.alive(), "the end of the worker")
        s.wait_exit()
        s.forget_pidfile()


def test_promise_07_end_of_a_sibling_gives_nobody_another_grace() -> None:
    with (
        Server(app=SITE, workers=2, timeout=0, graceful_timeout="2s", expect=EXPECT) as s,
        s.connect() as short,
        s.connect() as long,
    ):
        workers = s.workers()
        long.sendall(one_request("/sleep?3600"))
        wait_until(lambda: any(_busy(s, pid) for pid in workers), "the first request in the app")
        short.sendall(one_request("/sleep?1.5"))
        wait_until(lambda: all(_busy(s, pid) for pid in workers), "both requests in the app")
        began = time.monotonic()
        s.signal(signal.SIGKILL)
        assert b'"slept"' in read_to_end(short)
        wait_until(lambda: not any(lives(pid) for pid in workers), "the end of the workers")
        assert time.monotonic() - began < 2.0 + 1.0, "the kernel told the longer one twice"
        s.wait_exit()
        s.forget_pidfile()
