"""The relay in a running server: a slow, dying or leaving worker takes nobody's connection along."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.harness import Answer, Server, wait_until
from tests.process.crowd import crowd, houses, serve, told, who
from tests.process.tools import Gate, lives, one_request, sockets, wait_retiring

STANDS_STILL = ["worker was stopped", "worker continued"]


def test_promise_14_only_the_slow_request_waits_and_all_others_of_its_worker_are_served_by_siblings() -> None:
    with serve(workers=3) as s, houses(s, 3, each=8) as house, ExitStack() as gates:
        *sick, healthy = house
        for number, pid in enumerate(sick):
            gate = gates.enter_context(Gate(s, f"gate{number}"))
            house[pid][0].get(gate.path)
            gate.wait_entered()
        waiting = [house[pid][0] for pid in sick]
        others = [client for clients in house.values() for client in clients if client not in waiting]
        for client in others:
            client.get("/?first")
        assert {told(client)["pid"] for client in others} == {healthy}
        assert {who(client) for client in others} == {healthy}, "they stay where they are well"
        assert select.select([client.sock for client in waiting], [], [], 0)[0] == []
        gates.close()
        assert [told(client)["pid"] for client in waiting] == sick
        assert [who(client) for client in waiting] == sick


def test_promise_14_requests_wait_for_whoever_is_free_first_when_all_workers_are_slow() -> None:
    with serve(workers=2) as s, houses(s, 2, each=8) as house, Gate(s, "one") as one, Gate(s, "two") as two:
        (first, its), (second, others) = house.items()
        its[0].get(one.path)
        one.wait_entered()
        others[0].get(two.path)
        two.wait_entered()
        for client in [*its[1:], *others[1:]]:
            client.get("/")
        two.open()
        assert {told(client)["pid"] for client in [*its[1:], *others[1:]]} == {second}
        assert told(others[0])["pid"] == second
        one.open()
        assert told(its[0])["pid"] == first


def test_promise_14_worker_killed_with_connections_in_the_queue_loses_none_of_them() -> None:
    with serve(workers=2, expect=["worker exited", *STANDS_STILL]) as s, houses(s, 2, each=8) as house:
        with Gate(s, "one") as one:
            (dying, its), (other, others) = house.items()
            os.kill(other, signal.SIGSTOP)  # it seems to have time, and takes nobody
            its[0].get(one.path)
            one.wait_entered()
            before = sockets(dying)
            for client in its[1:]:
                client.get("/")
            wait_until(lambda: sockets(dying) == before - len(its[1:]), "all that wait in the queue")
            s.kill(dying)
            answered = {told(client)["pid"] for client in its[1:]}
            assert answered.isdisjoint({dying, other}), "the replacement takes them; the sibling stands still"
            os.kill(other, signal.SIGCONT)
        assert who(others[0]) == other
        assert {who(client) for client in [*its[1:], *others]} <= set(s.workers())


QUEUE_APP = """
import time
def app(environ, start_response):
    began = time.monotonic()
    time.sleep(0.02)
    start_response("200 OK", [])
    return [repr(began).encode()]
