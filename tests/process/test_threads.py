"""Threads: N requests of a worker run at once, its loop stays free, and what holds for one thread holds for each."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.client import Client
from tests.harness import Server, read_to_end, wait_until
from tests.process.load import Load
from tests.process.probes import cpu_share
from tests.process.probes import status as server_status
from tests.process.tools import Gate, answers, lives, one_request, sockets, wait_retiring

SITE = "tests.process.site:app"
HUNG = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]

# /meet?N waits for N - 1 others. /extend?FIFO and /big?FIFO wait at a gate; the second then says more than fits.
APP = """
import os, subprocess, threading, time

meeting, local, lock = {}, threading.local(), threading.Lock()

def meet(environ, query):
    with lock:
        barrier = meeting.setdefault(query, threading.Barrier(int(query)))
    barrier.wait(20)
    return f"{environ['wsgi.multithread']} {threading.current_thread().name}"

def gate(environ, query):
    with open(query, "rb") as fifo:
        fifo.read()
    return "through"

def extend(environ, query):
    environ["forkserve.extend_deadline"](20)
    return gate(environ, query)

def big(environ, query):
    gate(environ, query)
    return "x" * 30_000_000

def leave(environ, query):
    environ["forkserve.retire"]()
    return "bye"

def count(environ, query):
    local.count = getattr(local, "count", 0) + 1
    return str(local.count)

def mask(environ, query):
    return subprocess.run(["grep", "SigBlk", "/proc/self/status"], capture_output=True, text=True).stdout

def hang(environ, query):
    time.sleep(3600)

def echo(environ, query):
    return query + environ["wsgi.input"].read().decode()

