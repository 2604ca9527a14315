"""The end of a worker is the end of an interpreter: what the app has begun is finished within the grace, and what is
not finished is named. Promises 4 and 7."""

import gzip
import os
import re
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server, wait_until
from tests.process.tools import can_be_bound, live_children, lives

HABITS = "tests.apps.habits"
THREADS = f"{HABITS}.background_threads:app"
POOL = f"{HABITS}.background_process_pool:app"
FILES = f"{HABITS}.background_files:app"


def _reload(s: Server) -> None:
    s.signal(signal.SIGHUP)
    s.wait_line("reload done")


def _stop(s: Server) -> None:
    assert s.stop() == 0


def _retire(s: Server) -> None:
    [worker] = live_children(s.pid)
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: not lives(worker), "the end of the worker")


def _wear_out(s: Server) -> None:
    [worker] = s.workers()
    wait_until(lambda: s.get().status == 200 and s.lines("worker tired"), "the last request of a worker")
    wait_until(lambda: not lives(worker), "the end of the worker")


def _kill_master(s: Server) -> None:
    s.expect.append("master is gone")
    s.signal(signal.SIGKILL)
    s.wait_exit()
    wait_until(lambda: not s.alive(), "the end of the worker")
    s.forget_pidfile()


ENDS = [_reload, _stop, _retire, _wear_out, _kill_master]


def _done(s: Server) -> list[str]:
    path = s.folder / "done"
    return sorted(path.read_text().split()) if path.exists() else []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("end", ENDS)
def test_promise_04_work_that_requests_have_begun_is_finished(end: Callable[[Server], None], threads: int) -> None:
    most = 8 if end is _wear_out else 0
    with Server(app=THREADS, workers=1, threads=threads, max_requests=most) as s:
        for how in ("thread", "executor", "queue", "timer", "asyncio"):
            assert s.get(f"/{how}?1.5").text == "begun"
        end(s)
        assert _done(s) == ["asyncio", "executor", "queue-0", "queue-1", "queue-2", "queue-3", "thread", "timer"]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", ["thread", "executor", "timer", "asyncio"])
def test_promise_04_the_only_work_that_a_request_has_begun_is_finished(how: str, threads: int) -> None:
    with Server(app=THREADS, workers=1, threads=threads) as s:
        assert s.get(f"/{how}?1").text == "begun"
        assert s.stop() == 0
        assert _done(s) == [how]


def test_daemon_threads_are_waited_for_as_little_as_by_python() -> None:
    with Server(app=THREADS, workers=1) as s:
        assert s.get("/daemon?3600").text == "begun"
        began = time.monotonic()
        assert s.stop() == 0
        assert time.monotonic() - began < 20


def test_worker_that_finishes_its_threads_takes_no_connection() -> None:
    with Server(app=THREADS, workers=1, reload_settle=0) as s:
        [old] = s.workers()
        assert s.get("/thread?3").text == "begun"
        s.signal(signal.SIGHUP)
        s.wait_line("retiring worker")
        for _ in range(20):
            assert s.get().text == "begun"
        assert lives(old) and _done(s) == []
        s.wait_line("reload done")
        assert _done(s) == ["thread"]


def test_promise_07_port_is_free_while_threads_of_an_orphan_are_finished() -> None:
    with Server(app=THREADS, workers=1, expect=["master is gone"]) as s:
        [worker] = s.workers()
        assert s.get("/thread?4").text == "begun"
        s.signal(signal.SIGKILL)
        s.wait_exit()
        wait_until(lambda: can_be_bound(s.port), "the port")
        assert lives(worker) and _done(s) == []
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert _done(s) == ["thread"]
        s.forget_pidfile()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_is_cut_off_when_the_grace_is_over_is_named(stop: signal.Signals) -> None:
    expect = ["grace is over", "worker overdue", "worker was asked for its stacks", "worker exited", "master is gone"]
    with Server(app=THREADS, workers=1, graceful_timeout="2s", expect=expect) as s:
        s.get("/thread?3600")
        [worker] = s.workers()
        s.signal(stop)
        s.wait_exit()
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert "threads=background-thread" in s.wait_line("grace is over; what the app has begun is cut off")
        if stop is signal.SIGKILL:
            s.forget_pidfile()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("end", [_reload, _stop, _retire, _kill_master])
def test_process_pool_that_was_used_ends_with_its_worker_at_once(end: Callable[[Server], None], method: str) -> None:
    with Server(app=POOL, workers=1, env={"METHOD": method}) as s:
        pids = [int(pid) for pid in s.get().text.split()]
        began = time.monotonic()
        end(s)
        assert time.monotonic() - began < 15, "half of the grace"
        wait_until(lambda: not any(map(lives, pids)), "the end of the pool")
        assert s.lines("worker overdue") == []


