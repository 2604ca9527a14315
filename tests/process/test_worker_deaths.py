"""Workers come and go: TTIN and TTOU, kill -9, exits nobody asked for, a TERM for one of them, crash loops."""

import os
import re
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server, wait_until
from tests.process.load import Load
from tests.process.tools import Gate, answers, one_request

SITE = "tests.process.site:app"


def test_ttin_and_ttou_change_the_number_of_workers_and_one_always_stays() -> None:
    with Server(app=SITE, workers=1) as s:
        s.signal(signal.SIGTTIN)
        s.wait_line("scaled size=2")
        s.signal(signal.SIGTTIN)
        s.wait_line("worker ready", count=3)
        assert len(s.workers()) == 3
        s.wait_status("generation 1, 3 workers")
        for number, size in enumerate((2, 1, 1, 1), start=3):
            s.signal(signal.SIGTTOU)
            assert s.wait_line("scaled size=", count=number).endswith(f"size={size}")
        wait_until(lambda: len(s.workers()) == 1, "one worker")
        assert s.get("/pid").status == 200
        s.wait_status("generation 1, 1 worker")


def test_row_of_a_slot_names_the_worker_that_is_in_it_now() -> None:
    """What docs/design.md promises to who reads the scoreboard: the PID and the generation."""
    with Server(app=SITE, workers=1, expect=["worker exited"]) as s:
        fds = Path(f"/proc/{s.pid}/fd")
        board = next(fd for fd in fds.iterdir() if "forkserve-scoreboard" in os.readlink(fd))
        s.kill(s.workers()[0])
        s.wait_line("worker ready", count=2)
        assert struct.unpack("qq", board.read_bytes()[:16]) == (*s.workers(), 1)


def test_scaled_size_survives_a_reload() -> None:
    with Server(app=SITE, workers=1, config="keepalive = 5\n") as s:
        s.signal(signal.SIGTTIN)
        wait_until(lambda: len(s.workers()) == 2, "two workers")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2 workers=2")
        assert len(s.workers()) == 2


def _killed(s: Server) -> None:
    s.kill(s.workers()[0])


def _exit_0(s: Server) -> None:
    assert s.exchange(one_request("/exit?0")) == b""


def _exit_7(s: Server) -> None:
    assert s.exchange(one_request("/exit?7")) == b""


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (_killed, '"killed by signal 9, not sent by us; possibly out of memory"'),
        (_exit_0, '"exit code 0"'),
        (_exit_7, '"exit code 7"'),
    ],
)
def test_worker_that_dies_is_replaced_and_the_log_says_who_did_it(end: Callable[[Server], None], cause: str) -> None:
    with Server(app=SITE, workers=2, expect=["worker exited"]) as s:
        old = s.workers()
        end(s)
        assert f"cause={cause}" in s.wait_line("[error] worker exited")
        wait_until(lambda: len(s.lines("worker ready")) == 3 and len(s.workers()) == 2, "the replacement")
        assert len(set(s.workers()) & set(old)) == 1
        assert s.get("/pid").status == 200


def test_worker_that_gets_term_itself_finishes_its_request_and_is_replaced() -> None:
    with Server(app=SITE, workers=1) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        [old] = s.workers()
        os.kill(old, signal.SIGTERM)
        gate.open()
        assert b'"through"' in sock.recv(65536)
        assert "cause=SIGTERM" in s.wait_line("worker retired itself")
        wait_until(lambda: s.workers() and old not in s.workers(), "the replacement")
        assert s.get("/pid").json[0] != old
        assert not _pauses(s)


def test_young_worker_that_is_killed_once_is_replaced_at_once() -> None:
    with Server(app=SITE, workers=2, expect=["worker exited"]) as s:
        s.kill(s.workers()[0])
        s.wait_line("worker ready", count=3)
        assert not _pauses(s)
        s.wait_status("generation 1, 2 workers")


def test_promise_06_crash_loop_backs_off_and_recovers() -> None:
    s = Server(app="fresh_app:app", workers=2, expect=["worker exited", "worker could not boot", "degraded"])
    s.write_app(answers("good"))
    with s:
        before = len(s.log().splitlines())
        s.write_app(
            "import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()\n" + answers("sick"),
        )
        s.kill(s.workers()[0])
        s.wait_line("as soon as it was ready", count=1)
        wait_until(lambda: len(_pauses(s)) >= 3, "three pauses")
        first, second, third = _pauses(s)[:3]
        assert first < second < third
        said = s.log_from(before).splitlines()
        assert len([line for line in said if "worker forked" in line]) <= 8, "bounded spawns"
        assert len(said) <= 50, "bounded lines"
        s.wait_status("generation 1 degraded, ")
        s.write_app(answers("good"))  # in the pause, in which the old worker is alone
        assert not s.lines("full strength again"), "it did not hold"
        s.wait_line("full strength again")
        s.wait_status("generation 1, 2 workers")


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('no')\n",
        "import time\ntime.sleep(3600)\n",
        "import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()\n" + answers("sick"),
    ],
    ids=["raises", "hangs", "dies young"],
)
def test_promise_06_boots_that_fail_for_ever_cost_the_master_next_to_nothing(source: str) -> None:
    noise = ["worker exited", "worker could not boot", "degraded", "worker overdue", "asked for its stacks"]
    s = Server(app="fresh_app:app", workers=2, boot_timeout="200ms", loglevel="info", expect=noise)
    s.write_app(answers("good"))
    with s:
        survivor = s.workers()[1]
        s.write_app(source)
        cpu_s, began = _cpu_s(s.pid), time.monotonic()
        s.kill(s.workers()[0])
        wait_until(lambda: len(_pauses(s)) >= 4, "four failed boots")
        cpu_s, took_s = _cpu_s(s.pid) - cpu_s, time.monotonic() - began
        assert took_s > 3.0
        assert cpu_s <= 0.05 * took_s
        assert survivor in s.workers()


def _cpu_s(pid: int) -> float:
    """The time that a process has spent in itself and in the kernel."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _pauses(s: Server) -> list[float]:
    return [float(found) for found in re.findall(r"retry_s=([\d.]+)", s.log())]


def test_siblings_serve_while_workers_die() -> None:
    s = Server(app="fresh_app:app", workers=2, expect=["worker exited", "degraded"])
    s.write_app(answers("hello"))
    with s, Load(s) as load:
        for number in range(2):
            idle = s.workers()[0]
            s.kill(idle)
            s.wait_line("not sent by us", count=number + 1)
            s.wait_line("worker ready", count=3 + number)
        served = load.total
        wait_until(lambda: load.total > served, "one more answer")
    assert len(load.failures) <= 2 * 4, "only what the dead worker held can be lost"
