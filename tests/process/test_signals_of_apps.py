"""Signals of workers whose app sets handlers or takes the wakeup descriptor: a TERM to the worker itself still ends it
in peace, and so do the orders of the master."""

import os
import signal

import pytest

from tests.harness import Server, wait_until
from tests.process.tools import lives

HABITS = "tests.apps.habits"
ALL = ["signal_asyncio", "signal_loop_left_open", "signal_own_term", "signal_ignored"]


def looked_again(pid: int) -> None:
    """Wait until an idle worker has looked at its signals: it sleeps without a time-out only after that."""
    wait_until(lambda: _waits_for_ever(pid), "the look, at the latest a second after the request")


def _waits_for_ever(pid: int) -> bool:
    """Whether it is in epoll_wait or epoll_pwait (x86, arm) and the fourth argument is -1."""
    with open(f"/proc/{pid}/syscall") as file:
        call = file.read().split()
    return call[0] in ("232", "281", "22") and int(call[4], 16) & 0xFFFFFFFF == 0xFFFFFFFF


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("habit", ALL)
def test_a_term_to_the_worker_itself_retires_it(habit: str, threads: int) -> None:
    if threads > 1 and habit in ("signal_asyncio", "signal_loop_left_open"):
        pytest.skip("only the main thread can set handlers, and the app does not run there")
    with Server(app=f"{HABITS}.{habit}:app", workers=1, threads=threads) as s:
        pid = int(s.get("/run").text)
        looked_again(pid)
        os.kill(pid, signal.SIGTERM)
        assert "cause=SIGTERM" in s.wait_line("worker retired itself")
        wait_until(lambda: not lives(pid), "its end")
        assert 'cause="exit code 0"' in s.wait_line("worker exited")
        assert int(s.get("/").text) != pid
        if habit == "signal_own_term":
            assert (s.folder / "tidied").read_text() == str(pid), "its own handler was called too"


@pytest.mark.parametrize("habit", ALL)
def test_orders_of_the_master_arrive(habit: str) -> None:
    with Server(app=f"{HABITS}.{habit}:app", workers=2) as s:
        first = s.workers()
        for _ in range(4):
            assert s.get("/run").status == 200
        s.signal(signal.SIGUSR1)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: not s.workers_from(first), "the end of the old ones")
        assert s.get("/run").status == 200
        assert all('cause="exit code 0' in line for line in s.lines("worker exited"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2])
def test_what_a_loop_of_the_app_gives_back_does_not_end_the_worker(number: signal.Signals) -> None:
    with Server(app=f"{HABITS}.signal_asyncio:app", workers=1) as s:
        pid = int(s.get("/run").text)
        looked_again(pid)
        os.kill(pid, number)  # as a terminal or pkill sends it to every process
        assert int(s.get("/").text) == pid
        assert s.lines("worker exited") == []
