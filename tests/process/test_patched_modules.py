"""Apps that patch the standard library, or set defaults for all of it, while they are imported or later."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.client import Client
from tests.harness import ROOT, Server, clean_environ, read_to_end, wait_until
from tests.process.tools import one_request

HABITS = "tests.apps.habits"
PLAIN = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'plain']\n"
REFUSED = "the app has patched Python's threads"


def need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; it is in the dev extra where it can be built")


def patched_by(library: str, app: str = "", **settings: object) -> Server:
    need(library)
    env = {"PYTHONWARNINGS": "ignore", **settings.pop("env", {})}  # type: ignore[dict-item]
    s = Server(app=app or f"{HABITS}.patch_{library}:app", env=env, **settings)  # type: ignore[arg-type]
    s.write_app(PLAIN)
    return s


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("bind", [(), ("unix:sock",)], ids=["tcp", "unix"])
def test_sync_workers_boot_and_serve_whatever_the_app_patches(library: str, bind: tuple[str, ...]) -> None:
    with patched_by(library, workers=2, bind=bind, accesslog="access.log") as s:
        address = bind[0] if bind else ""
        slow = s.connect(address)
        slow.sendall(one_request("/?0.3"))
        for _ in range(5):
            assert s.get_at(address, "/").text == "0"
        assert read_to_end(slow).startswith(b"HTTP/1.1 200")
        slow.close()
        with s.connect(address) as sock:  # a body that is kept in a file
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n")
            sock.sendall(b"x" * 3_000_000)
            assert read_to_end(sock).endswith(b"3000000")
        old = s.workers()
        s.signal(signal.SIGUSR1)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: not s.workers_from(old), "the end of the old ones")
        [one, _] = s.workers()
        os.kill(one, signal.SIGTERM)
        s.wait_line("worker retired itself")
        assert s.get_at(address, "/").text == "0"


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_overdue_request_of_a_patched_app_is_answered_and_its_worker_replaced(library: str) -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited"]
    with patched_by(library, workers=1, timeout="500ms", expect=expect) as s:
        assert s.exchange(one_request("/?20")).startswith(b"HTTP/1.1 504")
        s.wait_line("worker ready", count=2)
        assert s.get("/").text == "0"


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_reload_into_patched_threads_is_refused_in_one_line_and_the_old_generation_serves(library: str) -> None:
    expect = ["worker could not boot", "reload failed"]
    with patched_by(library, app="fresh_app:app", threads=3, reload_retries=0, expect=expect) as s:
        [old] = s.workers()
        s.write_app(f"from {HABITS}.patch_{library} import app")
        s.signal(signal.SIGHUP)
        assert REFUSED in s.wait_line("reload failed")
        assert "    " not in s.log(), "one plain line, and no traceback"
        wait_until(lambda: s.workers() == [old], "that the old generation is alone again")
        assert s.get("/").text == "plain"


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_app_that_patches_all_but_threads_is_served_in_threads(library: str) -> None:
    with patched_by(library, workers=1, threads=3, env={"PATCH": "thread"}) as s, s.connect() as slow:
        slow.sendall(one_request("/?0.5"))
        for _ in range(5):
            assert s.get("/").text == "0"
        assert read_to_end(slow).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_check_config_refuses_patched_threads(library: str) -> None:
    need(library)
    app = f"{HABITS}.patch_{library}:app"
    command = [sys.executable, "-W", "ignore", "-m", "forkserve", "--check-config", "--threads", "2", app]
    ran = subprocess.run(command, env=clean_environ(), cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, REFUSED in ran.stderr, "Traceback" in ran.stderr) == (3, True, False)


def test_threads_that_take_no_request_are_overdue() -> None:
    expect = ["request overdue", "worker was asked for its stacks", "worker exited"]
    with Server(app=f"{HABITS}.patch_thread_start:app", threads=2, workers=1, timeout="1s", expect=expect) as s:
        [old] = s.workers()
        answer = s.exchange(one_request("/"))
        assert answer.startswith(b"HTTP/1.1 503"), "it was not begun"
        assert "no thread takes them" in s.wait_line("request overdue")
        wait_until(lambda: not s.workers_from([old]), "its end")
        s.wait_line("worker ready", count=2)


# a default time-out for every socket

KINDS = [(1, "tcp"), (3, "tcp"), (1, "unix:sock"), (3, "unix:sock")]


def with_default(threads: int, bind: str, **settings: object) -> Server:
    bound = () if bind == "tcp" else (bind,)
    return Server(app=f"{HABITS}.default_socket_timeout:app", workers=1, threads=threads, bind=bound, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threads", "bind"), KINDS)
def test_end_of_idle_connections_holds_up_nobody_under_a_default_timeout(threads: int, bind: str) -> None:
    with with_default(threads, bind, keepalive="1s") as s:
        address = "" if bind == "tcp" else bind
        idle = [s.connect(address) for _ in range(3)]
        for sock in idle:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += sock.recv(1000)
        began = time.monotonic()
        longest = 0.0
        while time.monotonic() - began < 3:
            asked = time.monotonic()
            assert s.get_at(address, "/").status == 200
            longest = max(longest, time.monotonic() - asked)
        for sock in idle:
            with sock:
                assert sock.recv(100) == b"", "they were closed meanwhile"
        assert longest < 2


@pytest.mark.parametrize(("threads", "bind"), KINDS)
def test_slow_reader_gets_all_of_a_response_under_a_default_timeout_that_is_over(threads: int, bind: str) -> None:
    source = f"from {HABITS}.default_socket_timeout import app, socket\nsocket.setdefaulttimeout(0.2)\n"
    bound = () if bind == "tcp" else (bind,)
    s = Server(app="fresh_app:app", workers=1, threads=threads, bind=bound, limit_response_spool="2MB")
    s.write_app(source)
    size = 30_000_000
    with s, s.connect("" if bind == "tcp" else bind) as sock:
        sock.sendall(b"GET /?%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
        got = len(sock.recv(100_000))
        time.sleep(1)  # it is this client that is slow
        while data := sock.recv(1 << 20):
            got += len(data)
        assert got > size


def test_slow_upload_holds_up_nobody_under_a_default_timeout() -> None:
    with with_default(1, "tcp", keepalive="1s", body_timeout="10s") as s, Client(s) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        assert s.get("/").status == 200
        client.send(b"def")
        assert client.reply().body == b"6"
