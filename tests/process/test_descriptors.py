"""Descriptors: each worker allows itself what the settings need; the master's limits stay, and it warns in time."""

import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from forkserve.unix.descriptors import needed
from tests.client import Client
from tests.harness import Server, wait_until
from tests.process.roaming_python import NOBODY, RoamingPython, anybody_can_run
from tests.process.tools import sockets

SITE = "tests.process.site:app"
DEFAULT = needed(1000, 1, 1)
WARNING = "workers may run out of descriptors"
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")

pytestmark = pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit (util-linux)")


def serve(soft: int, hard: int, app: str = SITE, before: tuple[str, ...] = (), **arguments: Any) -> Server:
    """A server that is started with these limits of descriptors."""
    return Server(app=app, launcher=("prlimit", f"--nofile={soft}:{hard}", *before), **{"workers": 1, **arguments})


def limits(pid: int) -> tuple[int, int]:
    """The soft and the hard limit of descriptors of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    [found] = [line for line in lines if line.startswith("Max open files")]
    soft, hard = found.split()[3:5]
    return int(soft), int(hard)


def test_default_needs_no_more_than_common_hard_limits() -> None:
    assert DEFAULT == 2084
    assert needed(1000, 1024, 16) < 4096


@pytest.mark.parametrize(("soft", "connections", "threads"), [(1024, 1000, 1), (256, 700, 9)])
def test_worker_raises_its_own_limit_to_what_the_settings_need_and_the_master_keeps_its_own(
    soft: int, connections: int, threads: int
) -> None:
    with serve(soft, 4096, worker_connections=connections, threads=threads) as s:
        assert limits(s.workers()[0]) == (needed(connections, threads, 1), 4096)
        assert limits(s.pid) == (soft, 4096)


def test_limit_that_is_higher_stays() -> None:
    with serve(3000, 4096) as s:
        assert [limits(pid) for pid in (s.pid, *s.workers())] == [(3000, 4096)] * 2


def test_limit_follows_the_settings_of_a_reload_and_outlives_an_upgrade_of_the_master() -> None:
    with serve(300, 4096, config="worker_connections = 500\n", reload_settle=0) as s:
        assert limits(s.workers()[0]) == (needed(500, 1, 1), 4096)
        s.config.write_text("worker_connections = 200\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert limits(s.workers()[0]) == (needed(200, 1, 1), 4096), "nothing is left of the one before"
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done", 2)
        assert limits(s.pid) == (300, 4096)
        assert limits(s.workers()[0]) == (needed(200, 1, 1), 4096)


def test_hard_limit_below_the_need_is_told_once_with_the_remedy_and_taken_as_far_as_it_goes() -> None:
    with serve(128, 512, config="", reload_settle=0, expect=[WARNING]) as s:
        [line] = s.lines(WARNING)
        for said in ("[warning]", "worker_connections=1000", f"needed={DEFAULT}", "hard_limit=512",
                     f"LimitNOFILE={DEFAULT}", "ulimit -Hn"):  # fmt: skip
            assert said in line
        assert limits(s.workers()[0]) == (512, 512)
        for reload, (config, count) in enumerate(
            [("", 1), ("worker_connections = 900\n", 2), ("worker_connections = 200\n", 2), ("", 3)], start=1
        ):
            s.config.write_text(config)
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", reload)
            assert len(s.lines(WARNING)) == count
        assert limits(s.pid) == (128, 512)


def test_programs_that_the_app_starts_inherit_the_limit() -> None:
    with serve(256, 4096, app="fresh_app:app", await_ready=False) as s:
        s.write_app(
            "import subprocess\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [subprocess.run(['sh', '-c', 'ulimit -n; prlimit --nofile=1024: sh -c \"ulimit -n\"'],"
            " capture_output=True).stdout]\n"
        )
        s.wait_ready()
        assert s.get().text.split() == [str(DEFAULT), "1024"]


def test_worker_sends_files_to_as_many_as_it_may_hold() -> None:
    """A socket and a file each: a soft limit of 80 was enough for a third of them."""
    count, size = 100, 4 << 20
    with (
        serve(
            80,
            4096,
            worker_connections=count,
            static="/files=.",
            await_ready=False,
            send_timeout=300,
            expect=["worker_connections is reached"],
        ) as s,
        ExitStack() as clients,
    ):
        with (s.folder / "big").open("wb") as file:
            file.truncate(size)
        s.wait_ready()
        [worker] = s.workers()
        waiting = []
        for _ in range(count):  # one by one: who has come and is not read yet makes room for others
            waiting.append(clients.enter_context(Client(s, window=1 << 14)).get("/files/big"))
            assert waiting[-1].read_head().code == 200
        wait_until(lambda: sockets(worker) >= count, "all to be held")
        for client in waiting[::20]:
            assert client.rest_of(size) == bytes(size)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="the other tests do it where we are not root"
)
def test_worker_of_a_service_that_never_was_root_raises_its_limit_too() -> None:
    with tempfile.TemporaryDirectory(prefix="forkserve-python-") as place:
        os.chmod(place, 0o755)
        s = serve(256, 4096, before=AS_NOBODY)
        if not anybody_can_run(sys.executable, {}):
            python = RoamingPython(Path(place) / "python")
            if not anybody_can_run(python.executable, python.environ):
                pytest.skip("another user may not read this checkout")
            python.take_over(s)
        s.folder.chmod(0o777)
        s.notify.path.chmod(0o777)
        with s:
            assert limits(s.workers()[0]) == (DEFAULT, 4096)
            assert limits(s.pid) == (256, 4096)
