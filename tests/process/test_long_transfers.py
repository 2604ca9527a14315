"""Promise 3: old workers with requests that take long do not hold up a reload, nor do they make it fail."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.probes import MostLive
from tests.process.tools import Gate, lives, one_request

SITE = "tests.process.site:app"
WORKERS = 4


@contextmanager
def all_busy(s: Server) -> Iterator[list[tuple[Gate, socket.socket]]]:
    """A request in each worker that ends when its gate is opened."""
    with ExitStack() as held:
        found = []
        for number in range(WORKERS):  # one after the other: who stands at a gate accepts nobody
            gate = held.enter_context(Gate(s, f"gate{number}"))
            sock = held.enter_context(s.connect())
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
            found.append((gate, sock))
        yield found


def finish(busy: list[tuple[Gate, socket.socket]]) -> None:
    for gate, sock in busy:
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("relay", ["true", "false"])
def test_promise_03_new_workers_do_not_wait_for_old_ones_that_finish(relay: str) -> None:
    with Server(app=SITE, workers=WORKERS, relay=relay, reload_settle=0) as s, all_busy(s) as busy:
        old = s.workers()
        s.signal(signal.SIGHUP)
        wait_until(
            lambda: len([line for line in s.lines("worker ready") if "gen=2" in line]) == WORKERS, "the new ones"
        )
        assert all(lives(pid) for pid in old), "their requests run still"
        assert s.lines("reload done") == []
        assert s.get("/pid").status == 200
        finish(busy)
        s.wait_line("reload done gen=2")


def test_promise_03_without_room_for_them_the_old_ones_are_waited_for() -> None:
    s = Server(app=SITE, workers=WORKERS, reload_settle=0, reload_retiring=0)
    with s, MostLive(s.pid) as seen, all_busy(s) as busy:
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        assert len([line for line in s.lines("worker forked") if "gen=2" in line]) == 1
        finish(busy)
        s.wait_line("reload done gen=2")
    assert seen.most == WORKERS + 1
