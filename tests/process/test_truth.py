"""Promise 15: the truth is told while it is bad: in the middle of a reload, of a hang, of a stop, of a failure."""

import os
import signal
from contextlib import ExitStack
from functools import partial

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.probes import ctl, status
from tests.process.tools import Gate, answers, one_request

SITE = "tests.process.site:app"


@pytest.mark.parametrize("hang", ["/sleep?3600", "/busy", "/gil"])
def test_promise_15_status_is_told_while_every_worker_hangs_in_any_way(hang: str) -> None:
    expect = ["worker overdue", "worker was asked for its stacks"]
    with Server(app=SITE, workers=2, timeout="60s", graceful_timeout=0, expect=expect) as s, ExitStack() as held:
        for count in (1, 2):  # one after the other: each in another worker
            held.enter_context(s.connect()).sendall(one_request(hang))
            wait_until(partial(_run_so_many, s, count), "the request in the app")
        held.enter_context(s.connect()).sendall(one_request("/pid"))
        found = status(s)
        assert (found["phase"], found["ready"], found["size"], found["degraded"]) == ("serving", 2, 2, False)
        assert _requests(s) == [f"GET {hang}"] * 2
        assert all(0 <= worker["request_s"] < 60 for worker in found["workers"]), "before anybody is overdue"
        assert [listener["waiting"] for listener in found["listeners"]] == [1]
        code, page, _ = ctl(s, "status")
        assert code == 0
        assert page.count(f"GET {hang} (") == 2


def _requests(s: Server) -> list[str]:
    return [worker["request"] for worker in status(s)["workers"] if worker["request"]]


def _run_so_many(s: Server, count: int) -> bool:
    return len(_requests(s)) == count


def test_promise_15_status_in_the_middle_of_a_reload_has_both_generations_and_systemd_hears_the_same() -> None:
    expect = ["worker could not boot", "worker exited", "reload failed", "degraded"]
    s = Server(app="fresh_app:app", workers=2, reload_retries=0, reload_settle=0, expect=expect)
    s.write_app(answers("old"))
    with s, Gate(s) as gate:
        s.write_app(f"open({str(s.folder / 'gate')!r}).read()\nraise RuntimeError('this deploy is broken')\n")
        s.signal(signal.SIGHUP)
        gate.wait_entered()
        found = status(s)
        assert (found["generation"], found["serving"], found["reloading"]) == (2, 1, True)
        assert (found["ready"], found["degraded"], found["last_error"]) == (2, False, "")
        stages = sorted((worker["generation"], worker["stage"]) for worker in found["workers"])
        assert stages == [(1, "ready"), (1, "ready"), (2, "booting")]
        assert {worker["pid"] for worker in found["workers"]} == set(s.workers())
        assert s.heard("STATUS")[-1].startswith("reloading to generation 2")
        assert set(s.heard("RELOADING")) == {"1"}
        gate.open()
        s.wait_line("reload failed")
        found = status(s)
        assert (found["serving"], found["reloading"], found["ready"]) == (1, False, 2)
        assert "this deploy is broken" in found["last_error"]
        wait_until(lambda: "this deploy is broken" in s.heard("STATUS")[-1], "the same from systemd")


def test_promise_15_status_while_the_service_drains_names_who_is_still_busy() -> None:
    with Server(app=SITE, workers=2) as s, Gate(s) as gate, s.connect() as sock:
        sock.sendall(one_request(gate.path))
        gate.wait_entered()
        s.signal(signal.SIGTERM)
        wait_until(lambda: len(status(s)["workers"]) == 1, "the end of the idle worker")
        found = status(s)
        assert (found["phase"], found["ready"]) == ("draining", 0)
        [last] = found["workers"]
        assert (last["stage"], last["request"]) == ("retiring", f"GET {gate.path}")
        s.wait_status("draining")
        gate.open()
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert s.wait_exit() == 0


def test_promise_15_ends_are_counted_by_their_cause() -> None:
    expect = ["worker exited", "request overdue", "worker was asked for its stacks", "degraded"]
    with Server(app=SITE, workers=2, timeout="1s", reload_settle=0, expect=expect) as s:
        os.kill(s.workers()[0], signal.SIGKILL)
        s.wait_line("worker ready", count=3)
        assert s.exchange(one_request("/exit?7")) == b""
        s.wait_line("worker ready", count=4)
        assert s.exchange(one_request("/gil")) == b""
        s.wait_line("worker ready", count=5)
        s.wait_line("worker exited id=", count=3)
        assert status(s)["ends"] == {"signal 9": 1, "exit code 7": 1, "killed: request overdue": 1}
