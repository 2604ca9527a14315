"""Threads: one overdue request ends itself alone; its siblings have the grace, and nobody new comes to this worker."""

import os
import signal
import time
from contextlib import ExitStack

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import Gate, lives, one_request

HUNG = [
    "worker overdue",
    "request overdue",
    "one more request overdue",
    "worker was asked for its stacks",
    "worker exited",
    "degraded",
]
APP = """
import os, time

def app(environ, start_response):
    name, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if name == "/hang":
        time.sleep(float(query or 3600))
    elif name == "/busy":
        while True:
            pass
    elif name == "/gate":
        environ["forkserve.extend_deadline"](30)
        with open(query, "rb") as fifo:
            fifo.read()
    start_response("200 OK", [])
    if name == "/begun":
        return begun(environ)
    return [str(os.getpid()).encode()]

def begun(environ):
    yield b"begun"
    time.sleep(3600)
"""


def make_server(**settings: object) -> Server:
    s = Server(app="fresh_app:app", **{"workers": 1, "threads": 4, "timeout": "1s", "expect": HUNG, **settings})  # type: ignore[arg-type]
    s.write_app(APP)
    return s


@pytest.mark.parametrize("hang", ["/hang", "/busy"])
@pytest.mark.parametrize("relay", ["true", "false"])
def test_promise_05_siblings_of_an_overdue_request_have_the_grace(relay: str, hang: str) -> None:
    with make_server(relay=relay) as s, ExitStack() as stack:
        [worker] = s.workers()
        gates = [stack.enter_context(Gate(s, f"gate{n}")) for n in range(3)]
        siblings = [stack.enter_context(s.connect()) for _ in gates]
        for gate, sock in zip(gates, siblings, strict=True):
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
        hung = stack.enter_context(s.connect())
        hung.sendall(one_request(hang))
        assert read_to_end(hung).startswith(b"HTTP/1.1 504 ")
        s.wait_line("worker ready", count=2)
        new = s.get("/pid").text  # from the replacement, while the siblings still run
        assert new != str(worker)
        time.sleep(1.5)  # more than a second after the stacks
        assert lives(worker)
        for gate, sock in zip(gates, siblings, strict=True):
            gate.open()
            raw = read_to_end(sock)
            assert raw.startswith(b"HTTP/1.1 200 ") and raw.endswith(str(worker).encode())
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert s.log().count("worker was asked for its stacks pid=") == 1
        assert 'cause="exit code 0; request overdue"' in s.wait_line("worker exited")


def test_promise_05_one_overdue_after_another_and_the_grace_bounds_it() -> None:
    with make_server(graceful_timeout="4s") as s, Gate(s) as gate, ExitStack() as stack:
        [worker] = s.workers()
        sibling = stack.enter_context(s.connect())
        sibling.sendall(one_request(gate.path))
        gate.wait_entered()
        socks = [stack.enter_context(s.connect()) for _ in range(2)]
        for sock in socks:
            sock.sendall(one_request("/hang"))
            time.sleep(0.5)
        assert [read_to_end(sock)[:13] for sock in socks] == [b"HTTP/1.1 504 "] * 2
        s.wait_line("one more request overdue")
        assert s.log().count("worker was asked for its stacks pid=") == 1
        assert read_to_end(sibling)[:13] == b"HTTP/1.1 504 ", "the grace is over"
        wait_until(lambda: not lives(worker), "the end of the worker")


def test_promise_05_all_threads_overdue_ends_the_worker_at_once() -> None:
    with make_server(threads=2) as s, ExitStack() as stack:
        [worker] = s.workers()
        socks = [stack.enter_context(s.connect()) for _ in range(2)]
        for sock in socks:
            sock.sendall(one_request("/hang"))
        assert [read_to_end(sock)[:13] for sock in socks] == [b"HTTP/1.1 504 "] * 2
        wait_until(lambda: not lives(worker), "the end of the worker", 8)
        assert s.get("/pid").status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_promise_05_response_that_has_begun_is_cut_visibly_and_at_once(version: str) -> None:
    with make_server() as s, Gate(s) as gate, s.connect() as sibling, s.connect() as hung:
        sibling.sendall(one_request(gate.path))
        gate.wait_entered()
        hung.sendall(f"GET /begun HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        raw = b""
        try:
            while piece := hung.recv(4096):
                raw += piece
        except ConnectionResetError:
            raw += b" reset"
        assert b"begun" in raw and b"504" not in raw
        assert raw.endswith(b" reset") if version == "1.0" else not raw.endswith(b"0\r\n\r\n")
        gate.open()
        assert read_to_end(sibling).startswith(b"HTTP/1.1 200 ")


def test_hung_thread_that_comes_back_hurts_nobody() -> None:
    with make_server(timeout="1s") as s, Gate(s) as gate, s.connect() as sibling, s.connect() as hung:
        [worker] = s.workers()
        sibling.sendall(one_request(gate.path))
        gate.wait_entered()
        hung.sendall(one_request("/hang?2.5"))
        raw = read_to_end(hung)
        assert raw.startswith(b"HTTP/1.1 504 ") and raw.count(b"HTTP/1.1 ") == 1
        time.sleep(2)
        assert lives(worker)
        gate.open()
        assert read_to_end(sibling).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: not lives(worker), "the end of the worker")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("first", [True, False])
def test_promise_04_siblings_have_the_grace_when_a_stop_or_reload_comes(number: signal.Signals, first: bool) -> None:
    with make_server(reload_settle=0) as s, Gate(s) as gate, s.connect() as sibling, s.connect() as hung:
        [worker] = s.workers()
        sibling.sendall(one_request(gate.path))
        gate.wait_entered()
        hung.sendall(one_request("/hang"))
        if first:
            s.signal(number)
        assert read_to_end(hung).startswith(b"HTTP/1.1 504 ")
        if not first:
            s.wait_line("worker leaves after its other requests")
            s.signal(number)
        time.sleep(1.5)
        assert lives(worker)
        gate.open()
        assert read_to_end(sibling).endswith(str(worker).encode())
        wait_until(lambda: not lives(worker), "the end of the worker")
        if number == signal.SIGTERM:
            assert s.wait_exit() == 0
        else:
            s.wait_line("reload done")


def test_promise_05_worker_that_cannot_run_python_is_killed_as_ever() -> None:
    s = make_server(threads=2)
    s.write_app(APP.replace("while True:\n            pass", "any(__import__('itertools').repeat(False))"))
    with s, s.connect() as hung:
        [worker] = s.workers()
        hung.sendall(one_request("/busy"))
        s.wait_line("killed worker")
        wait_until(lambda: not lives(worker), "its end")
        s.wait_line("worker ready", count=2)
        assert os.getpgid(s.pid) == s.pid
