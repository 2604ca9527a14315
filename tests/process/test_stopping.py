"""Promises 4, 7 and 10: what was begun or queued is answered, the grace bounds it, and nobody outlives the master."""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.probes import cpu_share
from tests.process.tools import Gate, can_be_bound, lives, one_request, wait_retiring

SITE = "tests.process.site:app"


def test_promise_10_graceful_stop_answers_what_runs_and_what_is_queued() -> None:
    with Server(app=SITE, workers=2) as s, ExitStack() as held:
        gates = [held.enter_context(Gate(s, f"gate{number}")) for number in range(2)]
        running = []
        for gate in gates:  # one after the other: who stands at a gate accepts nobody
            running.append(held.enter_context(s.connect()))
            running[-1].sendall(one_request(gate.path, close=False))
            gate.wait_entered()
        queued = [held.enter_context(s.connect()) for _ in range(20)]
        for sock in queued:
            sock.sendall(one_request("/pid", close=False))
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        s.wait_status("draining")
        assert s.heard("STOPPING") == ["1"]
        for gate in gates:
            gate.open()
        for sock in queued:
            answer = read_to_end(sock)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"\r\nConnection: close\r\n" in answer
        for sock in running:  # their heads left before the worker knew of the end
            assert b'"through"' in read_to_end(sock)
        assert s.wait_exit() == 0
        assert not s.pidfile.exists()
        with pytest.raises(ConnectionRefusedError):
            s.connect()


def test_promise_04_upload_in_flight_outlives_the_stop() -> None:
    with Server(app=SITE, workers=1) as s:
        with s.connect() as sock:
            sock.sendall(b"POST /pid HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 100")
            sock.sendall(b"abc")
            [worker] = s.workers()
            s.signal(signal.SIGTERM)
            wait_retiring(worker)
            sock.sendall(b"def")
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0


def test_promise_04_request_beyond_the_grace_is_dumped_and_killed() -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    with Server(app=SITE, workers=1, graceful_timeout="300ms", expect=expect) as s, Gate(s) as gate:
        with s.connect() as sock:
            sock.sendall(one_request(gate.path))
            gate.wait_entered()
            began = time.monotonic()
            assert s.stop() == 0
            assert 0.3 <= time.monotonic() - began < 3.0
            assert b"504 Gateway Timeout" in read_to_end(sock)
        assert "grace over" in s.wait_line("worker overdue")
        assert "_gate" in s.log(), "its stack"


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,), (signal.SIGQUIT,)])
def test_promise_09_second_term_int_and_quit_are_quick(signals: tuple[signal.Signals, ...]) -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    with Server(app=SITE, workers=2, expect=expect) as s, Gate(s) as gate, s.connect() as sock, s.connect() as idle:
        idle.sendall(one_request("/pid", close=False))
        idle.recv(65536)
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        began = time.monotonic()
        for number in signals:
            s.signal(number)
            s.wait_line("draining" if number == signals[0] and len(signals) > 1 else "stopping")
        assert s.wait_exit() == 0
        assert time.monotonic() - began < 4.0


def test_idle_kept_connections_do_not_hold_up_the_stop() -> None:
    with Server(app=SITE, workers=2, keepalive="60s") as s, ExitStack() as held:
        for _ in range(8):
            sock = held.enter_context(s.connect())
            sock.sendall(one_request("/pid", close=False))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert s.stop() == 0
        assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTTOU])
def test_a_stop_reaches_workers_that_retire_already(first: signal.Signals) -> None:
    with Server(app=SITE, workers=2, relay="false", keepalive="60s", reload_settle=0) as s, ExitStack() as held:
        kept = [held.enter_context(s.connect()) for _ in range(8)]
        for sock in kept:
            sock.sendall(one_request("/pid", close=False))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        s.signal(first)
        line = s.wait_line("retiring worker")
        wait_retiring(int(line.rpartition("pid=")[2]))
        began = time.monotonic()
        assert s.stop() == 0
        assert time.monotonic() - began < 15, "half of the grace"
        assert s.lines("worker overdue") == []
        assert [read_to_end(sock) for sock in kept] == [b""] * 8, (
            "a plain end, which clients of kept connections expect"
        )


def test_promise_04_connection_that_never_spoke_does_not_hold_up_the_stop_beyond_the_grace() -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    with Server(app=SITE, workers=1, graceful_timeout="500ms", expect=expect) as s, s.connect():
        wait_until(lambda: s.get("/pid").status == 200, "the accept")
        began = time.monotonic()
        assert s.stop() == 0
        assert time.monotonic() - began < 4.0


def test_promise_09_stop_during_a_reload_abandons_it() -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app("def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'old']\n")
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n")
        s.signal(signal.SIGHUP)
        gate.wait_entered()
        assert s.stop() == 0
        s.wait_line("reload abandoned gen=2")


