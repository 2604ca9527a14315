"""Signals as bytes: real signals to this process, whose handlers are given back after each test."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from forkserve.master.loop import WISHES
from forkserve.unix import signals


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    touched = set(signals.MASTER) | set(signals.WORKER) | {signal.SIGPIPE}
    handlers = {number: signal.getsignal(number) for number in touched}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    wakeup_fd = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup_fd)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_every_signal_to_the_master_is_a_wish_a_wake_up_or_ignored_by_name() -> None:
    assert set(signals.MASTER) == set(WISHES) | {signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH}


def test_wishes_that_come_together_are_met_from_stop_to_reopen() -> None:
    assert list(WISHES)[:3] == [signal.SIGQUIT, signal.SIGINT, signal.SIGTERM]
    assert list(WISHES)[3] is signal.SIGUSR2
    assert list(WISHES)[-1] == signal.SIGUSR1


def test_every_signal_of_the_master_means_something_to_a_worker_too() -> None:
    # The default of these is to do nothing.
    silent = {signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH}
    assert set(signals.MASTER) - silent == set(signals.WORKER) | set(signals.WORKER_IGNORES)
    assert signals.DUMP not in (*signals.MASTER, *signals.WORKER, *signals.WORKER_IGNORES)


def test_signals_arrive_in_order_and_a_storm_coalesces() -> None:
    wakeup = signals.Wakeup(signals.MASTER)
    for number in (signal.SIGTTIN, *[signal.SIGHUP] * 1000, signal.SIGTTIN, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert wakeup.read() == [signal.SIGTTIN, signal.SIGHUP, signal.SIGTERM]
    assert wakeup.read() == []
    wakeup.close()


def test_pipe_that_is_full_loses_no_kind_of_signal_that_came_before() -> None:
    wakeup = signals.Wakeup(signals.MASTER)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(70_000):  # more than the 64 KiB of a pipe
        signal.raise_signal(signal.SIGHUP)
    assert wakeup.read() == [signal.SIGTERM, signal.SIGHUP]
    wakeup.close()


def test_handlers_interrupt_no_system_call() -> None:
    wakeup = signals.Wakeup(signals.MASTER)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    child = os.fork()
    if child == 0:
        os.kill(os.getppid(), signal.SIGHUP)
        os._exit(0)
    time.sleep(0.05)  # the call under test: PEP 475
    assert time.monotonic() - began >= 0.05
    os.waitpid(child, 0)
    assert signal.SIGHUP in wakeup.read()
    wakeup.close()


def test_careless_parents_leave_nothing_behind() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    wakeup = signals.Wakeup(signals.MASTER)
    signals.normalise()
    assert callable(signal.getsignal(signal.SIGCHLD)), "ignored, it would break waitpid"
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    wakeup.close()


def test_signals_wait_while_all_are_blocked() -> None:
    wakeup = signals.Wakeup(signals.MASTER)
    mask = signals.block_all()  # of this thread; others of the test runner would take what comes to the process
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
    assert wakeup.read() == []
    signals.restore(mask)
    assert wakeup.read() == [signal.SIGHUP]
    wakeup.close()


def test_child_gives_every_handler_back() -> None:
    wakeup = signals.Wakeup(signals.MASTER)
    signals.reset()
    assert {signal.getsignal(number) for number in signals.MASTER} == {signal.SIG_DFL}
    assert signal.set_wakeup_fd(-1) == -1
    wakeup.close()
