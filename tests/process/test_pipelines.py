"""Many requests sent at once on one connection: it has one turn after the other, as everybody has. Promise 14.

The app numbers its requests, so that the order in which they ran is what is looked at, not the time.
"""

import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificate
from tests.client import Client
from tests.harness import PATIENCE_S, Server, wait_until

APP = """
import itertools, os, time
numbers = itertools.count()
def app(environ, start_response):
    number = next(numbers)
    environ["wsgi.input"].read()
    path, _, ms = environ["PATH_INFO"].partition("-")
    time.sleep(int(ms or 0) / 1000)
    body = f"{number} {os.getpid()} {path}".encode()
    if path == "/large":
        body = body.ljust(8 << 20)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
MANY = 496
TEN_MS = b"GET /-10 HTTP/1.1\r\nHost: a\r\n\r\n"
# A worker that begins again with a number of its own would make them ambiguous, so there is one.
ONE: dict[str, Any] = {"workers": 1, "loglevel": "info"}


def serving(**settings: Any) -> Server:
    server = Server(app="pipeline_app:app", **ONE | settings)
    server.write_app(APP, "pipeline_app")
    return server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificates"), "a", "DNS:a.example")


@pytest.fixture(params=["plain", "relay off", "tls", "two threads", "tls and two threads"])
def way(request: pytest.FixtureRequest, certificate: Certificate) -> dict[str, Any]:
    """The settings of one kind of service."""
    tls = {"certfile": certificate.file, "keyfile": certificate.key}
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "relay off": {"relay": "false"},
        "tls": tls,
        "two threads": {"threads": 2},
        "tls and two threads": {**tls, "threads": 2},
    }
    return ways[request.param]


class Pipe(Client):
    """A client that speaks TLS where the service does."""

    def __init__(self, server: Server, way: dict[str, Any]) -> None:
        Client.__init__(self, server)
        if "certfile" in way:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(way["certfile"])
            self._file.close()
            self.sock = context.wrap_socket(self.sock, server_hostname="a.example", suppress_ragged_eofs=False)
            self._file = self.sock.makefile("rb")

    def number(self) -> int:
        """Which request of its worker the next answer was."""
        return int(self.words()[0])

    def words(self) -> list[str]:
        reply = self.reply()
        assert reply.code == 200
        return reply.body.decode().split()


@pytest.fixture
def pipe(way: dict[str, Any]) -> Iterator[tuple[Server, Callable[[], Pipe]]]:
    with serving(**way) as s:
        yield s, lambda: Pipe(s, way)


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "behind a begun head"])
def test_neighbours_of_a_pipeline_have_their_turn(pipe: tuple[Server, Callable[[], Pipe]], begun: bool) -> None:
    _, connect = pipe
    with connect() as client, connect() as other:
        other.get("/")
        other.words()
        if begun:
            client.send(TEN_MS[:20])
            other.get("/")
            other.words()  # the beginning has been read: it came first
        client.send((TEN_MS * (MANY + 1))[20 if begun else 0 :])
        first = client.number()
        other.get("/")
        came = other.number() - first
        assert came < MANY // 4, "the neighbour waited for most of the pipeline"
        for _ in range(20):
            other.get("/")
            other.words()
        rest = [client.number() for _ in range(MANY)]
        assert rest == sorted(rest)


def test_two_pipelines_take_turns(pipe: tuple[Server, Callable[[], Pipe]]) -> None:
    _, connect = pipe
    with connect() as one, connect() as other:
        for client in (one, other):
            client.send(TEN_MS * 60)
        numbers = [[client.number() for _ in range(60)] for client in (one, other)]
        assert max(numbers[0]) > numbers[1][20] and max(numbers[1]) > numbers[0][20], "one came after the other"


def test_stop_amid_a_pipeline_answers_all_that_was_received(pipe: tuple[Server, Callable[[], Pipe]]) -> None:
    s, connect = pipe
    with connect() as client:
        client.send(TEN_MS * 100)
        client.words()
        s.signal(signal.SIGTERM)
        for _ in range(99):
            client.words()
        assert client.rest() == b""
        assert s.wait_exit() == 0


def test_reload_amid_a_pipeline_answers_all_of_it_in_order(way: dict[str, Any]) -> None:
    with serving(**way, reload_settle=0) as s, Pipe(s, way) as client:
        [old] = s.workers()
        client.send(b"".join(b"GET /%d-10 HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(150)))
        client.words()
        s.signal(signal.SIGHUP)
        answers = [client.words() for _ in range(149)]
        assert [path for _, _, path in answers] == [f"/{n}" for n in range(1, 150)]
        pids = [int(pid) for _, pid, _ in answers]
        moves = "certfile" not in way and "relay" not in way
        assert len(set(pids)) == (2 if moves else 1)
        if moves:
            assert pids.count(old) < 140, "what had not begun moved with the connection"
        s.wait_line("reload done")


def test_order_to_the_worker_is_met_between_two_requests(pipe: tuple[Server, Callable[[], Pipe]]) -> None:
    s, connect = pipe
    with connect() as client:
        client.send(TEN_MS * MANY)
        client.words()
        log = Path(s.error_log)
        log.rename(log.with_suffix(".1"))
        s.signal(signal.SIGUSR1)
        wait_until(lambda: str(log) in opened_by(s.workers()[0]), "the log that the worker opens anew")
        before = client.number()
        with connect() as other:
            other.get("/")
            assert other.number() - before < MANY - 100, "it was met after the pipeline"


def opened_by(pid: int) -> set[str]:
    return {str(link.resolve()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()}


def test_request_behind_a_head_whose_end_came_in_two_parts_is_answered() -> None:
    with serving() as s, Client(s) as client, Client(s) as other:
        client.send(TEN_MS[:-1])
        assert other.get("/").reply().code == 200  # so the beginning was read
        client.send(TEN_MS[-1:] + TEN_MS)
        assert [client.reply().code for _ in range(2)] == [200, 200]


def test_limit_of_requests_is_kept_within_a_pipeline() -> None:
    with serving(max_requests=20) as s, Client(s) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
        pids = Counter(client.reply().body.split()[1] for _ in range(300))
        assert max(pids.values()) == 20


def test_pipeline_that_waits_for_its_turn_is_not_idle() -> None:
    with serving(keepalive=1, workers=1) as s, Client(s) as one, Client(s) as other:
        for client in (one, other):
            client.send(TEN_MS * 150)
        for client in (one, other):
            assert {client.reply().code for _ in range(150)} == {200}


@pytest.mark.parametrize("threads", [1, 2])
def test_pipeline_of_uploads_that_are_streamed_is_answered(threads: int) -> None:
    with serving(stream_request_body="true", threads=threads) as s, Client(s) as client:
        one = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
        two = b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        client.send(b"".join((one if n % 3 else two) % n for n in range(200)))
        assert [client.reply().body.split()[2] for n in range(200)] == [b"/%d" % n for n in range(200)]


@pytest.mark.parametrize("threads", [1, 2])
def test_bad_request_behind_many_good_ones_is_refused_after_them(threads: int) -> None:
    with serving(threads=threads) as s, Client(s) as client:
        client.send(b"GET /-1 HTTP/1.1\r\nHost: a\r\n\r\n" * 50 + b"GET /\x00 HTTP/1.1\r\n\r\n")
        assert [client.reply().code for _ in range(51)] == [200] * 50 + [400]
        assert client.rest() == b""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_follows_a_bad_request_means_nothing(bad: bytes, threads: int) -> None:
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    found = []
    with serving(threads=threads) as s:
        for behind in (b"", good * 3):
            with Client(s) as client:
                for _ in range(3):  # its head is known by then
                    assert client.send(good).reply().code == 200
                found.append(client.send(bad + behind).reply().code)
                assert client.rest() == b""
    assert found[0] == found[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_requests_behind_a_large_response_wait_unread(threads: int) -> None:
    with serving(threads=threads) as s, Client(s, window=4096) as client:
        client.sock.setblocking(False)
        wanted = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2000
        sent = 0
        while sent < len(wanted):
            try:
                sent += client.sock.send(wanted[sent:])
            except BlockingIOError:
                break
        client.sock.settimeout(PATIENCE_S)
        assert len(client.reply().body) == 8 << 20
        client.sock.sendall(wanted[sent:])
        assert {client.reply().code for _ in range(2000)} == {200}


def test_client_that_leaves_amid_its_pipeline_costs_nothing_more() -> None:
    with serving() as s, Client(s) as other:
        with closing(s.connect()) as client:
            client.sendall(TEN_MS * MANY)
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        numbers = [int(other.get("/").reply().body.split()[0]) for _ in range(2)]
        assert numbers[1] < MANY // 2
