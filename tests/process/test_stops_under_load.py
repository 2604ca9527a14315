"""Promise 10 under load, with root's capabilities and without: stops that end soon, lose nobody and let nobody hang.

The kernel takes a socket filter for TCP from who has CAP_NET_ADMIN, which no container and no DynamicUser has.
"""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import Gate, one_request

SITE = "tests.process.site:app"
IN_FULL = bool(os.environ.get("FORKSERVE_FULL"))
STOPS = 100 if IN_FULL else 6
CLIENTS = 12


@pytest.fixture(params=["root", "plain"], autouse=True)
def is_plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server has no capability."""
    if os.geteuid() == 0:
        if request.param == "plain":
            if not shutil.which("setpriv"):
                pytest.skip("no setpriv")
            monkeypatch.setenv("FORKSERVE_TEST_PLAIN", "1")
        else:
            monkeypatch.delenv("FORKSERVE_TEST_PLAIN", raising=False)
            if not _has_net_admin():
                pytest.skip("this root may not filter sockets")
    elif request.param == "root":
        pytest.skip("needs root")
    return bool(request.param == "plain")


def _has_net_admin() -> bool:  # capabilities(7)
    with Path("/proc/self/status").open() as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith("CapEff")]
    return any(mask & (1 << 12) for mask in masks)


class Crowd:
    """Clients with a connection for each request, that ask until they are refused."""

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest_refusal_s = 0.0
        self._ask = ask
        self._threads = [threading.Thread(target=self._go_on) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _go_on(self) -> None:
        while True:
            began = time.monotonic()
            try:
                answer = self._ask()
                self.outcomes["answered" if answer.startswith(b"HTTP/1.1 200") else repr(answer[:60])] += 1
            except ConnectionRefusedError:
                self.longest_refusal_s = max(self.longest_refusal_s, time.monotonic() - began)
                return
            except OSError as error:
                self.outcomes[type(error).__name__] += 1


def stopped_under_load(path: str) -> tuple[Counter[str], float]:
    """Stop a service amid requests; return what its clients met, and how long the stop took."""
    with Server(app=SITE, workers=2, bind=["127.0.0.1:0"], graceful_timeout="20s", loglevel="info") as s:
        [address] = s.addresses

        def ask() -> bytes:
            with s.connect(address) as sock:
                sock.sendall(one_request(path))
                return read_to_end(sock)

        crowd = Crowd(ask)
        wait_until(lambda: crowd.outcomes["answered"] > CLIENTS, "answers")
        began = time.monotonic()
        assert s.stop() == 0
        took_s = time.monotonic() - began
        crowd.join()
        assert crowd.longest_refusal_s < 5, "a newcomer hung"
    return crowd.outcomes, took_s


@pytest.mark.parametrize("path", ["/sleep?0.2", "/sleep?0.002"])
def test_promise_10_stops_under_load_answer_all(path: str) -> None:
    total: Counter[str] = Counter()
    for _ in range(STOPS if path != "/sleep?0.2" else max(1, STOPS // 10)):
        outcomes, took_s = stopped_under_load(path)
        assert took_s < 15, "newcomers kept the service from stopping"
        total += outcomes
    assert set(total) == {"answered"}, total


def test_promise_10_newcomers_are_refused_and_the_port_is_free_while_the_last_requests_run() -> None:
    with Server(app=SITE, workers=2, bind=["127.0.0.1:0"]) as s, Gate(s) as gate:
        [address] = s.addresses
        with s.connect(address) as sock:
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
            s.signal(signal.SIGTERM)
            s.wait_line("retiring worker", count=2)
            wait_until(lambda: is_refused(s, address), "that newcomers are refused")
            with Server(app=SITE, workers=1, bind=[address]) as successor:
                assert successor.get_at(address, "/pid").status == 200
                assert len(s.workers()) == 1, "the request runs still"
            gate.open()
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0


def is_refused(s: Server, address: str) -> bool:
    try:
        s.connect(address).close()
    except ConnectionRefusedError:
        return True
    return False
