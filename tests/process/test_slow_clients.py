"""Crowds of slow clients on one worker: the honest one is answered all the same, and nobody is held for ever.

How quickly it is answered is measured by benchmarks/slow_clients.py. FORKSERVE_FULL=1: thousands, not hundreds.
"""

import os
import time
from collections.abc import Callable

import psutil
import pytest

from benchmarks.slow_crowd import Crowd, Kind, raise_descriptor_limit
from tests.client import Client
from tests.harness import PATIENCE_S, Server, wait_until
from tests.process.tools import sockets

FULL = bool(os.environ.get("FORKSERVE_FULL"))
COUNTS = (
    {Kind.HEAD: 2000, Kind.BODY: 500, Kind.READER: 500} if FULL else {Kind.HEAD: 200, Kind.BODY: 50, Kind.READER: 50}
)
PAGES = "benchmarks.apps.slow_pages:app"
ECHO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]
"""
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(autouse=True)
def _enough_descriptors() -> None:
    needed = sum(COUNTS.values()) + 500
    if raise_descriptor_limit() < needed:
        pytest.skip(f"the hard limit of descriptors (ulimit -Hn) is below {needed}")


def echoing(**settings: object) -> Server:
    server = Server(app="echo_app:app", **settings)  # type: ignore[arg-type]  # settings, not the harness's own
    server.write_app(ECHO, "echo_app")
    return server


def gather(crowd: Crowd, pid: int, count: int) -> None:
    """Wait until every one of the crowd has begun and is held by the worker."""

    def is_there() -> bool:
        crowd.act()
        return crowd.complete and sockets(pid) >= count

    wait_until(is_there, "the crowd to be held", 4 * PATIENCE_S)


def test_an_honest_client_is_answered_amid_hundreds_that_are_slow() -> None:
    count = sum(COUNTS.values())
    # These long times are not what helps here.
    with Server(
        app=PAGES, worker_connections=count + 100, header_timeout=300, body_timeout=300, send_timeout=300
    ) as server:
        [pid] = server.workers()
        process = psutil.Process(pid)
        server.get("/")
        before = process.memory_info().rss
        with Crowd(server.port, COUNTS) as crowd:
            gather(crowd, pid, count)
            for _ in range(20):
                assert server.get("/").body == b"ok\n"
                crowd.act()
            assert crowd.reopened == 0, "the slow ones were to stay"
            # Of each response that is not taken a mebibyte may wait in memory, the rest in a file.
            bound = (COUNTS[Kind.READER] * 1.1 + count / 100 + 20) * 2**20
            assert process.memory_info().rss - before < bound
        assert server.workers() == [pid]
        wait_until(lambda: sockets(pid) < 20, "the end of every slow connection")
        assert server.get("/").body == b"ok\n"


def test_a_crowd_that_is_overdue_all_at_once_is_cut_and_holds_nobody_up() -> None:
    count = COUNTS[Kind.HEAD]
    with echoing(worker_connections=count + 100, header_timeout=1) as server:
        [pid] = server.workers()
        with Crowd(server.port, {Kind.HEAD: count}) as crowd:

            def everybody_was_cut() -> bool:
                crowd.act()
                assert server.get("/").status == 200
                return crowd.reopened >= count

            wait_until(everybody_was_cut, "the end of every one that came first")
        assert server.workers() == [pid]


def trickle(client: Client, pause_s: float) -> bytes:
    """Send a byte now and then until there is an answer; all of it."""
    client.sock.settimeout(pause_s)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        try:
            client.send(b"x")
            answer = client.sock.recv(10_000)
        except TimeoutError:  # none yet; and it is this client that is slow
            continue
        client.sock.settimeout(PATIENCE_S)
        return answer + client.rest()
    raise AssertionError("a trickle goes on for ever")


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"])
def test_a_body_that_only_trickles_is_408_after_its_time(framing: bytes) -> None:
    with echoing(body_timeout=1, body_min_rate=500) as server, Client(server) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing)
        began = time.monotonic()
        assert trickle(client, 0.05).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began > 0.9


def test_without_a_least_rate_a_trickle_may_take_its_time() -> None:
    with echoing(body_timeout=1, body_min_rate=0) as server, Client(server) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n")
        for _ in range(40):  # 2 s and more: twice the time-out
            client.send(b"x")
            time.sleep(0.05)  # it is this client that is slow
        assert client.reply().body == b"x" * 40


def test_a_body_as_quick_as_wanted_is_not_cut() -> None:
    with echoing(body_timeout=1, body_min_rate=500) as server, Client(server) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
        for _ in range(40):
            client.send(b"x" * 100)  # 2,000 bytes a second at the most, and far more than 500 on a slow machine
            time.sleep(0.05)  # it is this client that is slow
        assert client.reply().body == b"x" * 4000


def test_time_for_a_head_is_for_all_of_it_however_it_comes() -> None:
    with echoing(header_timeout=1) as server, Client(server) as client:
        client.send(HEAD + b"X-Slow: ")
        assert trickle(client, 0.1).startswith(b"HTTP/1.1 408 ")


# A worker that is full

ROOM = 20
FULL_TABLE = ["worker_connections is reached"]


def idle(server: Server) -> Client:
    """A client whose connection is kept alive after a request."""
    client = Client(server)
    assert client.get("/").reply().code == 200
    return client


def half_read(server: Server) -> Client:
    return Client(server).send(HEAD)


def silent(server: Server) -> Client:
    return Client(server)


@pytest.mark.parametrize("kind", [silent, half_read, idle])
@pytest.mark.parametrize(("keepalive", "header_timeout"), [(60, 10), (10, 60), (60, 60)])
def test_a_worker_full_of_clients_that_wait_lets_an_honest_one_in(
    kind: Callable[[Server], Client], keepalive: int, header_timeout: int
) -> None:
    with echoing(
        expect=FULL_TABLE, worker_connections=ROOM, keepalive=keepalive, header_timeout=header_timeout
    ) as server:
        [pid] = server.workers()
        clients = []
        try:
            for _ in range(3 * ROOM):
                clients.append(kind(server))
            for _ in range(5):
                assert server.get("/").status == 200
            assert sockets(pid) < ROOM + 15
        finally:
            for client in clients:
                client.__exit__(None, None, None)
        assert server.workers() == [pid]


def test_who_has_waited_longest_makes_room() -> None:
    with echoing(expect=FULL_TABLE, worker_connections=4, keepalive=60, header_timeout=60) as server:
        first, second, third = idle(server), idle(server), idle(server)
        fourth = idle(server)  # one too many: somebody had to leave
        try:
            assert first.rest() == b""
            for client in (second, third, fourth):
                assert client.get("/").reply().code == 200
        finally:
            for client in (first, second, third, fourth):
                client.__exit__(None, None, None)


@pytest.mark.parametrize("kind", [Kind.BODY, Kind.READER])
def test_a_worker_full_of_clients_that_stand_still_lets_an_honest_one_in(kind: Kind) -> None:
    with Server(app=PAGES, expect=FULL_TABLE, worker_connections=ROOM, body_timeout=300, send_timeout=300) as server:
        [pid] = server.workers()
        with Crowd(server.port, {kind: ROOM}) as crowd:
            gather(crowd, pid, ROOM)
            assert server.get("/").body == b"ok\n"  # as soon as one of them has been silent for a second
        assert server.workers() == [pid]


def test_a_worker_full_of_trickling_bodies_is_free_again_when_their_time_is_up() -> None:
    with echoing(expect=FULL_TABLE, worker_connections=ROOM, body_timeout=1) as server:
        [pid] = server.workers()
        with Crowd(server.port, {Kind.BODY: ROOM}) as crowd:
            gather(crowd, pid, ROOM)
            assert server.get("/").status == 200  # it waited in the queue of the kernel
        assert server.workers() == [pid]


def test_a_worker_full_of_clients_that_do_not_read_is_free_again_when_their_time_is_up() -> None:
    with Server(app=PAGES, expect=FULL_TABLE, worker_connections=ROOM, send_timeout=1) as server:
        [pid] = server.workers()
        with Crowd(server.port, {Kind.READER: ROOM}) as crowd:
            gather(crowd, pid, ROOM)
            assert server.get("/").body == b"ok\n"
        assert server.workers() == [pid]
