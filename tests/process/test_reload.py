"""Promises 1 and 3: a reload loses nothing, and no old worker is asked to leave before a new one said READY."""

import os
import re
import signal
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.load import Load
from tests.process.probes import MostLive
from tests.process.tools import Gate, answers, one_request, sockets, wait_retiring

# FORKSERVE_FULL=1 asks for the long form, as `make promises` does.
FULL = bool(os.environ.get("FORKSERVE_FULL"))
RELOADS, ANSWERS, WAIT_S = (200, 100_000, 600.0) if FULL else (20, 1_000, 20.0)
SLOW_BOOT_S = 20.0 if FULL else 2.0


@pytest.mark.parametrize("address", ["", "unix:here.sock", "unix:@forkserve-test-reload-{pid}"])
def test_promise_01_reload_under_load_loses_nothing_and_the_last_code_wins(address: str) -> None:
    address = address.format(pid=os.getpid())
    s = Server(app="fresh_app:app", workers=2, reload_settle=0, bind=[address] if address else [])
    s.write_app(answers("code-1"))
    with s, Load(s, address) as load, MostLive(s.pid) as seen:
        for number in range(2, RELOADS + 2):
            s.write_app(answers(f"code-{number}"))
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", count=number - 1)
        # A kept connection has its next answer from an old worker before it is led to a new one.
        wait_until(lambda: load.total >= ANSWERS, f"{ANSWERS} answers", WAIT_S)
        assert s.get_at(address).text == f"code-{RELOADS + 1} {RELOADS + 1} 0"
    assert load.failures == []
    assert {text.split()[1] for text in load.answers} >= {str(number) for number in range(1, RELOADS + 2)}
    for text in load.answers:
        code, generation, _ = text.split()
        assert code == f"code-{generation}", "a generation ran other code than its own"
    assert seen.most <= 5  # size + surge + as many that finish


def test_promise_03_rollout_order_is_ready_then_retire_for_each_worker() -> None:
    with Server(app="tests.apps.sites.plain:app", workers=3) as s:
        before = len(s.log().splitlines())
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        steps = re.findall(r"(worker ready|retiring worker) id=\d+ slot=\d+ gen=(\d)", s.log_from(before))
        assert steps == [("worker ready", "2"), ("retiring worker", "1")] * 3
        assert [line.rpartition("gen=")[2] for line in s.lines("reload began")] == ["2 size=3"]


def test_promise_03_nobody_is_asked_to_leave_while_new_code_still_boots() -> None:
    s = Server(app="fresh_app:app", workers=2)
    s.write_app(answers("old"))
    with s, Gate(s) as gate:
        old = s.workers()
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n" + answers("new"))
        s.signal(signal.SIGHUP)
        gate.wait_entered()  # the new worker is in its import
        assert len(s.workers()) == 3
        assert set(old) < set(s.workers())
        assert {s.get().text for _ in range(10)} == {"old 1 0"}
        assert s.lines("retiring worker") == []
        s.wait_status("reloading to generation 2")
        s.write_app(answers("new"))  # for the second worker, which would find nobody at the gate
        gate.open()
        s.wait_line("reload done")
        assert s.get().text == "new 2 0"


def test_promise_03_slow_boot_under_load_holds_up_no_request_and_costs_one_process() -> None:
    s = Server(app="fresh_app:app", workers=2, boot_timeout="60s", reload_retiring=0)
    s.write_app(answers("{__import__('os').getpid()}"))
    with s, Load(s) as load, MostLive(s.pid) as seen:
        old = {str(pid) for pid in s.workers()}
        s.write_app(f"import time\ntime.sleep({SLOW_BOOT_S})\n" + answers("new"))
        s.signal(signal.SIGHUP)
        s.wait_line("worker forked", count=3)
        by_pid, by_way = _counts(load)
        while not s.lines("worker ready id=3 "):  # looked at after the counts: these belong to the boot
            by_pid_then, by_way_then = _counts(load)
            time.sleep(0.01)
        assert {pid for pid in by_pid_then if by_pid_then[pid] > by_pid[pid]} == old, "every old worker served on"
        # A request that had waited for the boot would have held up its client, and with it that way of asking.
        assert len(by_way_then) == 4 and min((by_way_then - by_way).values()) >= 10, by_way_then - by_way
        wait_until(lambda: s.lines("reload done"), "the second boot", 3 * SLOW_BOOT_S + 30)
        steps = re.findall(r"(worker ready|retiring worker) id=\d+ slot=\d+ gen=(\d)", s.log())
        assert steps == [("worker ready", "1")] * 2 + [("worker ready", "2"), ("retiring worker", "1")] * 2
    assert load.failures == []
    assert seen.most == 3  # size + surge


