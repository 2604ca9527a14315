"""Promise 4: requests of every length that straddle a reload or a stop are answered, and the grace is the bound."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.probes import status
from tests.process.tools import lives, one_request

SITE = "tests.process.site:app"
# FORKSERVE_FULL=1 asks for the long form, as `make promises` does.
FULL = bool(os.environ.get("FORKSERVE_FULL"))
LENGTHS_S = (0.1, 0.5, 1.0, 3.0, 10.0, 25.0) if FULL else (0.1, 0.3, 0.6, 1.0, 2.0, 3.0)
GRACE_S = 5.0 if FULL else 1.0
NOISE_S = 4.0  # of a machine that runs other things too: two of the hangs take a processor each


class Caller(threading.Thread):
    """One client whose request takes ``length_s``; ``answer`` is all that came, a reset included by its name."""

    def __init__(self, server: Server, length_s: float, *, upload: bool) -> None:
        super().__init__()
        self.answer = b""
        self.length_s = length_s
        self._server = server
        self._upload = upload

    def run(self) -> None:
        with self._server.connect() as sock:
            sock.settimeout(2 * PATIENCE_S)
            try:
                if self._upload:
                    self._send_slowly(sock)
                else:
                    sock.sendall(one_request(f"/sleep?{self.length_s}"))
                self.answer = read_to_end(sock)
            except OSError as error:
                self.answer = repr(error).encode()

    def _send_slowly(self, sock: socket.socket) -> None:
        pieces = 20
        head = f"POST /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {pieces}\r\n\r\n"
        sock.sendall(head.encode())
        for _ in range(pieces):
            time.sleep(self.length_s / pieces)  # the stimulus: a client that is slow
            sock.sendall(b"x")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_promise_04_requests_and_uploads_of_every_length_straddle_the_signal_and_are_answered(
    number: signal.Signals,
) -> None:
    with Server(app=SITE, workers=len(LENGTHS_S), graceful_timeout="30s", reload_settle=0) as s:
        old = s.workers()
        uploads = [Caller(s, length_s, upload=True) for length_s in LENGTHS_S]
        sleepers = [Caller(s, length_s, upload=False) for length_s in reversed(LENGTHS_S)]
        callers = [*uploads, *sleepers]
        try:
            for caller in uploads:
                caller.start()
            for sleeper in sleepers:  # one after the other, the longest first: each in another worker
                sleeper.start()
                wait_until(partial(_runs, s, sleeper), "the request in the app")
            s.signal(number)
            s.wait_line("reload began" if number == signal.SIGHUP else "draining")
        finally:
            for caller in filter(Caller.is_alive, callers):
                caller.join()
        for caller in callers:
            assert caller.answer.startswith(b"HTTP/1.1 200"), f"{caller.length_s} s: {caller.answer!r}"
        if number == signal.SIGHUP:
            s.wait_line("reload done")
            assert not set(old) & set(s.workers())
        else:
            assert s.wait_exit() == 0
        assert s.lines("worker overdue") == []


def _runs(s: Server, sleeper: Caller) -> bool:
    """Whether it is in the app, or is over: the shortest ends before, at or just after the signal."""
    return f"GET /sleep?{sleeper.length_s}" in _running(s) or bool(sleeper.answer)


def _running(s: Server) -> list[str]:
    return [worker["request"] for worker in status(s)["workers"] if worker["request"]]


def _run_so_many(s: Server, count: int) -> bool:
    return len(_running(s)) == count


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_promise_04_nobody_is_left_a_second_after_the_grace_whatever_they_do(number: signal.Signals) -> None:
    hangs = ("/sleep?3600", "/busy", "/gil")
    expect = ["worker overdue", "worker was asked for its stacks"]
    grace = f"{GRACE_S}s"
    with Server(
        app=SITE, workers=len(hangs), timeout=0, graceful_timeout=grace, reload_surge="100%", reload_settle=0,
        expect=expect,
    ) as s:  # fmt: skip
        old = s.workers()
        with ExitStack() as held:
            for count, hang in enumerate(hangs, start=1):  # one after the other: each in another worker
                held.enter_context(s.connect()).sendall(one_request(hang))
                wait_until(partial(_run_so_many, s, count), "the request in the app")
            s.signal(number)
            began = wait_until(lambda: s.lines("retiring worker") and time.monotonic(), "the grace to begin")
            wait_until(lambda: len(s.lines("retiring worker")) == len(hangs), "that all are asked to leave")
            wait_until(lambda: not any(lives(pid) for pid in old), "the end of the old workers")
            took_s = time.monotonic() - began
        # Who can still run Python ends at the grace, with its stacks; who cannot is killed a second later.
        assert GRACE_S - 0.1 <= took_s < GRACE_S + 1 + NOISE_S
        assert len(s.lines("worker overdue")) == len(hangs)
        if number == signal.SIGHUP:
            s.wait_line("reload done")
            assert s.get("/pid").json[1] == 2
        else:
            assert s.wait_exit() == 0
