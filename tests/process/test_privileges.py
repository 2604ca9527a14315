"""Promises 7 and 12 as root: the master keeps what it must, workers are somebody else. Skipped without root."""

import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, wait_until
from tests.process.probes import auto_socket
from tests.process.roaming_python import NOBODY, RoamingPython, anybody_can_run
from tests.process.tools import can_be_bound, lives, one_request, status

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


APP = """
import os, time
def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    said = ""
    if path == "/status":
        said = open("/proc/self/status").read()
    elif path == "/complain":
        environ["wsgi.errors"].write("a complaint\\n")
    elif path == "/sleep":
        open("begun", "w").close()
        time.sleep(float(query))
    start_response("200 OK", [])
    return [(said or f"generation {environ['forkserve.generation']}").encode()]
"""


def serve(**arguments: Any) -> Server:
    """A server whose workers may be somebody else, with an app and an interpreter that they can read."""
    s = Server(app="fresh_app:app", **{"workers": 1, **arguments})
    s.folder.chmod(0o777)
    s.write_app(APP)
    return s if python is None else python.take_over(s)


python: RoamingPython | None = None  # None: ours can be read by anybody


@pytest.fixture(scope="module", autouse=True)
def _python_for_all() -> Iterator[None]:
    """Tests run where Python lies below a closed home, too: pyenv and uv put it there."""
    global python
    if anybody_can_run(sys.executable, {}):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="forkserve-python-") as place:
        os.chmod(place, 0o755)
        python = RoamingPython(Path(place) / "python")
        if not anybody_can_run(python.executable, python.environ):
            pytest.skip("another user may not read this checkout")
        yield
        python = None


def a_low_port() -> int:
    for port in range(1023, 600, -1):
        if can_be_bound(port):
            return port
    raise AssertionError("no low port is free")


def test_workers_have_the_user_its_groups_and_the_umask_and_the_master_stays_root() -> None:
    with serve(user="nobody", group="daemon", umask="027") as s:
        shown = dict(line.split(":\t", 1) for line in s.get("/status").text.splitlines() if ":\t" in line)
        assert shown["Uid"].split() == [str(NOBODY)] * 4
        assert set(shown["Gid"].split()) == {"1"}
        assert "0" not in shown["Groups"].split()
        assert shown["Umask"] == "0027"
        assert int(shown["CapEff"], 16) == 0
        assert status(s.pid, "Uid").split() == ["0"] * 4


@pytest.mark.parametrize("is_kept", [True, False])
def test_setuid_programs_that_workers_start_stay_who_they_are_unless_it_is_allowed(is_kept: bool) -> None:
    s = serve(user=NOBODY, no_new_privs=str(is_kept).lower())
    cat = s.folder / "cat"
    shutil.copy(shutil.which("cat") or "/bin/cat", cat)
    cat.chmod(0o4755)
    secret = s.folder / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    s.write_app(
        "import subprocess\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        f"    return [subprocess.run([{str(cat)!r}, {str(secret)!r}], capture_output=True).stdout]\n"
    )
    with s:
        [worker] = s.workers()
        assert status(worker, "NoNewPrivs") == str(int(is_kept))
        assert status(s.pid, "NoNewPrivs") == "0", "the master becomes another program by an upgrade"
        assert s.get().text == ("" if is_kept else "of root")


def test_promise_12_low_port_is_bound_beyond_the_change_of_user_and_at_a_reload() -> None:
    first, second = a_low_port(), 0
    config = f'bind = "127.0.0.1:{first}"\nuser = "nobody"\n'
    s = serve(config=config, reload_settle=0, expect=["socket handed in is not used"])
    with s:
        assert s.get_at(f"127.0.0.1:{first}", "/pid").status == 200
        second = a_low_port()
        s.config.write_text(f'bind = ["127.0.0.1:{first}", "127.0.0.1:{second}"]\nuser = "nobody"\n')
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get_at(f"127.0.0.1:{second}", "/pid").status == 200
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done", 2)
        assert s.get_at(f"127.0.0.1:{second}").text == "generation 3"
        [worker] = s.workers()
        assert status(worker, "Uid").split() == [str(NOBODY)] * 4