def _counts(load: Load) -> tuple[Counter[str], Counter[str]]:
    """How many answers each process gave so far, and how many each way of asking got."""
    by_pid: Counter[str] = Counter()
    for text, count in list(load.answers.items()):
        by_pid[text.split()[0]] += count
    return by_pid, Counter(load.by_way)


def test_promise_04_request_in_flight_outlives_the_reload() -> None:
    with Server(app="tests.process.site:app", workers=1) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        [old] = s.workers()
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        assert s.get("/pid").json[1] == 2
        assert old in s.workers()
        gate.open()
        assert b'"through"' in sock.recv(65536)
        s.wait_line("reload done")
        assert old not in s.workers()


def test_promise_01_idle_kept_connection_is_led_away_where_there_is_no_relay() -> None:
    with Server(app="tests.process.site:app", workers=1, relay="false") as s:
        with s.connect() as sock:
            [old] = s.workers()
            sock.sendall(one_request("/pid", close=False))
            assert b"Connection: close" not in sock.recv(65536)
            s.signal(signal.SIGHUP)
            wait_retiring(old)
            sock.sendall(one_request("/pid", close=False))
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"\r\nConnection: close\r\n" in answer
            assert sock.recv(65536) == b""
        s.wait_line("reload done")


def test_promise_01_half_a_head_sent_before_the_reload_is_answered_after_it() -> None:
    with Server(app="tests.process.site:app", workers=1) as s, s.connect() as sock:
        sock.sendall(b"GET /pid HTTP/1.1\r\nHo")
        [worker] = s.workers()
        before = 4  # the listener, the channel, both ends of the relay
        wait_until(lambda: sockets(worker) > before, "the accept")
        s.signal(signal.SIGHUP)
        wait_retiring(worker)
        sock.sendall(b"st: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_promise_09_storm_of_reloads_converges_on_the_last_code() -> None:
    s = Server(app="fresh_app:app", workers=2, reload_settle=0)
    s.write_app(answers("code-0"))
    with s, Load(s) as load:
        for gap_ms in range(25):
            s.write_app(answers(f"code-{gap_ms}"))
            s.signal(signal.SIGHUP)
            time.sleep(gap_ms / 1000)  # the stimulus, not a wait
        s.write_app(answers("clean"))
        s.signal(signal.SIGHUP)
        wait_until(lambda: s.lines("reload done") and s.get().text.startswith("clean"), "the last code")
        wait_until(lambda: len(s.workers()) == 2 and s.heard("STATUS")[-1].endswith("2 workers"), "calm")
        assert {s.get().text.split()[0] for _ in range(20)} == {"clean"}
        generation = int(s.heard("STATUS")[-1].split()[1].rstrip(","))
        assert 2 <= generation <= 27
        s.signal(signal.SIGHUP)  # nothing is deaf afterwards
        s.wait_line(f"reload done gen={generation + 1}")
    assert load.failures == []


def test_promise_01_what_is_queued_is_not_taken_by_a_worker_that_leaves() -> None:
    """It would serve all of it alone, and cut off what the grace does not cover."""
    settings: dict[str, Any] = {"relay": "false", "graceful_timeout": "1s", "reload_settle": 0}
    s = Server(app="tests.process.site:app", workers=1, expect=["worker overdue"], **settings)
    with s, Gate(s) as gate, ExitStack() as held:
        busy = held.enter_context(s.connect())
        busy.sendall(one_request(gate.path))
        gate.wait_entered()
        queued = [held.enter_context(s.connect()) for _ in range(16)]
        for sock in queued:
            sock.sendall(one_request("/sleep?0.3"))
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        gate.open()
        assert read_to_end(busy).startswith(b"HTTP/1.1 200 ")
        answers = [read_to_end(sock) for sock in queued]
        assert [answer[:13] for answer in answers] == [b"HTTP/1.1 200 "] * 16
        assert s.lines("worker overdue") == []
