"""A live worker under bad input: it answers by guilt, goes on serving everybody else, and keeps its pid."""

import random
import socket
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.harness import PATIENCE_S, Server, read_to_end

APP = """
import os, resource

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise LookupError("on purpose")
    if path == "/full":  # from now on the disk is full for this process
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    if path == "/large":
        text = b"x" * 30_000_000
    else:
        text = f"{os.getpid()} {path} ".encode("latin-1") + environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text]
"""
GOOD = b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"GET /u HTTP/1.1\r\nHost:\r\nConnection:upgrade\r\nUpgrade:a\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(app="bad_app:app", header_timeout=1, body_timeout=1, keepalive=30)
    server.write_app(APP, "bad_app")
    server.expect = ["app raised", "no room for what clients have not taken or sent"]
    with server:
        yield server


@pytest.fixture
def pid(server: Server) -> Iterator[int]:
    """The worker's pid, which is the same after the test."""
    [pid] = server.workers()
    yield pid
    assert server.get("/after").text.split()[0] == str(pid)
    assert server.workers() == [pid]


def garbage(chance: random.Random) -> bytes:
    """Random bytes, or a request with some of its bytes changed."""
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(1, 2000))
    raw = bytearray(
        chance.choice([
            GOOD, UPGRADE,
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        ])
        * chance.randrange(1, 4)
    )  # fmt: skip
    for _ in range(chance.randrange(1, 6)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_garbage_harms_nobody(server: Server, pid: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        with server.connect() as sock:
            try:
                sock.sendall(garbage(chance))
                sock.shutdown(socket.SHUT_WR)
                answer = read_to_end(sock)
            except OSError:
                continue  # it was garbage to the end: a reset is an answer
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            assert b"HTTP/1.1 500 " not in answer


def test_a_good_request_before_a_bad_one_is_answered_first(server: Server, pid: int) -> None:
    answer = server.exchange(GOOD + b"GET /bad HTTP/1.1\r\n\r\n")
    good, bad = answer.split(b"HTTP/1.1 ")[1:]
    assert good.startswith(b"200 OK")
    assert bad.startswith(b"400 Bad Request")
    assert good.endswith(b"/good ")


def test_a_bad_request_after_an_upgrade_is_refused(server: Server, pid: int) -> None:
    assert b"HTTP/1.1 400 " in server.exchange(UPGRADE + b"GET /bad HTTP/1.1\r\n\r\n")


def test_a_buffer_full_of_upgrades_is_answered(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.send(UPGRADE * 1000)
        assert all(client.reply().code == 200 for _ in range(1000))


def test_a_bad_request_behind_a_response_that_is_still_on_its_way_is_answered_too(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /bad HTTP/1.1\r\n\r\n")
        client.send(GOOD)  # more after the bad one
        assert len(client.reply().body) == 30_000_000
        assert client.reply().code == 400
        assert client.rest() == b""


def test_a_body_begun_behind_a_response_that_is_still_on_its_way_is_asked_for(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert len(client.reply().body) == 30_000_000
        assert client.reply().code == 100
        assert client.send(b"!").reply().body.endswith(b"/b !")


def test_an_app_that_raises_is_500_and_the_worker_goes_on(server: Server, pid: int) -> None:
    with Client(server) as client:
        reply = client.get("/raise").reply()
        assert (reply.code, reply.values("Connection"), b"purpose" in reply.body) == (500, ["close"], False)
        assert client.rest() == b""
    server.wait_line("app raised")
    assert "LookupError: on purpose" in server.log()


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nA:", b"\r\nGET / HTTP/1.1"])
def test_a_head_that_does_not_end_is_408(server: Server, pid: int, part: bytes) -> None:
    with Client(server) as client:
        assert client.send(part).reply().code == 408
        assert client.rest() == b""


def test_the_time_for_a_head_is_not_prolonged_by_more_of_it(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.get("/first").reply()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        client.sock.settimeout(0.1)
        answer = b""
        for _ in range(int(PATIENCE_S / 0.1)):
            client.send(b"A: b\r\n")
            try:
                answer = client.sock.recv(100)
                break
            except TimeoutError:
                pass
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_second_head_that_does_not_end_is_408_too(server: Server, pid: int) -> None:
    with Client(server) as client:
        client.send(GOOD + b"GET")
        assert [client.reply().code, client.reply().code] == [200, 408]


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])
def test_a_body_that_does_not_end_is_408(server: Server, pid: int, framing: bytes) -> None:
    with Client(server) as client:
        assert client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing).reply().code == 408
        assert client.rest() == b""


def test_a_connection_that_says_nothing_is_closed_without_a_word(server: Server, pid: int) -> None:
    assert server.exchange(b"") == b""


def test_a_disk_that_stays_full_is_503_and_the_worker_goes_on(server: Server) -> None:
    [pid] = server.workers()
    assert server.get("/full").status == 200
    for framing in (b"Content-Length: 5000000", b"Transfer-Encoding: chunked"):
        with Client(server) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
            if b"chunked" in framing:
                client.send(b"4c4b40\r\n")
            client.send(b"x" * 5_000_000)
            assert client.reply().code == 503
    assert server.get("/after").text.split()[0] == str(pid)
    server.wait_line("no room for what clients have not taken or sent")
    server.wait_line("no room for the body: File too large", count=2)