def test_log_files_can_be_opened_anew_by_workers_after_they_were_moved_away() -> None:
    s = serve(user="nobody")
    access = s.folder / "access.log"
    s.env["FORKSERVE_ACCESSLOG"] = str(access)
    with s:
        s.get("/pid")
        wait_until(lambda: access.exists() and access.read_text())
        for path in (access, s.error_log):
            path.rename(path.with_suffix(".1"))
        s.signal(signal.SIGUSR1)
        s.wait_line("log files reopened")
        wait_until(lambda: s.get("/pid") and access.read_text())
        s.get("/complain")  # the worker itself writes to the error log
        s.wait_line("a complaint")
        assert {access.stat().st_uid, s.error_log.stat().st_uid} == {NOBODY}


@pytest.mark.parametrize("user", ["nobody", ""])
def test_promise_07_busy_worker_of_another_user_does_not_outlive_the_master(user: str) -> None:
    """SIGIO reaches it, and it can open its end of the lifeline, though that was made by root."""
    s = serve(user=user, graceful_timeout="300ms", expect=["Timeout"])
    with s, s.connect() as sock:
        sock.sendall(one_request("/sleep?60"))
        [worker] = s.workers()
        wait_until((s.folder / "begun").exists)
        s.signal(signal.SIGKILL)
        wait_until(lambda: not lives(worker), patience_s=10)
        s.wait_exit()
        s.forget_pidfile()


@pytest.mark.parametrize(
    ("settings", "mode", "owner"),
    [
        ({}, 0o755, (0, 0)),
        ({"umask": "0"}, 0o777, (0, 0)),
        ({"socket_mode": "0660", "socket_user": "nobody", "socket_group": "daemon"}, 0o660, (NOBODY, 1)),
    ],
)
def test_unix_socket_has_the_mode_and_owner_of_the_settings(
    settings: dict[str, str], mode: int, owner: tuple[int, int]
) -> None:
    old = os.umask(0o022)
    try:
        s = serve(bind=["unix:web.sock"], **settings)
        with s:
            there = (s.folder / "web.sock").stat()
            assert stat.S_IMODE(there.st_mode) == mode
            assert (there.st_uid, there.st_gid) == owner
            assert s.get_at("unix:web.sock", "/pid").status == 200
    finally:
        os.umask(old)


def test_control_socket_hears_root_and_not_the_user_of_the_workers() -> None:
    with serve(user="nobody", expect=["control connection refused"]) as s:
        name = auto_socket(s.pid)
        for uid, heard in ((0, True), (NOBODY, False)):
            pid = os.fork()
            if pid == 0:
                os.setresuid(uid, uid, uid)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
                    try:
                        client.sendall(b'{"verb":"status"}\n')
                        answered = bool(client.recv(100))
                    except OSError:
                        answered = False
                os._exit(0 if answered is heard else 1)
            assert os.waitpid(pid, 0)[1] == 0


def test_user_that_does_not_exist_fails_the_start_and_is_rejected_at_a_reload() -> None:
    with serve(config='user = "nobody"\n', expect=["reload rejected"]) as s:
        s.config.write_text('user = "nosuchuser"\n')
        s.signal(signal.SIGHUP)
        assert "there is no such user" in s.wait_line("reload rejected")
        assert s.get("/pid").status == 200
    with serve(user="nosuchuser", await_ready=False) as s:
        assert s.wait_exit() == 2
        assert "user = 'nosuchuser': there is no such user" in s.said()


def test_environment_and_import_path_reach_the_app_and_change_at_a_reload(tmp_path: Path) -> None:
    (tmp_path / "elsewhere_app.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [repr((os.environ.get('COLOUR'), os.environ.get('SHAPE'))).encode()]\n"
    )
    s = Server(
        app="elsewhere_app:app", flags=["--pythonpath", f"/nowhere,{tmp_path}", "-e", "COLOUR=red=dark"],
        config='env = { "SHAPE" = "round" }\n', reload_settle=0,
    )  # fmt: skip
    with s:
        assert s.get().text == "('red=dark', None)", "a flag wins over the file"
    s = Server(app="elsewhere_app:app", pythonpath=tmp_path, config='env = { "SHAPE" = "round" }\n', reload_settle=0)
    with s:
        assert s.get().text == "(None, 'round')"
        s.config.write_text('env = { "COLOUR" = "blue" }\n')
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get().text == "('blue', None)"


def test_daemon_is_refused_in_one_line_that_says_what_to_do_instead() -> None:
    with serve(flags=["-D"], await_ready=False) as s:
        assert s.wait_exit() == 2
        [line] = s.said().splitlines()
        assert "there is no --daemon" in line and "systemd" in line