"""


@pytest.mark.parametrize("settings", [{}, {"relay": "false"}, {"threads": 2}], ids=["relay", "no relay", "threads"])
def test_promise_14_who_waits_while_all_are_busy_keeps_his_place(settings: dict[str, Any]) -> None:
    clients = 60
    s = Server(app="queue_app:app", workers=2, **settings)
    s.write_app(QUEUE_APP, "queue_app")
    with s, ExitStack() as stack:
        crowd = [stack.enter_context(Client(s)).get("/", "Connection: close") for _ in range(clients)]
        began = [float(client.reply().body) for client in crowd]
        places = sorted(range(clients), key=began.__getitem__)
        moved = max(abs(place - came) for place, came in enumerate(places))
        assert moved <= 8, places


# leaving


class _Active(threading.Thread):
    """Asks on each of its connections in turn, without pause, until the end of the block."""

    def __init__(self, clients: list[Client]) -> None:
        super().__init__()
        self._clients = clients
        self._over = threading.Event()
        self.rounds = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                for client in self._clients:
                    client.get("/")
                for client in self._clients:
                    told(client)
                self.rounds += 1
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> "_Active":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _hup(s: Server, old: list[int]) -> list[int]:
    s.signal(signal.SIGHUP)
    s.wait_line("reload done")
    return old


def _term_one(s: Server, old: list[int]) -> list[int]:
    os.kill(old[0], signal.SIGTERM)
    return old[:1]


def _recycle(s: Server, old: list[int]) -> list[int]:
    s.wait_line("worker tired", count=len(old))
    return old


@pytest.mark.parametrize("leave", [_hup, _term_one, _recycle])
def test_promise_14_no_keep_alive_connection_ends_when_its_worker_leaves(
    leave: Callable[[Server, list[int]], list[int]],
) -> None:
    settings = {"max_requests": 700, "max_requests_jitter": 0} if leave is _recycle else {}
    with serve(workers=2, **settings) as s:
        old = s.workers()
        with crowd(s, 200) as idle, crowd(s, 50) as busy:
            with _Active(busy[:25]) as one, _Active(busy[25:]) as two:
                wait_until(lambda: min(one.rounds, two.rounds) >= 1, "the active ones")
                gone = leave(s, old)
                wait_until(lambda: not any(lives(pid) for pid in gone), "the end of those that leave")
            assert (one.failure, two.failure) == (None, None)
            assert {who(client) for client in [*idle, *busy]}.isdisjoint(gone)


def test_promise_14_half_a_head_and_half_a_body_survive_a_reload_on_their_connection() -> None:
    with serve(workers=1) as s, crowd(s, 3) as [head, body, fresh_like], Client(s) as fresh:
        [old] = s.workers()
        head.send(b"GET /?half HTTP/1.1\r\nHo")
        body.send(b"POST /?body HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        who(fresh_like)  # what was sent before it has arrived
        s.signal(signal.SIGHUP)
        wait_retiring(old)
        found = told(head.send(b"st: x\r\n\r\n"))
        assert (found["query"], found["pid"] != old) == ("half", True)
        found = told(body.send(b"def"))
        assert (found["query"], found["body"], found["pid"]) == ("body", "abcdef", old)
        s.wait_line("reload done")
        assert {who(client) for client in (head, body, fresh_like, fresh)} == set(s.workers()) != {old}


def test_promise_14_connections_in_the_queue_are_answered_before_a_stop() -> None:
    with serve(workers=2, expect=STANDS_STILL) as s, houses(s, 2, each=6) as house, Gate(s, "one") as one:
        (first, its), (other, _) = house.items()
        os.kill(other, signal.SIGSTOP)  # it seems to have time, and takes nobody
        its[0].get(one.path)
        one.wait_entered()
        before = sockets(first)
        for client in its[1:]:
            client.get("/")
        wait_until(lambda: sockets(first) == before - len(its[1:]), "all that wait in the queue")
        s.signal(signal.SIGTERM)
        wait_until(lambda: len(s.lines("retiring worker")) == 2, "that both are asked to leave, and the other goes on")
        one.open()
        for client in its:
            reply = client.reply()
            assert (reply.code, reply.values("Connection")) == (200, [] if client is its[0] else ["close"])
            client.sock.shutdown(socket.SHUT_WR)  # else the worker stays for a moment, so that no reset eats the answer
        assert s.wait_exit() == 0


@pytest.mark.parametrize("relay", [True, False])
def test_reload_may_turn_the_relay_off_and_on_without_forgetting_who_is_queued(relay: bool) -> None:
    with serve(workers=1, config=f"relay = {str(relay).lower()}") as s, crowd(s, 3) as clients:
        [old] = s.workers()
        s.config.write_text(f"relay = {str(not relay).lower()}")
        s.signal(signal.SIGHUP)
        wait_retiring(old)
        for client in clients:
            reply = client.get("/").reply()
            assert reply.code == 200
            assert reply.values("Connection") == ([] if relay else ["close"])


# what does not move


def _tasks(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/task")


def test_promise_14_without_the_relay_nothing_moves_and_each_worker_has_one_thread() -> None:
    with serve(workers=2, relay="false") as s, houses(s, 2, each=4) as house, Gate(s) as gate:
        (pid, its), (other, others) = house.items()
        its[0].get(gate.path)
        gate.wait_entered()
        its[1].get("/")
        for _ in range(100):
            assert who(others[0]) == other
        assert select.select([its[1].sock], [], [], 0)[0] == []
        assert [len(_tasks(worker)) for worker in (pid, other)] == [1, 1]
        gate.open()
        assert [told(client)["pid"] for client in its[:2]] == [pid, pid]


def test_app_that_holds_the_interpreter_lock_holds_its_own_connections_and_no_others() -> None:
    with serve(workers=2) as s, houses(s, 2, each=4) as house, Gate(s) as gate:
        (pid, its), (other, others) = house.items()
        its[0].get("/gil" + gate.path.removeprefix("/gate"))
        gate.wait_entered()
        its[1].get("/")
        for _ in range(100):
            assert {who(others[0]), told(others[1].get("/"))["pid"]} == {other}
        assert select.select([its[1].sock], [], [], 0)[0] == [], "no thread of that worker can run"
        gate.open()
        assert told(its[0])["pid"] == pid
        assert told(its[1])["pid"] in (pid, other)


# what it costs


def _switches(pid: int, task: str) -> int:
    lines = Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def _all_switches(pid: int) -> dict[str, int]:
    return {task: _switches(pid, task) for task in _tasks(pid)}


def _rests(pid: int) -> bool:
    before = _all_switches(pid)
    time.sleep(0.2)  # a pause to compare by: there is no event for something that does not happen
    return sum(_all_switches(pid).values()) - sum(before.values()) <= 1


def test_promise_14_idle_worker_wakes_once_a_second_however_many_connections_it_holds_or_held() -> None:
    with serve(workers=2) as s, houses(s, 2, each=100) as house, Gate(s) as gate:
        (pid, its), (other, _) = house.items()
        its[0].get(gate.path)
        gate.wait_entered()
        for client in its[1:50]:
            client.get("/")
        assert {told(client)["pid"] for client in its[1:50]} == {other}
        gate.open()
        told(its[0])
        assert len(_tasks(pid)) == 2
        wait_until(lambda: all(_rests(worker) for worker in (pid, other)), "both to rest")
        before = {worker: _all_switches(worker) for worker in (pid, other)}
        began = time.monotonic()
        time.sleep(2)  # what is measured
        sweeps = {}
        for worker in before:
            sweeps[worker] = (_all_switches(worker), time.monotonic() - began + 3)  # a busy machine sleeps longer
        for worker, counts in before.items():
            after, most = sweeps[worker]
            woken = {task: after[task] - count for task, count in counts.items()}
            assert woken.pop(str(worker)) <= most, "the sweep, once a second"
            assert list(woken.values()) == [0], "the attendant sleeps"
        for _ in range(100):
            assert who(its[1]) == other
        woken_times = sum(_all_switches(pid).values()) - sum(before[pid].values())
        assert woken_times <= 10 + time.monotonic() - began, (
            "a connection that has left does not wake the worker that held it"
        )


def test_half_read_head_keeps_its_time_however_often_it_moves() -> None:
    with serve(workers=2, header_timeout="2s") as s, houses(s, 2, each=2) as house, Client(s) as slow:
        (_, its), (_, others) = house.items()
        began = time.monotonic()
        slow.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        moves = 0
        while not select.select([slow.sock], [], [], 0)[0]:
            with Gate(s, f"gate{moves}") as gate:
                holder = (its, others)[moves % 2][0].get(gate.path)
                gate.wait_entered()
                for _ in range(8):
                    slow.send(b"x")
                    select.select([slow.sock], [], [], 0.01)  # this client is slow
            told(holder)
            moves += 1
        took_s = time.monotonic() - began
        assert slow.reply().code == 408
        assert moves >= 4
        assert 1.9 < took_s < 2 + 1 + 1, "the clock is looked at once a second"


@pytest.mark.parametrize("address", ["[::1]:0", "unix:socket", "unix:@forkserve-relay-{pid}"])
def test_connection_keeps_its_addresses_when_it_moves(address: str) -> None:
    with serve(workers=2, bind=[address.format(pid=os.getpid())]) as s, ExitStack() as held:
        [place] = s.addresses
        socks = [held.enter_context(s.connect(place)) for _ in range(12)]
        before = [_ask(sock).json for sock in socks]
        stuck = before[0]["pid"]
        with Gate(s) as gate:
            socks[0].sendall(one_request(gate.path, close=False))
            gate.wait_entered()
            for sock, old in list(zip(socks, before, strict=True))[1:]:
                new = _ask(sock).json
                assert new["pid"] != stuck
                assert {**new, "pid": 0} == {**old, "pid": 0}
                if sock.family == socket.AF_INET6:
                    assert (new["REMOTE_ADDR"], new["REMOTE_PORT"]) == ("::1", str(sock.getsockname()[1]))


def _ask(sock: socket.socket) -> Answer:
    sock.sendall(one_request("/", close=False))
    with HTTPResponse(sock) as response:
        response.begin()
        return Answer(response)


@pytest.mark.parametrize("path", ["/fork?40", "/run?40", "/spawn?20"])
def test_processes_that_the_app_makes_while_connections_leave_are_born_clean(path: str) -> None:
    with serve(workers=2, timeout=20) as s, houses(s, 2, each=60) as house:
        (pid, its), (other, _) = house.items()
        its[0].get(path)
        moved = 0
        while not select.select([its[0].sock], [], [], 0)[0]:
            for client in its[1 + moved : 3 + moved]:
                assert told(client.get("/"))["pid"] in (pid, other)
                moved += 1
        children = told(its[0])["children"]
        assert set(children) == {1}, "garbage is collected, no socket is open"
        assert moved > 0
        wait_until(partial(_no_child, pid), "the end of all of them")


def _no_child(pid: int) -> bool:
    return not Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
