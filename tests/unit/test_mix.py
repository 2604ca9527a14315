"""The clients of the slow-and-fast mix, and who is counted as woken for nothing: against real sockets, or traces."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks import mix
from benchmarks.accepts import spurious
from benchmarks.mix import Run
from benchmarks.mix_load import Plan, run

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


@contextmanager
def _server(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """A server with a thread for each connection, which is given its number; yields the port."""
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down
            threads.append(threading.Thread(target=_served, args=(connection, len(threads))))
            threads[-1].start()

    def _served(connection: socket.socket, number: int) -> None:
        with connection:
            try:
                serve(connection, number)
            except OSError:
                pass  # the client has gone

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def _answer_all(connection: socket.socket, number: int) -> None:
    while connection.recv(4096):
        connection.send(_ANSWER)


def _plan(port: int, *, rate: float = 50.0, close: bool = False) -> Plan:
    return Plan(port, fast=2, slow=1, rate=rate, seconds=0.5, close=close)


def test_each_fast_client_asks_at_its_rate_and_the_slow_one_at_once() -> None:
    with _server(_answer_all) as port:
        told = run(_plan(port))
    assert told.errors == told.again == 0
    assert 40 <= len(told.latencies_ms) <= 52  # 2 clients, 50 a second each, half a second
    assert told.slow_requests > 60


def test_request_that_was_due_while_its_client_waited_counts_from_then() -> None:
    def stalls(connection: socket.socket, number: int) -> None:
        connection.recv(4096)
        time.sleep(0.3)  # the fault itself
        connection.send(_ANSWER)
        _answer_all(connection, number)

    with _server(stalls) as port:
        told = run(Plan(port, fast=1, slow=0, rate=50.0, seconds=0.5, close=False))
    late = [ms for ms in told.latencies_ms if ms > 20]
    assert max(late) >= 290
    assert len(late) > 8, "one stall of 300 ms has held up fifteen requests"


def test_kept_connection_that_the_server_closed_is_no_error_and_the_request_is_made_again() -> None:
    def answers_once(connection: socket.socket, number: int) -> None:
        connection.recv(4096)
        connection.send(_ANSWER)

    with _server(answers_once) as port:
        told = run(_plan(port))
    assert told.errors == 0
    assert told.again > 20
    assert told.latencies_ms


def test_new_connection_that_is_closed_without_an_answer_is_an_error() -> None:
    def closes(connection: socket.socket, number: int) -> None:
        connection.recv(4096)

    with _server(closes) as port:
        told = run(_plan(port))
    assert told.errors > 2
    assert not told.latencies_ms


def test_every_request_has_a_connection_of_its_own_when_they_are_closed() -> None:
    numbers: set[int] = set()

    def answers(connection: socket.socket, number: int) -> None:
        numbers.add(number)
        assert b"\r\nConnection: close\r\n" in connection.recv(4096)
        connection.send(_ANSWER)

    with _server(answers) as port:
        told = run(_plan(port, close=True))
    assert told.errors == told.again == 0
    assert len(numbers) == len(told.latencies_ms) + told.slow_requests


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (90, 90), (99, 99), (100, 100)])
def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: int, value: int) -> None:
    assert mix.percentile([float(number) for number in range(1, 101)], percent) == value
    assert mix.percentile([7.0], percent) == 7.0


def _run(subject: str, *ms: float, errors: int = 0) -> Run:
    return Run(subject, False, 1, ms, requests=100, errors=errors, busy=0.1)


def test_goals_of_the_mix_are_met_or_not() -> None:
    good = mix._goals([_run("forkserve", 0.5, 1, 11, 20), _run("gunicorn-gthread", 0.5, 1, 12, 20)])
    assert good.count("| met |") == 4
    bad = mix._goals([_run("forkserve", 1.5, 2, 13, 20, errors=1), _run("gunicorn-gthread", 0.5, 1, 12, 20)])
    assert bad.count("| not met |") == 4


def test_median_of_a_percentile_is_taken_over_the_rounds() -> None:
    rounds = [_run("forkserve", 1, 1, 1, 1), _run("forkserve", 2, 2, 2, 90), _run("forkserve", 3, 9, 9, 9)]
    assert mix.medians(rounds, "forkserve", close=False) == (2, 2, 2, 9)
    assert mix.medians(rounds, "forkserve", close=True) is None


_TRACE = """\
10 epoll_wait(4, [{events=EPOLLIN, data=0x3}], 10, -1) = 1
10 accept4(3, {sa_family=AF_INET}, [16], SOCK_CLOEXEC|SOCK_NONBLOCK) = 7
10 accept4(3, 0x7f, [16], SOCK_CLOEXEC|SOCK_NONBLOCK) = -1 EAGAIN (Resource temporarily unavailable)
11 epoll_wait(4,  <unfinished ...>
12 <... select resumed>) = 1 (in [3])
12 accept4(3, 0x7f, [16], SOCK_CLOEXEC) = -1 EAGAIN (Resource temporarily unavailable)
11 <... epoll_wait resumed>[{events=EPOLLIN, data=0x3}], 10, -1) = 1
11 accept4(3,  <unfinished ...>
11 <... accept4 resumed>0x7f, [16], SOCK_CLOEXEC) = -1 EAGAIN (Resource temporarily unavailable)
"""


def test_wake_up_is_spurious_when_the_first_accept_after_it_finds_nothing() -> None:
    assert spurious(_TRACE.splitlines()) == (2, 1)
