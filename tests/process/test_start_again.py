"""A start right after the master was killed: it waits a moment for what the old workers hold, then it names them."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.harness import ROOT, Server, clean_environ, wait_until
from tests.process.tools import Gate, lives, one_request

SITE = "tests.process.site:app"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forkserve", *words, SITE]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=clean_environ(), timeout=60, check=False
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_waits_until_the_workers_of_a_killed_master_have_left(kind: str) -> None:
    with TemporaryDirectory() as folder:
        bind = f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{folder}/sock"
        expect = ["master is gone", "waiting for who leaves"]
        old = Server(app=SITE, bind=[bind], workers=1, expect=expect)
        new = Server(app=SITE, bind=[bind], workers=1, pidfile=str(old.pidfile), await_ready=False, expect=expect)
        with old, Gate(old) as gate:
            [worker] = old.workers()
            with old.connect(bind) as sock:
                sock.sendall(one_request(gate.path))
                gate.wait_entered()
                old.signal(signal.SIGKILL)
                with new:
                    line = new.wait_line("waiting for who leaves")
                    assert f"the address is in use by pid {worker} (forkserve: worker 0" in line
                    gate.open()
                    new.wait_ready()
                    assert not lives(worker) or not new.lines("bind =")
                    assert len(new.lines("waiting for who leaves")) == 1
                assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract"])
def test_it_gives_up_after_a_moment_and_names_who_listens(kind: str) -> None:
    with TemporaryDirectory() as folder:
        family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
        with socket.socket(family) as sock:
            place: object = {"tcp": ("127.0.0.1", 0), "unix": f"{folder}/sock", "abstract": f"\0{folder}"}[kind]
            sock.bind(place)  # type: ignore[arg-type]  # each family has its own kind of place
            sock.listen()
            port = sock.getsockname()[1] if kind == "tcp" else 0
            bind = {"tcp": f"127.0.0.1:{port}", "unix": f"unix:{folder}/sock", "abstract": f"unix:@{folder}"}[kind]
            began = time.monotonic()
            ran = run("-b", bind)
            assert ran.returncode == 1
            assert time.monotonic() - began > 4.0
            last = ran.stderr.splitlines()[-1]
            me = Path("/proc/self").resolve().name
            assert last.startswith(f"forkserve: error: bind = '{bind}': the address is in use by pid {me} (")
            assert last.endswith("); stop it or choose another")


def test_a_signal_ends_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        bind = f"127.0.0.1:{sock.getsockname()[1]}"
        s = Server(app=SITE, bind=[bind], await_ready=False, expect=["waiting for who leaves"])
        with s:
            s.wait_line("waiting for who leaves")
            began = time.monotonic()
            s.signal(signal.SIGTERM)
            wait_until(lambda: s.exited, "its end")
            assert time.monotonic() - began < 3.0
            assert "the address is in use by pid" in s.said()


def test_a_pidfile_of_a_living_master_is_refused_at_once() -> None:
    with Server(app=SITE, workers=1) as s:
        began = time.monotonic()
        ran = run("-b", "127.0.0.1:0", "--pid", str(s.pidfile))
        assert time.monotonic() - began < 4.0
        assert ran.returncode == 1
        assert f"held by a running forkserve, pid {s.pid}; stop it or use another pidfile" in ran.stderr
        assert "waiting" not in ran.stderr
