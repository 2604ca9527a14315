"""Every duration at the longest that settings take, a hundred years: nothing may count it in too small a number."""

import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from forkserve.config.options import Kind
from forkserve.config.settings import declared
from tests.client import Client
from tests.harness import ROOT, Server, clean_environ, wait_until
from tests.process.probes import end_of, start_ctl
from tests.process.tools import Gate, lives

LONGEST = "36525d"
DURATIONS = [name for name, one in declared().items() if one.option.kind is Kind.DURATION]


BIG = 8 << 20
APP = f"""
import os, time
def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    body = environ["wsgi.input"].read()
    if path == "/gate":
        open(query, "rb").read()
    said = bytes({BIG}) if path == "/big" else f"{{environ['forkserve.generation']}} {{len(body)}}".encode()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]
"""


def _serve(names: Iterable[str], **settings: Any) -> Server:
    s = Server(app="fresh_app:app", **{"workers": 2, "keepalive": "60s", **settings, **dict.fromkeys(names, LONGEST)})
    s.write_app(APP)
    return s


def _use(s: Server) -> None:
    """What waits longest: a slow request, a slow upload, a slow reader, an idle connection."""
    idle = Client(s)
    with idle, Client(s, window=1 << 16) as reader, Client(s) as uploader, Client(s) as waiting, Gate(s) as gate:
        assert idle.get().reply().code == 200
        reader.get("/big").read_head()
        uploader.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n" + b"x" * 100)
        assert s.get().status == 200
        assert uploader.send(b"x" * 100).reply().body.endswith(b" 200")
        waiting.get(gate.path)
        gate.wait_entered()
        gate.open()
        assert waiting.reply().code == 200
        assert reader.rest_of(BIG) == bytes(BIG)
        assert idle.get().reply().code == 200
    os.unlink(s.folder / "gate")


@pytest.mark.parametrize(
    ("names", "threads"),
    [*(pytest.param([name], 1, id=name) for name in DURATIONS), pytest.param(DURATIONS, 1, id="all"),
     pytest.param(DURATIONS, 2, id="all-with-threads")],
)  # fmt: skip
def test_service_with_the_longest_duration_serves_reloads_and_stops(names: list[str], threads: int) -> None:
    with _serve(names, threads=threads) as s:
        _use(s)
        s.signal(signal.SIGHUP)
        if "reload_settle" in names:  # a trial of a hundred years: one of the new generation serves beside the old ones
            s.wait_line("worker ready", 3)
        else:
            s.wait_line("reload done")
        _use(s)
        s.signal(signal.SIGTERM)
        if "drain_delay" in names:
            s.wait_line("draining")
            _use(s)
            s.signal(signal.SIGTERM)  # quick
        assert s.wait_exit() == 0


def test_upgrade_hands_the_longest_durations_on() -> None:
    with _serve([name for name in DURATIONS if name not in ("reload_settle", "drain_delay")], workers=1) as s:
        s.signal(signal.SIGUSR2)
        s.wait_line("forkserve resumed")
        s.wait_line("reload done")
        _use(s)


def test_worker_whose_master_was_killed_finishes_within_the_longest_grace() -> None:
    with _serve(["graceful_timeout"], workers=1) as s, Client(s) as client, Gate(s) as gate:
        [worker] = s.workers()
        s.expect = ["master is gone"]
        client.get(gate.path)
        gate.wait_entered()
        s.signal(signal.SIGKILL)
        s.wait_exit()
        gate.open()
        assert client.reply().code == 200
        wait_until(lambda: not lives(worker), "the end of the orphan")
        s.forget_pidfile()


def test_check_of_an_app_waits_for_the_longest_boot() -> None:
    with _serve([], await_ready=False) as s:
        s.stop()
        command = [sys.executable, "-m", "forkserve", "--boot-timeout", LONGEST, "--check-config", "slow_app:app"]
        s.write_app("import time\ntime.sleep(0.3)\ndef app(environ, start_response): ...\n", "slow_app")
        env = {**clean_environ(), "PYTHONPATH": f"{s.folder}{os.pathsep}{ROOT}"}
        ran = subprocess.run(command, env=env, cwd=s.folder, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (0, "settings and app are good\n"), ran.stderr


def test_cgi_program_may_take_the_longest_time() -> None:
    with Server(app="forkserve.apps.cgi:folder('.', timeout=3155760000.0)", await_ready=False) as s:
        (s.folder / "hello").write_text("#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nhello'\n")
        (s.folder / "hello").chmod(0o755)
        s.wait_ready()
        assert s.get("/hello").text == "hello"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the number of poll() there only")
@pytest.mark.parametrize("days", [25, 50, 36525])
def test_forkservectl_waits_for_the_longest_time(days: int) -> None:
    """poll() takes milliseconds in an int: what is beyond it must not become for ever, or a moment."""
    with _serve([], workers=1, reload_settle=LONGEST) as s:
        ctl = start_ctl(s, "reload", "--wait", "--timeout", str(days * 86400))
        try:
            s.wait_line("worker ready", 2)
            assert 86400_000 < wait_until(lambda: _poll_of(ctl.pid), "forkservectl's wait") < 2**31
        finally:
            ctl.kill()
            end_of(ctl)


def _poll_of(pid: int) -> int:
    """The milliseconds that the poll() has in which a process is for a while already; 0: it is in another call."""
    found = re.match(r"7 \S+ \S+ (0x[0-9a-f]+)", Path(f"/proc/{pid}/syscall").read_text())
    left = int(found[1], 16) & 0xFFFFFFFF if found else 0
    return left - (1 << 32) if left >= 1 << 31 else left if left > 60_000 else 0  # below: its patience for an answer