def app(environ, start_response):
    body = globals()[environ["PATH_INFO"][1:]](environ, environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
"""


def make_server(**settings: object) -> Server:
    """A server of the app above: one worker with two threads, if nothing else is said."""
    s = Server(app="fresh_app:app", **{"workers": 1, "threads": 2, **settings})  # type: ignore[arg-type]
    s.write_app(APP)
    return s


def gate_path(gate: Gate, page: str) -> str:
    """Another page of the app that waits at this gate."""
    return f"/{page}?{gate.path.partition('?')[2]}"


def pid_of(client: Client) -> int:
    """The worker that answers this client."""
    return int(json.loads(client.get("/pid").reply().body)[0])


def all_sleep(pid: int) -> bool:
    """Whether none of its threads runs, or would if it could."""
    return all(
        path.read_text().rpartition(")")[2].split()[0] == "S" for path in Path(f"/proc/{pid}/task").glob("*/stat")
    )


def bodies(raw: bytes) -> list[bytes]:
    """The bodies of pipelined answers, each with a Content-Length."""
    return [head.partition(b"\r\n\r\n")[2] for head in raw.split(b"HTTP/1.1 ")[1:]]


def test_as_many_requests_run_at_once_as_there_are_threads() -> None:
    with make_server(threads=5) as s, ExitStack() as stack:
        clients = [stack.enter_context(s.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(one_request("/meet?5"))
        said = [bodies(read_to_end(client))[0] for client in clients]
        assert sorted(said) == [b"True forkserve-%d" % n for n in range(1, 6)]
        [worker] = s.workers()
        names = [path.read_text().strip() for path in Path(f"/proc/{worker}/task").glob("*/comm")]
        assert sorted(names)[:-1] == [f"forkserve-{n}" for n in range(1, 6)], "one more thread, of the loop"
        assert len(names) == 6


def test_slow_request_holds_up_nobody() -> None:
    with make_server() as s, Gate(s) as gate, s.connect() as slow, Client(s) as kept:
        slow.sendall(one_request(gate.path))
        gate.wait_entered()
        assert [kept.get(f"/echo?{n}").reply().body for n in range(20)] == [b"%d" % n for n in range(20)]
        assert s.get("/echo?new").text == "new"
        gate.open()
        assert bodies(read_to_end(slow)) == [b"through"]


def test_pipelined_requests_run_one_after_the_other_in_order() -> None:
    with make_server(threads=3) as s, Gate(s) as gate, s.connect() as sock:
        [worker] = s.workers()
        sock.sendall(one_request(gate.path, close=False) + one_request("/echo?1", close=False))
        gate.wait_entered()
        for n in range(2, 9):
            sock.sendall(one_request(f"/echo?{n}", close=n == 8))
        assert s.get("/echo?other").text == "other"
        assert cpu_share(worker, 0.3) < 0.3, "what has arrived meanwhile keeps the loop busy"
        gate.open()
        assert bodies(read_to_end(sock)) == [b"through", *(b"%d" % n for n in range(1, 9))]


def test_each_thread_keeps_its_own_local_state() -> None:
    with make_server(threads=2) as s:
        counts = [int(s.get("/count").text) for _ in range(10)]
        assert counts.count(1) == 2 and max(counts) >= 5


def test_what_the_app_starts_inherits_no_blocked_signal() -> None:
    with make_server() as s:
        assert s.get("/mask").text.split() == ["SigBlk:", "0000000000000000"]


def test_promise_05_overdue_request_gets_504_and_the_others_end_before_the_worker_does() -> None:
    expect = [*HUNG]
    with (
        make_server(threads=3, timeout="1s", accesslog="access", access_log_format="%(U)s %(s)s", expect=expect) as s,
        Gate(s) as gate, Gate(s, "second") as second,
        s.connect() as extended, s.connect() as hung, s.connect() as begun, s.connect() as idle,
    ):  # fmt: skip
        [worker] = s.workers()
        idle.sendall(one_request("/echo?before", close=False))
        assert b"before" in idle.recv(1000)
        extended.sendall(one_request(gate_path(gate, "extend")))
        gate.wait_entered()
        hung.sendall(one_request("/hang"))
        begun.sendall(one_request(gate_path(second, "extend")))
        second.wait_entered()
        line = s.wait_line("request overdue")
        assert 'request="GET /hang"' in line and f"pid={worker}" in line
        assert hung.recv(1000).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        gate.open()
        second.open()
        assert bodies(read_to_end(extended)) == [b"through"]
        assert bodies(read_to_end(begun)) == [b"through"]
        idle.sendall(one_request("/echo?after"))
        assert bodies(read_to_end(idle)) == [b"after"], "the relay has it for the next worker"
        wait_until(lambda: not lives(worker), "the end of the worker")
        s.wait_line("worker ready", count=2)
        dump = s.log().partition("worker was asked for its stacks")[2]
        assert "in hang" in dump and "in gate" in dump
        assert (s.folder / "access").read_text().splitlines().count("/extend 200") == 2


@pytest.mark.parametrize("beside", ["extend", "hang"])
def test_promise_05_requests_that_wait_for_a_thread_are_answered_where_one_is_left_and_else_refused(
    beside: str,
) -> None:
    with (
        make_server(timeout="1s", relay="false", expect=HUNG) as s, Gate(s) as gate,
        s.connect() as first, s.connect() as hung, ExitStack() as stack,
    ):  # fmt: skip
        waiting = [stack.enter_context(s.connect()) for _ in range(3)]
        for sock in waiting:
            sock.sendall(one_request("/echo?before", close=False))
            assert b"before" in sock.recv(1000)
        first.sendall(one_request(gate_path(gate, beside)))
        if beside == "extend":
            gate.wait_entered()
        hung.sendall(one_request("/hang"))
        wait_until(lambda: server_status(s)["workers"][0]["requests"] == 5, "both to have begun")
        for sock in waiting:
            sock.sendall(one_request("/echo?after"))
        assert read_to_end(hung).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        if beside == "extend":
            s.wait_line("worker leaves after its other requests")
            gate.open()
            assert bodies(read_to_end(first)) == [b"through"]
            assert [bodies(read_to_end(sock)) for sock in waiting] == [[b"after"]] * 3
        else:
            answers = [read_to_end(sock) for sock in waiting]
            assert [raw.partition(b"\r\n")[0] for raw in answers] == [b"HTTP/1.1 503 Service Unavailable"] * 3


def test_extended_deadline_is_the_one_request_s_alone() -> None:
    with make_server(timeout="1s") as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate_path(gate, "extend")))
        gate.wait_entered()
        [row] = server_status(s)["workers"]
        began = time.monotonic()
        while time.monotonic() - began < 1.6:  # longer than the time-out of both
            assert s.get("/echo?quick").text == "quick"
        gate.open()
        assert bodies(read_to_end(sock)) == [b"through"]
        assert [row["pid"]] == s.workers()


def test_waiting_for_a_slow_reader_is_not_on_the_time_of_the_app() -> None:
    with (
        make_server(timeout="1s", limit_response_spool=0) as s,
        Gate(s) as gate,
        Client(s, window=1 << 16) as slow,
    ):
        slow.get(gate_path(gate, "big"))
        gate.wait_entered()
        gate.open()
        slow.read_head()
        began = time.monotonic()
        while time.monotonic() - began < 1.6:
            assert s.get("/echo?quick").text == "quick"
        assert len(slow.rest_of(30_000_000)) == 30_000_000
        assert s.lines("request overdue") == []


def test_client_that_left_costs_nobody_anything() -> None:
    with make_server(limit_response_spool=0) as s, Gate(s) as gate:
        [worker] = s.workers()
        before = sockets(worker)
        with s.connect() as gone:
            gone.sendall(one_request(gate_path(gate, "big")))
            gate.wait_entered()
        gate.open()
        for n in range(6):
            assert s.get(f"/echo?{n}").text == str(n)
        wait_until(lambda: sockets(worker) <= before, "its end")
        assert s.workers() == [worker]


def test_end_that_the_app_asks_for_in_one_thread_lets_the_other_finish() -> None:
    with make_server() as s, Gate(s) as gate, s.connect() as sock:
        [worker] = s.workers()
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        assert s.get("/leave").status == 200
        s.wait_line("worker ready", count=2)
        assert lives(worker)
        gate.open()
        assert bodies(read_to_end(sock)) == [b"through"]
        wait_until(lambda: s.workers() and worker not in s.workers(), "its end")


def test_promise_01_reload_under_load_loses_nothing() -> None:
    s = Server(app="fresh_app:app", workers=2, threads=3, reload_settle=0)
    s.write_app(answers("one"))
    with s, Load(s) as load:
        for n in range(2, 4):
            s.write_app(answers(f"gen{n}"))
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", count=n - 1)
            wait_until(partial(_has_answers, load, f"gen{n} {n} 0"), "answers of the new generation")
    assert load.failures == []
    assert set(load.by_way) == {"_close", "_keep_alive", "_pipeline", "_post"}


def _has_answers(load: Load, text: str) -> bool:
    return load.answers[text] > 20


def test_promise_02_graceful_stop_answers_what_runs_and_what_waits_for_a_thread() -> None:
    with make_server() as s, Gate(s) as gate, Gate(s, "other") as other, ExitStack() as stack:
        for each in (gate, other):
            stack.enter_context(busy := s.connect())
            busy.sendall(one_request(each.path))
            each.wait_entered()
        waiting = [stack.enter_context(s.connect()) for _ in range(5)]
        for n, sock in enumerate(waiting):
            sock.sendall(one_request(f"/echo?{n}"))
        [worker] = s.workers()
        s.signal(signal.SIGTERM)
        wait_retiring(worker)
        gate.open()
        other.open()
        assert [bodies(read_to_end(sock)) for sock in waiting] == [[b"%d" % n] for n in range(5)]
        assert s.wait_exit() == 0


def test_promise_02_quick_stop_waits_for_what_runs_and_drops_the_rest() -> None:
    with make_server() as s, Gate(s) as gate, s.connect() as runs, s.connect() as idle:
        idle.sendall(one_request("/echo?0", close=False))
        assert b"0" in idle.recv(1000)
        runs.sendall(one_request(gate.path))
        gate.wait_entered()
        s.signal(signal.SIGQUIT)
        assert idle.recv(1000) == b""
        gate.open()
        assert bodies(read_to_end(runs)) == [b"through"]
        assert s.wait_exit() == 0


def test_promise_07_killed_master_leaves_requests_their_grace() -> None:
    with (
        make_server(graceful_timeout="20s", expect=["master is gone"]) as s,
        Gate(s) as gate, s.connect() as sock,
    ):  # fmt: skip
        [worker] = s.workers()
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        s.signal(signal.SIGKILL)
        s.wait_exit()
        s.wait_line("master is gone")
        gate.open()
        assert bodies(read_to_end(sock)) == [b"through"]
        wait_until(lambda: not lives(worker), "the end of the worker")
        s.forget_pidfile()


def test_access_log_has_a_line_for_each_request_with_its_own_time() -> None:
    form = "%(U)s %(q)s %(s)s %(B)s %(D)s"
    with make_server(accesslog="access", access_log_format=form) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        for n in range(5):
            s.get(f"/echo?{n}")
        time.sleep(0.3)  # what the request takes
        gate.open()
        read_to_end(sock)
        path = s.folder / "access"
        lines = wait_until(lambda: len(found := path.read_text().splitlines()) == 6 and found, "six lines")
        assert [line.split()[:4] for line in lines[:5]] == [["/echo", str(n), "200", "1"] for n in range(5)]
        assert lines[5].split()[0] == "/gate" and int(lines[5].split()[-1]) > 300_000
        assert all(int(line.split()[-1]) < 250_000 for line in lines[:5])


def test_busy_worker_leaves_who_is_new_and_who_is_ready_to_its_sibling() -> None:
    with Server(app=SITE, workers=2, threads=2) as s, ExitStack() as stack:
        held: dict[int, list[Client]] = {pid: [] for pid in s.workers()}
        while max(map(len, held.values())) < 5:
            client = stack.enter_context(Client(s))
            held[pid_of(client)].append(client)
        busy = max(held, key=lambda pid: len(held[pid]))
        [sibling] = set(held) - {busy}
        gates = [stack.enter_context(Gate(s, name)) for name in ("one", "two")]
        # A thread that has answered may not have come to its end yet: then the second gate would be the sibling's.
        wait_until(lambda: all_sleep(busy), "the threads to be free")
        for gate, client in zip(gates, held[busy], strict=False):
            client.get(gate.path)
            gate.wait_entered()
        kept = held[busy][2:]
        asked = Counter(pid_of(client) for client in kept)
        assert asked == {sibling: len(kept)}, "the relay has them for the sibling"
        assert {s.get("/pid").json[0] for _ in range(10)} == {sibling}
        for gate, client in zip(gates, held[busy], strict=False):
            gate.open()
            assert client.reply().body == b'"through"'
        assert pid_of(held[busy][0]) in (busy, sibling)
        wait_until(lambda: s.get("/pid").json[0] == busy, "the entrance to be open again")


def test_worker_whose_threads_are_busy_for_a_moment_passes_nobody_on() -> None:
    expect = ["worker was stopped", "worker continued"]
    with Server(app=SITE, workers=2, threads=2, expect=expect) as s, ExitStack() as stack:
        clients = [stack.enter_context(Client(s)) for _ in range(12)]
        at = [pid_of(client) for client in clients]
        assert max(Counter(at).values()) > 2, "some have to wait for a thread"
        moves = 0
        for _ in range(20):
            for pid in s.workers():  # they shall find all of them at once
                os.kill(pid, signal.SIGSTOP)
            for client in clients:
                client.get("/pid")
            for pid in s.workers():
                os.kill(pid, signal.SIGCONT)
            now = [int(json.loads(client.reply().body)[0]) for client in clients]
            moves += sum(old != new for old, new in zip(at, now, strict=True))
            at = now
        assert moves < 24, "a tenth of them: the machine may hold up a worker for longer than a moment"


@pytest.mark.parametrize("relay", ["true", "false"])
def test_requests_wait_for_a_thread_where_nobody_else_can_take_them(relay: str) -> None:
    with make_server(relay=relay) as s, Gate(s) as gate, Gate(s, "other") as other, ExitStack() as stack:
        for each in (gate, other):
            stack.enter_context(busy := s.connect())
            busy.sendall(one_request(each.path))
            each.wait_entered()
        waiting = [stack.enter_context(s.connect()) for _ in range(3)]
        for n, sock in enumerate(waiting):
            sock.sendall(one_request(f"/echo?{n}"))
        assert cpu_share(s.workers()[0], 0.3) < 0.1, "it looks again and again"
        other.open()
        assert [bodies(read_to_end(sock)) for sock in waiting] == [[b"%d" % n] for n in range(3)]


def test_tired_worker_with_threads_is_replaced_and_nothing_is_lost() -> None:
    s = Server(app="fresh_app:app", workers=2, threads=3, max_requests=100, max_requests_jitter="0")
    s.write_app(answers("here"))
    with s:
        first = s.workers()
        with Load(s) as load:
            wait_until(lambda: not set(first) & set(s.workers()), "new workers")
    assert load.failures == []


@pytest.mark.parametrize("threads", [1, 4])
def test_app_under_wsgiref_validate_finds_nothing_to_complain_about(threads: int) -> None:
    s = Server(app="fresh_app:app", threads=threads)
    s.write_app(
        "from wsgiref.validate import validator\n"
        "@validator\n"
        "def app(environ, start_response):\n"
        "    body = environ['wsgi.input'].read(100)\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [str(environ['wsgi.multithread']).encode(), body]\n"
    )
    with s:
        raw = s.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert re.sub(rb"\r\n[0-9a-f]+\r\n", b"", raw.partition(b"\r\n\r\n")[2]).find(b"body") > 0
        assert str(threads > 1).encode() in raw


def test_many_clients_at_once_get_what_they_asked_for() -> None:
    failures: list[str] = []

    def ask(s: Server, who: int) -> None:
        with Client(s) as client:
            for n in range(60):
                said = client.get(f"/echo?{who}-{n}").reply().body
                if said != b"%d-%d" % (who, n):
                    failures.append(f"{who}-{n}: {said!r}")

    with make_server(workers=2, threads=2) as s:
        clients = [threading.Thread(target=ask, args=(s, who)) for who in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert failures == []
