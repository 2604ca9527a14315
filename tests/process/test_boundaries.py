"""Who may become whom: what the worker's user or another local user can put in our way gains nothing. docs/security.md.

Those of root's files need root.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Server, clean_environ, wait_until
from tests.process.roaming_python import NOBODY
from tests.process.test_privileges import _python_for_all, serve  # noqa: F401  # the first is a fixture

SITE = "tests.process.site:app"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can be led astray")


def served_by_other(**settings: Any) -> Server:
    """A master that is root, workers that are not, and a folder that is theirs."""
    s = serve(user="nobody", **settings)
    theirs = s.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    return s


def link(path: Path, target: Path, owner: int) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)


@as_root
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_link_in_place_of_the_log_leads_root_nowhere(number: signal.Signals) -> None:
    s = served_by_other(expect=["log could not be reopened", "reload rejected"])
    log, secret = s.folder / "theirs" / "error.log", s.folder / "secret"
    secret.write_text("root's\n")
    s.error_log = log
    s.env["FORKSERVE_ERRORLOG"] = str(log)
    with s:
        old = s.folder / "theirs" / "old.log"
        log.rename(old)
        link(log, secret, NOBODY)
        s.error_log = old
        s.signal(number)
        wait_until(lambda: s.lines("log could not be reopened") or s.lines("reload rejected"), "the word about it")
        assert "it is a link that another user has made" in old.read_text()
        assert s.get("/status").status == 200
        assert secret.read_text() == "root's\n"
        assert secret.stat().st_uid == 0


@as_root
def test_a_link_in_place_of_the_log_is_refused_at_the_start() -> None:
    s = served_by_other(await_ready=False)
    log, secret = s.folder / "theirs" / "error.log", s.folder / "secret"
    secret.write_text("root's\n")
    link(log, secret, NOBODY)
    s.env["FORKSERVE_ERRORLOG"] = str(log)
    s.error_log = s.folder / "none"
    s.error_log.touch()
    with s:
        assert s.wait_exit() != 0
        assert "it is a link that another user has made" in s.said()
        assert secret.read_text() == "root's\n"


@as_root
def test_a_link_to_the_log_that_root_has_made_is_followed() -> None:
    s = served_by_other()
    log, real = s.folder / "theirs" / "error.log", s.folder / "elsewhere.log"
    link(log, real, 0)
    s.error_log = log
    s.env["FORKSERVE_ERRORLOG"] = str(log)
    with s:
        assert "serving" in real.read_text()


def test_a_link_in_place_of_the_pidfile_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("0")
    (tmp_path / "pid").symlink_to(victim)
    ran = subprocess.run(
        [sys.executable, "-m", "forkserve", "-b", "127.0.0.1:0", "--pid", str(tmp_path / "pid"), SITE],
        cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "cannot be written: Too many levels of symbolic links" in ran.stderr
    assert victim.read_text() == "0"


def test_who_may_only_read_the_pidfile_cannot_hold_it() -> None:
    s = Server(app=SITE, workers=1)
    s.pidfile.write_text("1\n")
    with s.pidfile.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        with s:
            assert s.pidfile.read_text() == f"{s.pid}\n"


RESIZES = """
import os

def app(environ, start_response):
    master = os.getppid()
    for name in os.listdir(f"/proc/{master}/fd"):
        place = f"/proc/{master}/fd/{name}"
        if "scoreboard" in os.readlink(place):
            fd = os.open(place, os.O_RDWR)
            try:
                os.ftruncate(fd, int(environ["QUERY_STRING"]))
                said = "resized"
            except OSError as error:
                said = error.strerror
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
"""


@pytest.mark.parametrize("size", [0, 1 << 30])
def test_a_worker_cannot_resize_the_scoreboard(size: int) -> None:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(RESIZES)
    with s:
        assert s.get(f"/?{size}").text == "Operation not permitted"
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")


def test_modules_of_the_folder_that_root_stands_in_are_not_the_masters(tmp_path: Path) -> None:
    for name in ("msgspec", "toml", "typing", "httptools", "setproctitle"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    ran = subprocess.run(
        [sys.executable, "-m", "forkserve", "--print-config"],
        cwd=tmp_path, env={**clean_environ(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "ran").exists()


def test_the_name_of_the_control_socket_can_be_taken_and_nothing_is_lost() -> None:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    with ExitStack() as stack:
        last = subprocess.Popen(["true"])
        last.wait()
        for pid in range(last.pid + 1, last.pid + 400):
            taken = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            taken.bind(f"\0forkserve/{namespace}/{pid}")
            taken.listen()
        s = stack.enter_context(Server(app=SITE, workers=1, expect=["name of the control socket is taken"]))
        if not s.lines("name of the control socket is taken"):
            pytest.skip("the machine has started too many processes meanwhile")
        for flag in (["--pid", str(s.pid)], ["--pidfile", str(s.pidfile)]):
            ran = subprocess.run(
                [sys.executable, "-m", "forkserve.ops.ctl", *flag, "status", "--json"],
                capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            assert f'"pid":{s.workers()[0]}' in ran.stdout


WORDS_APP = """
import json
def app(environ, start_response):
    start_response("200 OK", [])
    names = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_REAL_IP")
    return [json.dumps([environ.get(name) for name in names]).encode()]
"""
SAID = {"X_Forwarded_For": "192.0.2.7", "X_Forwarded_Proto": "https", "X_Real_IP": "192.0.2.8"}


@pytest.mark.parametrize("threads", [1, 2])
def test_words_of_a_proxy_that_nobody_has_named_reach_the_app_and_change_nothing(threads: int) -> None:
    s = Server(app="words_app:app", workers=1, threads=threads, forwarded_allow_ips="10.0.0.1")
    s.write_app(WORDS_APP, "words_app")
    with s:
        for _ in range(3):
            assert s.get(**SAID).json == ["127.0.0.1", "http", "192.0.2.7", "https", "192.0.2.8"]
        [line] = s.lines("proxy is not believed")
        assert "forwarded_allow_ips" in line and "127.0.0.1:" in line


def test_variable_that_gunicorn_reads_names_the_proxy_too() -> None:
    s = Server(app="words_app:app", workers=1, env={"FORWARDED_ALLOW_IPS": "127.0.0.0/8"})
    s.write_app(WORDS_APP, "words_app")
    with s:
        assert s.get(**SAID).json == ["192.0.2.7", "https", "192.0.2.7", "https", "192.0.2.8"]
        assert s.lines("proxy is not believed") == []


FLOOD_APP = """
import gc, threading
[channel] = [found for found in gc.get_objects() if type(found).__name__ == "Channel" and not found.closed]
def flood():
    while True:
        channel.send(b"nonsense")
threading.Thread(target=flood, daemon=True).start()
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"here"]
"""


def test_a_worker_that_floods_the_master_is_one_line_and_holds_up_nothing() -> None:
    s = Server(app="flood_app:app", workers=1, expect=["unknown message from a child"])
    s.write_app(FLOOD_APP, "flood_app")
    with s:
        s.wait_line("unknown message from a child")
        s.signal(signal.SIGTTIN)
        s.wait_line("worker ready", count=2)
        assert s.get().text == "here"
        assert s.stop() == 0
        assert len(s.lines("unknown message from a child")) <= 2, "one for each worker"
