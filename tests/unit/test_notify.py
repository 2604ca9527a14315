"""sd_notify: whole datagrams, in order, whatever the service manager is doing. Real sockets, no manager."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.unix.notify import Notifier, Pulse


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier(manager.getsockname())
    yield made
    made.close()


def heard(manager: socket.socket) -> list[list[str]]:
    found = []
    while True:
        try:
            found.append(manager.recv(65536).decode().split("\n"))
        except BlockingIOError:
            return found


def test_each_fact_is_one_datagram_with_its_status(manager: socket.socket, notifier: Notifier) -> None:
    notifier.send(status="starting")
    notifier.send(status="2 workers", ready=True)
    notifier.send(status="draining", stopping=True)
    assert heard(manager) == [["STATUS=starting"], ["READY=1", "STATUS=2 workers"], ["STOPPING=1", "STATUS=draining"]]


def test_reloading_carries_the_monotonic_time_in_the_same_datagram(manager: socket.socket, notifier: Notifier) -> None:
    before = time.monotonic_ns() // 1000
    notifier.send(status="reloading", reloading=True)
    [[word, clock, _]] = heard(manager)
    assert word == "RELOADING=1"
    name, _, value = clock.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_what_a_busy_manager_does_not_take_is_kept_and_sent_in_order(
    manager: socket.socket, notifier: Notifier
) -> None:
    count = 0
    while not notifier.waiting:
        notifier.send(status=str(count))
        count += 1
    notifier.send(status="last", ready=True)
    got = heard(manager)
    while notifier.waiting:
        notifier.flush()
        got += heard(manager)
    assert got == [[f"STATUS={number}"] for number in range(count)] + [["READY=1", "STATUS=last"]]


def test_manager_that_is_gone_costs_nothing(manager: socket.socket, notifier: Notifier) -> None:
    manager.close()
    notifier.send(status="nobody hears", ready=True)
    assert not notifier.waiting


def test_abstract_address_is_understood() -> None:
    name = f"forkserve-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        notifier = Notifier("@" + name)
        notifier.send(status="hello")
        notifier.close()
        assert manager.recv(100) == b"STATUS=hello"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier(address)
    notifier.send(status="x", ready=True)
    notifier.flush()
    assert not notifier.waiting
    notifier.close()


def test_variable_is_taken_out_of_the_environment(manager: socket.socket) -> None:
    os.environ["NOTIFY_SOCKET"] = manager.getsockname()
    notifier = Notifier.from_environment()
    assert "NOTIFY_SOCKET" not in os.environ
    notifier.send(status="mine")
    notifier.close()
    assert heard(manager) == [["STATUS=mine"]]


def test_words_of_an_app_cannot_become_fields(manager: socket.socket, notifier: Notifier) -> None:
    notifier.send(status="ValueError: x\nREADY=1\r\nMAINPID=1")
    assert heard(manager) == [["STATUS=ValueError: x READY=1 MAINPID=1"]]


def test_text_that_is_no_utf8_is_sent_all_the_same(manager: socket.socket, notifier: Notifier) -> None:
    notifier.send(status="lone \udcff")
    assert heard(manager) == [["STATUS=lone \\udcff"]]


def test_stored_descriptor_travels_with_its_name(manager: socket.socket, notifier: Notifier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        notifier.store("web", listener.fileno())
        data, fds, _, _ = socket.recv_fds(manager, 1000, 1)
        assert data == b"FDSTORE=1\nFDNAME=web"
        with socket.socket(fileno=fds[0]) as copy:
            assert copy.getsockname() == listener.getsockname()
        notifier.unstore("web")
        assert heard(manager) == [["FDSTOREREMOVE=1", "FDNAME=web"]]


def test_descriptor_that_waits_for_a_busy_manager_survives_its_original(
    manager: socket.socket, notifier: Notifier
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    while not notifier.waiting:
        notifier.send(status="busy")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
        notifier.store("web", listener.fileno())
    got: list[int] = []
    while notifier.waiting or not got:
        notifier.flush()
        _, fds, _, _ = socket.recv_fds(manager, 1000, 1)
        got += fds
    with socket.socket(fileno=got[0]) as copy:
        assert copy.getsockname() == place
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def pulse(notifier: Notifier, monkeypatch: pytest.MonkeyPatch) -> Pulse:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    return Pulse(notifier)


def test_watchdog_hears_of_a_sane_loop_twice_in_its_interval(manager: socket.socket, pulse: Pulse) -> None:
    assert not {"WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ), "children would believe them too"
    pulse.beat(100.0, busy=False, sane=True)
    assert heard(manager) == [["WATCHDOG=1"]]
    assert pulse.due(busy=False) == 102.0
    pulse.beat(101.9, busy=False, sane=True)
    assert heard(manager) == []
    pulse.beat(109.0, busy=False, sane=False)
    assert heard(manager) == [], "a loop that overslept has to make a round in time first"
    due = pulse.due(busy=False)
    assert due is not None and due <= 109.0
    pulse.beat(109.1, busy=False, sane=True)
    assert heard(manager) == [["WATCHDOG=1"]]


def test_watchdog_of_another_process_is_not_ours(
    manager: socket.socket, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    pulse = Pulse(notifier)
    assert pulse.due(busy=False) is None
    pulse.beat(100.0, busy=False, sane=True)
    assert heard(manager) == []


def test_more_time_is_asked_for_again_and_again_while_something_takes_its_time(
    manager: socket.socket, notifier: Notifier
) -> None:
    pulse = Pulse(notifier)
    for now in (100.0, 101.0, 105.0, 109.0, 110.0):
        pulse.beat(now, busy=True, sane=True)
    assert heard(manager) == [["EXTEND_TIMEOUT_USEC=30000000"]] * 3
    pulse.beat(111.0, busy=False, sane=True)
    assert pulse.due(busy=False) is None
    pulse.beat(111.5, busy=True, sane=True)
    assert heard(manager) == [["EXTEND_TIMEOUT_USEC=30000000"]], "the next one begins at once"


def test_without_a_manager_nobody_is_woken_to_ask_for_time() -> None:
    assert Pulse(Notifier("")).due(busy=True) is None
