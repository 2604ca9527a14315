"""A stream that goes on is no hang: `timeout` counts from its last part, `request_timeout` bounds the whole."""

import signal
import ssl
import time
from pathlib import Path

import pytest

from tests.certificates import Certificate
from tests.client import Client
from tests.harness import Server, read_to_end, wait_until
from tests.process.gateway_clients import PROTOCOLS, spell
from tests.process.tools import one_request

HUNG = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
# /PARTS?PAUSE says so many lines, PAUSE apart; then it ends, or, by /hang?..., falls silent.
APP = """
import time

def app(environ, start_response):
    way, _, parts = environ["PATH_INFO"][1:].partition("-")
    pause_s = float(environ["QUERY_STRING"])
    if way == "late":
        environ["forkserve.extend_deadline"](10)
    write = start_response("200 OK", [("Content-Type", "text/event-stream")])
    if way == "write":
        for n in range(int(parts)):
            write(b"data: %d\\n\\n" % n)
            time.sleep(pause_s)
        return [b"end"]
    return stream(way, int(parts), pause_s)

def stream(way, parts, pause_s):
    for n in range(parts):
        yield b"data: %d\\n\\n" % n
        time.sleep(pause_s)
    if way == "hang":
        time.sleep(3600)
    yield b"end"
"""


def make_server(**settings: object) -> Server:
    s = Server(app="fresh_app:app", **settings)  # type: ignore[arg-type]
    s.write_app(APP)
    return s


def whole(raw: bytes) -> bool:
    return b"data: 0" in raw and b"data: 7" in raw and b"end" in raw


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["stream", "write"])
def test_promise_05_stream_that_goes_on_lives_longer_than_the_timeout(way: str, threads: int) -> None:
    with make_server(timeout="1s", threads=threads) as s:
        began = time.monotonic()
        raw = s.exchange(one_request(f"/{way}-8?0.4"))
        assert time.monotonic() - began > 3.0
        assert whole(raw) and raw.endswith(b"0\r\n\r\n")
        assert not s.lines("overdue")


@pytest.mark.parametrize("threads", [1, 2])
def test_promise_05_stream_that_falls_silent_is_cut_after_the_timeout(threads: int) -> None:
    with make_server(timeout="1s", threads=threads, expect=HUNG) as s:
        began = time.monotonic()
        raw = s.exchange(one_request("/hang-6?0.4"))
        assert 2.4 + 0.5 < time.monotonic() - began < 2.4 + 6.0
        assert b"data: 5" in raw and not raw.endswith(b"0\r\n\r\n")
        assert "GET /hang-6?0.4" in s.wait_line("request overdue")
        s.wait_line("worker ready", count=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_promise_05_request_timeout_bounds_the_whole_request(threads: int) -> None:
    with make_server(timeout="1s", request_timeout="2s", threads=threads, expect=HUNG) as s:
        began = time.monotonic()
        raw = s.exchange(one_request("/stream-8?0.4"))
        assert 1.9 < time.monotonic() - began < 6.0
        assert b"data: 3" in raw and not raw.endswith(b"0\r\n\r\n")
        assert " age_s=2" in s.wait_line("request overdue")
        s.wait_line("worker ready", count=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_request_timeout_alone_answers_504_where_nothing_was_said(threads: int) -> None:
    with make_server(timeout=0, request_timeout="1s", threads=threads, expect=HUNG) as s:
        assert s.exchange(one_request("/hang-0?0")).startswith(b"HTTP/1.1 504 ")
        s.wait_line("worker ready", count=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_app_that_asks_for_more_time_gets_it_of_both(threads: int) -> None:
    with make_server(timeout="1s", request_timeout="1s", threads=threads) as s:
        assert whole(s.exchange(one_request("/late-8?0.4")))
        assert whole(s.exchange(one_request("/late-8?0.3")))
        assert not s.lines("overdue")


def test_extension_is_of_one_request_alone() -> None:
    with make_server(timeout="1s", request_timeout="1s", expect=HUNG) as s, Client(s) as client:
        client.get("/late-1?0.1")
        assert b"end" in client.reply().body
        client.get("/hang-1?0.1")
        began = time.monotonic()
        client.rest()
        assert time.monotonic() - began < 6.0
        s.wait_line("worker ready", count=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_promise_05_stream_over_tls_lives_on(tmp_path: Path, threads: int) -> None:
    own = Certificate(tmp_path, "localhost")
    with make_server(timeout="1s", threads=threads, certfile=own.file, keyfile=own.key) as s:
        context = ssl.create_default_context(cafile=str(own.file))
        with context.wrap_socket(s.connect(), server_hostname="localhost") as sock:
            sock.sendall(one_request("/stream-8?0.4"))
            assert whole(read_to_end(sock))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_promise_05_stream_behind_a_gateway_lives_on(protocol: str) -> None:
    with make_server(timeout="1s", bind=[f"{protocol}://127.0.0.1:0"]) as s, s.connect(s.addresses[0]) as sock:
        sock.sendall(spell(protocol, "/stream-8?0.4"))
        assert whole(read_to_end(sock))
        assert not s.lines("overdue")


def test_stream_of_a_worker_that_retires_has_the_grace() -> None:
    with make_server(timeout="1s", reload_settle=0) as s, s.connect() as sock:
        sock.sendall(one_request("/stream-8?0.4"))
        assert b"data: 0" in wait_until(lambda: sock.recv(4096))
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        raw = read_to_end(sock)
        assert b"end" in raw and raw.endswith(b"0\r\n\r\n")