def test_promise_15_service_manager_hears_each_step_in_order() -> None:
    with Server(app=SITE, workers=1) as s:
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.stop() == 0
        told = [fields for fields in s.notify.heard() if "EXTEND_TIMEOUT_USEC" not in fields]
        heard = [tuple(key for key in fields if key != "STATUS") for fields in told]
        steps = [step for step in heard if step]
        assert [step for at, step in enumerate(steps) if at == 0 or steps[at - 1] != step] == [
            ("READY",),
            ("RELOADING", "MONOTONIC_USEC"),
            ("READY",),
            ("STOPPING",),
        ]
        assert all("STATUS" in fields for fields in told)
        assert 0 < int(s.heard("MONOTONIC_USEC")[0]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_promise_09_term_while_the_first_workers_boot_ends_at_once(number: signal.Signals) -> None:
    s = Server(app="fresh_app:app", workers=2, await_ready=False)
    s.write_app(f"open({str(s.folder / 'gate')!r}).read()\n")
    with s, Gate(s) as gate:
        gate.wait_entered()
        s.signal(number)
        assert s.wait_exit() == 0
        assert not s.heard("READY")


def test_promise_10_slow_requests_that_are_queued_are_shared_by_the_workers_and_all_answered() -> None:
    with Server(app=SITE, workers=2) as s, ExitStack() as held:
        gates = [held.enter_context(Gate(s, f"gate{number}")) for number in range(2)]
        for gate in gates:
            held.enter_context(s.connect()).sendall(one_request(gate.path))
            gate.wait_entered()
        queued = [held.enter_context(s.connect()) for _ in range(4)]
        for sock in queued:
            sock.sendall(one_request("/sleep?1.2"))  # longer than an idle connection lives in a stop
        began = time.monotonic()
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        for gate in gates:
            gate.open()
        for sock in queued:
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 4 * 1.2, "one worker answered them all"
        assert s.wait_exit() == 0


def test_promise_07_idle_workers_are_gone_soon_after_the_master_is_killed() -> None:
    with Server(app=SITE, workers=3, expect=["master is gone"]) as s:
        workers = s.workers()
        began = time.monotonic()
        s.signal(signal.SIGKILL)
        wait_until(lambda: not any(lives(pid) for pid in workers), "the end of the workers")
        assert time.monotonic() - began < 1.0
        wait_until(lambda: can_be_bound(s.port), "the port")
        s.forget_pidfile()


def test_promise_07_busy_worker_finishes_its_request_after_the_master_was_killed() -> None:
    with Server(app=SITE, workers=1, expect=["master is gone"]) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        s.signal(signal.SIGKILL)
        s.wait_exit()
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not s.alive(), "the end of the worker")
        s.forget_pidfile()


def test_promise_07_booting_worker_does_not_outlive_the_master() -> None:
    s = Server(app="fresh_app:app", workers=1, await_ready=False)
    s.write_app(f"open({str(s.folder / 'gate')!r}).read()\napp = print\n")
    with s, Gate(s) as gate:
        gate.wait_entered()
        s.signal(signal.SIGKILL)
        s.wait_exit()
        gate.open()
        wait_until(lambda: not s.alive(), "the end of the worker")
        s.forget_pidfile()


def test_promise_07_successor_of_a_killed_master_takes_pidfile_and_unix_path() -> None:
    with Server(app=SITE, bind=["unix:here.sock"], expect=["master is gone"]) as s:
        s.signal(signal.SIGKILL)
        s.wait_exit()
        wait_until(lambda: not s.alive(), "the end of the workers")
        assert s.pidfile.exists()
        dead = s.pid
        s.start().wait_ready()
        assert s.pid != dead
        assert int(s.pidfile.read_text()) == s.pid
        assert s.get_at("unix:here.sock", "/pid").status == 200


def test_ctrl_c_reaches_the_whole_group_and_is_quick_and_quiet() -> None:
    with Server(app=SITE, workers=3, errorlog="-") as s:
        began = time.monotonic()
        os.killpg(s.pid, signal.SIGINT)
        assert s.wait_exit() == 0
        assert time.monotonic() - began < 2.0
        assert "Traceback" not in s.said()
        assert "KeyboardInterrupt" not in s.said()
        assert s.said().rstrip().endswith("[info] stopped")


def test_promise_04_term_to_the_whole_group_is_one_graceful_stop() -> None:
    with Server(app=SITE, workers=2) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        os.killpg(s.pid, signal.SIGTERM)
        s.wait_line("draining")
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0
        assert len(s.lines("worker forked")) == 2, "nobody was replaced"


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:here.sock", "unix:@forkserve-test-{pid}"])
def test_promise_10_clients_that_arrive_during_the_stop_are_answered_or_refused_and_never_reset(bind: str) -> None:
    outcomes: Counter[str] = Counter()

    def ask(s: Server) -> None:
        while True:
            try:
                with s.connect(s.addresses[0]) as sock:
                    sock.sendall(one_request("/sleep?0.002"))
                    answer = read_to_end(sock)
                outcomes["answered" if answer.startswith(b"HTTP/1.1 200") else "closed"] += 1
            except (ConnectionRefusedError, FileNotFoundError):
                return
            except OSError as error:
                outcomes[type(error).__name__] += 1

    with Server(app=SITE, workers=2, bind=[bind.format(pid=os.getpid())]) as s:
        clients = [threading.Thread(target=ask, args=(s,)) for _ in range(6)]
        for client in clients:
            client.start()
        wait_until(lambda: outcomes["answered"] > 50, "50 answers")
        assert s.stop() == 0
        for client in clients:
            client.join()
    assert set(outcomes) == {"answered"}, outcomes


def test_promise_10_worker_with_a_slow_upload_sleeps_while_an_abstract_socket_drains() -> None:
    name = f"unix:@forkserve-test-{os.getpid()}"
    with Server(app=SITE, workers=1, bind=[name]) as s, s.connect(name) as upload, s.connect(name) as other:
        upload.sendall(b"POST /pid HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n")
        assert upload.recv(100).startswith(b"HTTP/1.1 100")
        [worker] = s.workers()
        s.signal(signal.SIGTERM)
        wait_retiring(worker)
        with pytest.raises(ConnectionRefusedError):
            s.connect(name)
        other.sendall(one_request("/pid"))
        assert read_to_end(other).startswith(b"HTTP/1.1 200"), "who was queued is answered"
        assert cpu_share(worker, 0.5) < 0.2
        upload.sendall(b"abcdef")
        assert read_to_end(upload).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0
