"""Recycling: a worker that has served long enough is replaced before it leaves; hard limits hold whatever it does."""

import re
import time

from tests.harness import Server, read_to_end, wait_until
from tests.process.load import Load
from tests.process.probes import MostLive, status
from tests.process.tools import Gate, answers, lives, one_request

SITE = "tests.process.site:app"
MIB = 1 << 20

# Waits at a gate with a deadline that it has set itself: /SECONDS?FIFO; 0 extends nothing. /eat?MIB keeps that much,
# /devour allocates for ever; everything else says who serves.
APP = """
import os, time

kept = []

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/eat":
        kept.append(b"x" * (int(query) << 20))
    elif path == "/devour":
        while True:
            kept.append(b"x" * (4 << 20))
            time.sleep(0.01)
    elif query:
        if float(path[1:]):
            environ["forkserve.extend_deadline"](float(path[1:]))
        open(query).read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def _eater(**settings: object) -> Server:
    s = Server(app="fresh_app:app", **settings)  # type: ignore[arg-type]
    s.write_app(APP)
    return s


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_promise_01_workers_replaced_after_max_requests_lose_nothing_under_load() -> None:
    s = Server(app="fresh_app:app", workers=2, max_requests=100, max_requests_jitter=20)
    s.write_app(answers("code"))
    with s, Load(s) as load, MostLive(s.pid) as seen:
        s.wait_line("retiring worker", count=6)
        wait_until(lambda: sum(status(s)["ends"].values()) >= 4, "four that were recycled have ended")
        found = status(s)
        assert found["generation"] == 1
        assert set(found["ends"]) == {"max_requests"}, found["ends"]
        assert all(" cause=max_requests " in line for line in s.lines("worker tired"))
    assert load.failures == []
    assert load.total >= 6 * 80
    assert seen.most <= 5  # size + surge + as many that finish


def test_replacement_is_ready_before_the_tired_worker_is_retired() -> None:
    with Server(app=SITE, workers=1, max_requests=5, max_requests_jitter=0) as s:
        before = len(s.log().splitlines())
        [old] = s.workers()
        assert [s.get("/pid").json[0] for _ in range(5)] == [old] * 5
        s.wait_line("worker exited")
        steps = re.findall(r"(worker tired|worker ready|retiring worker|worker exited) id=(\d+)", s.log_from(before))
        assert steps == [("worker tired", "1"), ("worker ready", "2"), ("retiring worker", "1"), ("worker exited", "1")]
        assert s.get("/pid").json[0] != old


def test_jitter_draws_another_limit_for_each_worker() -> None:
    with Server(app=SITE, workers=1, max_requests=40, max_requests_jitter="90%") as s:
        lives_of: dict[int, int] = {}
        while len(lives_of) < 6:
            pid = s.get("/pid").json[0]
            lives_of[pid] = lives_of.get(pid, 0) + 1
        counts = list(lives_of.values())[:-1]
    # A few more come to a worker while its replacement boots; five equal limits of 73 possible ones are no accident.
    assert len(set(counts)) > 1, counts
    assert min(counts) >= 4, counts


def test_max_worker_lifetime_replaces_idle_workers() -> None:
    s = Server(app=SITE, workers=1, max_worker_lifetime="1s", max_worker_lifetime_jitter=0)
    with s, MostLive(s.pid) as seen:
        began = time.monotonic()
        assert "cause=max_worker_lifetime" in s.wait_line("worker tired")
        s.wait_line("worker exited")
        assert time.monotonic() - began < 3.0
        assert status(s)["ends"] == {"max_worker_lifetime": 1}
    assert seen.most <= 2


def test_worker_beyond_max_worker_memory_is_replaced_after_its_request() -> None:
    with _eater(workers=1, max_worker_memory="100MiB") as s:
        [old] = s.workers()
        assert s.get("/").text == str(old)
        assert s.get("/eat?150").text == str(old), "it answers all the same"
        wait_until(lambda: s.get("/").status == 200 and s.lines("worker tired"), "the next look at its memory")
        assert "cause=max_worker_memory" in s.wait_line("worker tired")
        wait_until(lambda: not lives(old), "the end of the old worker")
        assert int(s.get("/").text) in s.workers()
        wait_until(lambda: status(s)["ends"] == {"max_worker_memory": 1}, "its end as the master counts it")


def test_worker_that_allocates_for_ever_is_killed_at_the_hard_limit_and_its_sibling_serves_on() -> None:
    expect = ["worker too big", "worker exited", "worker was asked for its stacks"]
    with _eater(workers=2, max_worker_memory_hard="200MiB", timeout=0, expect=expect) as s, s.connect() as sock:
        sock.sendall(one_request("/devour"))
        wait_until(lambda: any(worker["request"] for worker in status(s)["workers"]), "the devourer")
        [devourer] = [worker["pid"] for worker in status(s)["workers"] if worker["request"]]
        most = 0
        while lives(devourer):
            assert int(s.get("/").text) != devourer
            try:
                most = max(most, _resident(devourer))
            except OSError:
                break
        assert 200 * MIB < most < 900 * MIB, "one look a second at 400 MiB a second"
        line = s.wait_line("worker too big")
        assert "limit_mib=200" in line
        wait_until(lambda: len(s.workers()) == 2, "the replacement")
        # Its main thread may be gone before the others, with which its memory goes.
        wait_until(lambda: status(s)["ends"] == {"over max_worker_memory_hard": 1}, "the end that the master has seen")
        # What had the memory may no longer be able to speak: its client sees an end, with an answer or without.
        try:
            assert read_to_end(sock)[:12] in (b"", b"HTTP/1.1 504")
        except ConnectionResetError:
            pass


def test_request_that_extends_its_deadline_may_take_longer_than_the_timeout() -> None:
    with _eater(workers=1, timeout="500ms") as s, Gate(s) as gate, s.connect() as sock:
        fifo = gate.path.partition("?")[2]
        sock.sendall(one_request(f"/20?{fifo}"))
        gate.wait_entered()
        wait_until(lambda: (status(s)["workers"][0]["request_s"] or 0) > 1.2, "more than twice the time-out")
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.lines("request overdue") == []
        assert s.lines("worker exited") == []


def test_extended_deadline_ends_too_and_the_next_request_has_the_usual_one() -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited"]
    with _eater(workers=1, timeout="500ms", expect=expect) as s, Gate(s) as gate:
        fifo = gate.path.partition("?")[2]
        for number, (seconds, bound) in enumerate([("1.2", 1.2), ("0", 0.5)], start=1):
            began = time.monotonic()
            answer = s.exchange(one_request(f"/{seconds}?{fifo}"))
            took = time.monotonic() - began
            assert answer.startswith(b"HTTP/1.1 504")
            assert bound <= took < bound + 1.5
            s.wait_line("request overdue", count=number)
            s.wait_line("worker ready", count=number + 1)
