"""Promise 12, files: a unix socket, a pidfile or a control socket whose file somebody removed is made again."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Server, wait_until
from tests.process.tools import answers

QUICK: dict[str, Any] = {"reload_settle": 0, "workers": 2}
SOCKET_AGAIN = "file of a unix socket was gone; made again"


def at_a_path(*expect: str, **settings: Any) -> Server:
    s = Server(app="fresh_app:app", bind=["unix:app.sock"], expect=expect, **QUICK, **settings)
    s.write_app(answers("one"))
    return s


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_promise_12_a_unix_socket_whose_file_was_removed_is_bound_again(number: signal.Signals) -> None:
    with at_a_path(SOCKET_AGAIN) as s:
        path = s.folder / "app.sock"
        path.unlink()
        s.signal(number)
        s.wait_line("reload done")
        assert "app.sock" in s.wait_line(SOCKET_AGAIN)
        assert s.get_at("unix:app.sock").text.startswith("one 2 ")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done", 2)
        assert len(s.lines(SOCKET_AGAIN)) == 1
        assert s.get_at("unix:app.sock").text.startswith("one 3 ")
    assert not path.exists()


def test_promise_12_there_is_no_gap_while_the_path_leads_to_another_file() -> None:
    """A connection that was made before is served; new ones find the new file from the moment in which it is there."""
    with at_a_path(SOCKET_AGAIN) as s, s.connect("unix:app.sock") as kept:
        path = s.folder / "app.sock"
        path.unlink()
        failures: list[BaseException] = []
        came: list[int] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    came.append(s.get_at("unix:app.sock").status)
                except FileNotFoundError as error:
                    if came:
                        failures.append(error)
                except OSError as error:
                    failures.append(error)

        client = threading.Thread(target=ask)
        client.start()
        try:
            s.signal(signal.SIGHUP)
            s.wait_line("reload done")
            wait_until(lambda: len(came) > 20, "answers")
        finally:
            over.set()
            client.join()
        assert failures == []
        assert set(came) == {200}
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")


def test_promise_12_a_stale_file_that_somebody_put_there_is_replaced_too() -> None:
    with at_a_path(SOCKET_AGAIN) as s:
        path = s.folder / "app.sock"
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.bind(str(path))  # and never listens
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get_at("unix:app.sock").text.startswith("one 2 ")


def test_promise_12_a_path_that_somebody_else_serves_is_left_alone_and_said() -> None:
    with at_a_path("path of a unix socket was taken") as s:
        path = s.folder / "app.sock"
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.bind(str(path))
            stranger.listen()
            s.signal(signal.SIGHUP)
            s.wait_line("reload done")
            assert "app.sock" in s.wait_line("path of a unix socket was taken")
            s.stop()
            assert path.exists()


def test_promise_12_code_that_cannot_boot_takes_the_new_file_away_and_the_next_reload_makes_it() -> None:
    expected = (SOCKET_AGAIN, "could not boot", "reload failed", "worker exited")
    with at_a_path(*expected) as s:
        path = s.folder / "app.sock"
        path.unlink()
        s.write_app("raise RuntimeError('broken')")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        wait_until(lambda: not path.exists(), "the end of a socket that nobody would serve")
        s.write_app(answers("two"))
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get_at("unix:app.sock").text.startswith("two ")
        assert len(s.lines("no longer listening")) == 1


def test_a_pidfile_that_was_removed_is_made_again() -> None:
    with Server(app="tests.process.site:app", expect=["pidfile was gone; made again"], **QUICK) as s:
        for count, number in enumerate((signal.SIGHUP, signal.SIGUSR2), 1):
            s.pidfile.unlink()
            s.signal(number)
            s.wait_line("reload done", count)
            assert s.pidfile.read_text() == f"{s.pid}\n"
            assert str(s.pidfile) in s.wait_line("pidfile was gone; made again", count)
        assert "held by a running forkserve" in second_start(s.pidfile, s)


def second_start(pidfile: Path, s: Server) -> str:
    with Server(app="tests.process.site:app", pidfile=str(pidfile), errorlog="-", await_ready=False) as second:
        assert second.wait_exit() != 0
        return second.said()


def test_a_control_socket_that_was_removed_is_made_again() -> None:
    again = "file of the control socket was gone; made again"
    with Server(app="tests.process.site:app", control_socket="control", expect=[again], **QUICK) as s:
        (s.folder / "control").unlink()
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        s.wait_line(again)
        asked = subprocess.run(
            [sys.executable, "-m", "forkserve.ops.ctl", "-s", str(s.folder / "control"), "status"],
            capture_output=True, text=True, cwd=ROOT, check=False, timeout=60,
        )  # fmt: skip
        assert "2 of 2 workers ready" in asked.stdout
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done", 2)
    assert not (s.folder / "control").exists()
