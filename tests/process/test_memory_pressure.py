"""Promise 8: out of memory, forkserve serves on, and is whole again once there is room.

What runs out is the address space that the kernel grants to a process (RLIMIT_AS), taken from it while it runs: its
next allocation fails as on a machine that is full.
"""

import resource
import signal
from pathlib import Path

from tests.harness import Server, wait_until
from tests.process.probes import cpu_share, status

MIB = 1 << 20
# Wants 64 MiB at its import and keeps them; /eat wants as much again for one request.
APP = """
import os
kept = bytearray(64 << 20)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        bytearray(256 << 20)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {environ['forkserve.generation']}".encode()]
"""


def _take_room(pid: int, room: int) -> None:
    """Let a process have so many bytes more than it has."""
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))


def _give_room(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_promise_08_pool_is_whole_again_after_memory_was_short() -> None:
    expect = ["worker exited", "worker could not boot", "degraded", "reload failed"]
    s = Server(app="fresh_app:app", workers=2, reload_retries=0, reload_settle=0, expect=expect)
    s.write_app(APP)
    with s:
        [survivor, victim] = s.workers()
        _take_room(s.pid, 8 * MIB)  # for the master and, by inheritance, whoever it forks
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        assert s.workers() == [survivor, victim], "a reload that has no room costs nobody"
        s.kill(victim)
        s.wait_line("degraded workers=1 size=2")
        assert "MemoryError" in s.wait_line("worker could not boot", count=2)
        assert [s.get().text.split()[0] for _ in range(5)] == [str(survivor)] * 5
        assert status(s)["degraded"] is True
        assert cpu_share(s.pid, 0.5) < 0.2
        _give_room(s.pid)
        s.wait_line("full strength again")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: len(s.workers()) == 2, "the whole pool")
        assert s.get().status == 200


def test_promise_08_request_for_which_there_is_no_memory_costs_itself_and_nobody_else() -> None:
    s = Server(app="fresh_app:app", workers=1, expect=["MemoryError", "app"])
    s.write_app(APP)
    with s:
        [worker] = s.workers()
        assert s.get("/eat").status == 200
        _take_room(worker, 32 * MIB)
        for _ in range(3):
            assert s.get("/eat").status == 500
            assert s.get("/").text == f"{worker} 1"
        assert "MemoryError" in s.log()
        _give_room(worker)
        assert s.get("/eat").text == f"{worker} 1"
