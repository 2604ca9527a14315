"""One request must not take the service: what it raises is a 500, and whom it kills is replaced at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.gateway_clients import PROTOCOLS, ask
from tests.process.tools import lives, one_request

APP = """
import asyncio, ctypes, os, sys

class PanicException(BaseException):
    pass

def cancelled():
    raise asyncio.CancelledError()

def panic():
    raise PanicException("called `Option::unwrap()` on a `None` value")

def argparse():
    __import__("argparse").ArgumentParser().parse_args(["--nosuch"])

def interrupt():
    raise KeyboardInterrupt

def generator():
    raise GeneratorExit

def leave():
    sys.exit(3)

def die():
    os._exit(1)

def crash():
    ctypes.string_at(0)

def retire():
    environ_now["forkserve.retire"]()
    environ_now["forkserve.retire"]()

def pid():
    pass

def late(kind):
    yield b"begun"
    kind()

class Closes(list):
    def close(self):
        sys.exit(1)

def app(environ, start_response):
    global environ_now
    environ_now = environ
    name = environ["PATH_INFO"][1:]
    if name == "close":
        start_response("200 OK", [("Content-Length", "5")])
        return Closes([b"whole"])
    if name.startswith("late-"):
        start_response("200 OK", [])
        return late(globals()[name[5:]])
    globals()[name]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
RAISES = ["cancelled", "panic", "argparse", "interrupt", "generator", "leave"]


def make_server(**settings: object) -> Server:
    s = Server(app="fresh_app:app", **settings)  # type: ignore[arg-type]
    s.write_app(APP)
    return s


@pytest.mark.parametrize("threads", [1, 2])
def test_whatever_a_request_raises_is_a_500_and_the_worker_stays(threads: int) -> None:
    with make_server(threads=threads, expect=["app raised"]) as s:
        [worker] = s.workers()
        for name in RAISES:
            assert s.get(f"/{name}").status == 500, name
        with pytest.raises(ConnectionResetError):
            s.exchange(one_request("/late-leave"))
        assert s.get("/close").text == "whole"
        assert s.get("/pid").text == str(worker)
        assert s.workers() == [worker]
        assert s.log().count("asyncio.exceptions.CancelledError") == 1
        assert "fresh_app.PanicException: called" in s.log()
        assert not s.lines("worker exited")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_so_it_is_behind_a_gateway(protocol: str) -> None:
    with make_server(bind=[f"{protocol}://127.0.0.1:0"], expect=["app raised"]) as s:
        [worker] = s.workers()
        assert ask(s, protocol, "/cancelled").status == "500 Internal Server Error"
        assert ask(s, protocol, "/leave").status == "500 Internal Server Error"
        assert s.workers() == [worker]


@pytest.mark.parametrize("threads", [1, 2])
def test_app_can_ask_for_the_end_of_its_worker_and_the_replacement_comes_first(threads: int) -> None:
    with make_server(threads=threads) as s:
        [old] = s.workers()
        assert s.get("/retire").text == str(old)
        s.get("/retire")
        assert 'cause="the app asked for it"' in s.wait_line("worker tired")
        s.wait_line("worker ready", count=2)
        wait_until(lambda: not lives(old), "its end")
        assert s.get("/pid").status == 200
        assert len(s.lines("worker tired")) == 1 and not s.lines("retry_s")
        ready = s.log().index("worker ready id=2")
        assert ready < s.log().index("retiring worker id=1")


@contextmanager
def good_requests(s: Server, seconds: float) -> Iterator[list[float]]:
    """Ten a second, each on a connection of its own, for so long; yields how long each took; lost ones aside."""
    took: list[float] = []

    def ask_once() -> None:
        began = time.monotonic()
        try:
            with s.connect() as sock:
                sock.sendall(one_request("/pid"))
                read_to_end(sock)
        except OSError:
            pass  # it was accepted by the worker that died in that moment
        took.append(time.monotonic() - began)

    asking = []

    def go() -> None:
        for _ in range(int(seconds * 10)):
            thread = threading.Thread(target=ask_once)
            thread.start()
            asking.append(thread)
            time.sleep(0.1)

    pacer = threading.Thread(target=go)
    pacer.start()
    yield took
    pacer.join()
    for thread in asking:
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("poison", ["/die", "/crash"])
def test_promise_06_page_that_kills_its_worker_holds_up_nobody_beyond_a_boot(poison: str, threads: int) -> None:
    with make_server(workers=2, threads=threads, loglevel="info", expect=["worker exited"]) as s:
        with good_requests(s, 8.0) as took:
            for _ in range(16):
                with s.connect() as sock:
                    sock.sendall(one_request(poison))
                    try:
                        assert read_to_end(sock) == b""
                    except ConnectionResetError:
                        pass
                time.sleep(0.5)
        boots = sorted(float(line.partition("boot_s=")[2].split()[0]) for line in s.lines("worker ready"))
        assert len(boots) == 18
        assert max(took) < 2 * boots[-1] + 1.0, (sorted(took)[-5:], boots[-3:])
        assert not s.lines("retry_s") and not s.lines("degraded")


def test_promise_06_five_kills_in_a_row_cost_a_boot_each() -> None:
    with make_server(workers=4, expect=["worker exited"]) as s:
        for number in range(5):
            before = set(s.workers())
            victim = max(before)
            os.kill(victim, signal.SIGKILL)
            s.wait_line("worker ready", count=5 + number)
            wait_until(lambda: len(s.workers()) == 4, "four workers")
        assert not s.lines("retry_s") and not s.lines("degraded")


def test_promise_06_app_whose_every_request_kills_backs_off_as_before() -> None:
    s = Server(app="fresh_app:app", expect=["worker exited", "degraded"])
    s.write_app("import os\ndef app(environ, start_response):\n    os._exit(1)\n")
    with s:
        for number in range(2, 5):
            s.exchange(one_request("/"))
            s.wait_line("worker ready", count=number)
        assert len(s.lines("retry_s=")) == 2