def test_process_pool_that_was_used_at_import_ends_with_its_worker_at_once() -> None:
    with Server(app=POOL, workers=1, env={"AT_IMPORT": "1"}) as s:
        pids = [int(pid) for pid in s.get().text.split()]
        _reload(s)
        wait_until(lambda: not any(map(lives, pids)), "the end of the pool")
        assert s.lines("worker overdue") == []


def test_process_pool_at_work_is_named_and_ends_when_the_grace_is_over() -> None:
    expect = ["grace is over", "worker overdue", "worker was asked for its stacks", "worker exited"]
    with Server(app=POOL, workers=1, graceful_timeout="2s", expect=expect) as s:
        pids = [int(pid) for pid in s.get("/long").text.split()]
        s.signal(signal.SIGTERM)
        s.wait_exit()
        line = s.wait_line("grace is over; what the app has begun is cut off")
        assert re.search(rf'processes="\d+ python[^"]*: forked by {re.escape(POOL)}, worker 0', line)
        wait_until(lambda: not any(map(lives, pids)), "the end of the pool")


@pytest.mark.parametrize("threads", [1, 3])
def test_process_pool_ends_with_an_overdue_worker(threads: int) -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
    with Server(app=POOL, workers=1, threads=threads, timeout="2s", expect=expect) as s:
        assert s.get("/hang").status == 504
        pids = [int(pid) for pid in (s.folder / "pool").read_text().split()]
        assert len(pids) == 2
        wait_until(lambda: not any(map(lives, pids)), "the end of the pool")


def _written(folder: Path, worker: str) -> dict[str, str]:
    with (
        gzip.open(folder / f"packed.{worker}.gz", "rt") as packed,
        zipfile.ZipFile(folder / f"archive.{worker}.zip") as z,
    ):
        special = {"packed": packed.read(), "archive": z.read("member").decode()}
    names = {"audit": f"audit.{worker}.log", "raw": f"raw.{worker}", "rows": f"rows.{worker}.csv"}
    names |= {"memory": f"memory.{worker}.log", "atexit": f"atexit.{worker}"}
    return {key: (folder / name).read_text() for key, name in names.items()} | special


WRITTEN = {
    "audit": "a line\n",
    "raw": "bytes\n",
    "rows": "a,row\n",
    "memory": "remembered\n",
    "atexit": "goodbye\n",
    "packed": "packed\n",
    "archive": "archived\n",
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("end", [_reload, _stop, _kill_master])
def test_promise_04_files_that_nobody_closed_are_whole(end: Callable[[Server], None], threads: int) -> None:
    with Server(app=FILES, workers=1, threads=threads) as s:
        worker = s.get().text
        end(s)
        assert _written(s.folder, worker) == WRITTEN
        assert f"printed by {worker}\n" in s.said()
        if not s.exited:
            _stop(s)
        assert list(s.folder.glob("temporary.*")) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_overdue_worker_keeps_what_it_has_written(threads: int) -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
    with Server(app=FILES, workers=1, threads=threads, timeout="1s", expect=expect) as s:
        [worker] = s.workers()
        assert s.get("/hang").status == 504
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert _written(s.folder, str(worker)) == WRITTEN
        assert f"printed by {worker}\n" in s.said()


def test_busy_orphan_keeps_what_it_has_written() -> None:
    with (
        Server(app=FILES, workers=1, timeout=0, graceful_timeout="2s", expect=["master is gone"]) as s,
        s.connect() as c,
    ):
        [worker] = s.workers()
        c.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: b"busy" in Path(f"/proc/{worker}/cmdline").read_bytes(), "the request in the app")
        s.signal(signal.SIGKILL)
        s.wait_exit()
        wait_until(lambda: not lives(worker), "the end of the worker")
        assert _written(s.folder, str(worker)) == WRITTEN
        s.forget_pidfile()


def test_app_that_cannot_boot_leaves_no_process_of_its_pool() -> None:
    expect = ["worker could not boot", "worker exited", "first start failed"]
    s = Server(app="fresh_app:app", workers=1, expect=expect, await_ready=False)
    s.write_app(
        "import concurrent.futures, multiprocessing, os, signal\n"
        "pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))\n"
        "pool.submit(os.getpid).result()\n"
        "multiprocessing.get_context('fork').Process(target=signal.pause).start()\n"
        "raise ValueError('no')\n"
    )
    with s:
        assert s.wait_exit() == 3
        wait_until(lambda: not s.alive(), "the end of every process")


def test_app_that_hangs_in_an_exit_handler_when_it_is_overdue_is_bounded() -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited", "degraded"]
    s = Server(app="fresh_app:app", workers=1, timeout="1s", expect=expect)
    s.write_app(
        "import atexit, time\natexit.register(time.sleep, 3600)\n"
        "def app(environ, start_response):\n    time.sleep(3600)\n"
    )
    with s:
        [worker] = s.workers()
        assert s.get("/").status == 504
        wait_until(lambda: not lives(worker), "the end of the worker")
        s.signal(signal.SIGINT)
        s.expect += ["grace is over", "worker overdue"]
        s.wait_exit()
