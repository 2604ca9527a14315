"""Promises 1 and 2: a service that was started in a link serves, after a reload, the release that it shows now."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.harness import Server, wait_until

QUICK: dict[str, Any] = {"reload_settle": 0, "workers": 1}
APP = """
import os, sys
import helper

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    strangers = [place for place in sys.path if "/releases/" in place and not place.startswith(os.getcwd())]
    return [f"{helper.WORD} {os.path.basename(os.getcwd())} {strangers}".encode()]
"""


def release(s: Server, name: str, app: str = APP) -> Path:
    folder = s.folder / "releases" / name
    (folder / "lib").mkdir(parents=True)
    (folder / "site_app.py").write_text(app)
    (folder / "lib" / "helper.py").write_text(f"WORD = {name!r}\n")
    return folder


def turn(s: Server, name: str) -> None:
    """Have the link lead to this release."""
    (s.folder / "next").symlink_to(f"releases/{name}")
    (s.folder / "next").rename(s.folder / "current")


def started_in_a_link(**settings: Any) -> Server:
    """By a shell that went there, as people and many init scripts do; with a relative folder on Python's path."""
    server = Server(
        app="site_app:app", launcher=["bash", "-c", 'cd current && exec "$@"', "shell"], **QUICK, **settings
    )
    server.env["PYTHONPATH"] += os.pathsep + "lib"
    release(server, "one")
    release(server, "two")
    turn(server, "one")
    return server


def test_promise_01_a_reload_serves_the_release_that_the_link_shows_now() -> None:
    with started_in_a_link() as s:
        assert s.get().text == "one one []"
        turn(s, "two")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get().text == "two two []"
        assert f"now={s.folder}/releases/two" in s.wait_line("folder leads elsewhere now")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done", 2)
        assert len(s.lines("folder leads elsewhere now")) == 1, "nothing was turned before the second"


def test_promise_02_a_release_that_cannot_boot_leaves_the_old_one_serving_and_respawning() -> None:
    with started_in_a_link() as s:
        s.expect += ["could not boot", "reload failed", "worker exited", "degraded"]
        release(s, "broken", "raise RuntimeError('broken')\n")
        turn(s, "broken")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        assert s.get().text == "one one []"
        old = wait_until(s.workers)
        s.kill(old[0])
        wait_until(lambda: s.workers() and s.workers() != old, "a replacement")
        s.wait_line("worker ready", 2)
        assert s.get().text == "one one []", "the replacement has the code of its own generation"
        turn(s, "two")
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done")
        assert s.get().text == "two two []"


def test_promise_11_who_is_replaced_after_an_upgrade_stands_where_its_generation_did() -> None:
    with started_in_a_link() as s:
        s.expect += ["could not boot", "reload failed", "worker exited", "degraded"]
        release(s, "broken", "raise RuntimeError('broken')\n")
        turn(s, "broken")
        s.signal(signal.SIGUSR2)
        s.wait_line("reload failed")
        s.kill(wait_until(s.workers)[0])
        s.wait_line("worker ready", 2)
        assert s.get().text == "one one []"


def test_a_folder_that_is_gone_is_named() -> None:
    with started_in_a_link() as s:
        s.expect += ["reload rejected"]
        (s.folder / "current").unlink()
        s.signal(signal.SIGHUP)
        line = s.wait_line("reload rejected")
        assert f"'{s.folder}/current'" in line
        assert "No such file or directory" in line
        assert "chdir" in line
        assert s.get().text == "one one []"
        turn(s, "two")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get().text == "two two []"


def test_a_folder_that_is_gone_is_not_missed_where_chdir_says_another() -> None:
    s = started_in_a_link()
    s.env["FORKSERVE_CHDIR"] = str(s.folder / "releases" / "two")
    s.env["FORKSERVE_PYTHONPATH"] = str(s.folder / "releases" / "two" / "lib")
    with s:
        (s.folder / "current").unlink()
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get().text.startswith("two two")


def test_relative_names_lead_into_the_new_release_and_back_where_it_is_refused() -> None:
    s = started_in_a_link(errorlog=None)
    s.command[-1:-1] = ["-c", "settings.toml", "--error-logfile", "error.log"]
    for name in ("one", "two"):
        (s.folder / "releases" / name / "settings.toml").write_text("keepalive = 5\n")
    log_one, log_two = (s.folder / "releases" / name / "error.log" for name in ("one", "two"))
    (s.folder / "releases" / "two" / "settings.toml").write_text("workers = 'many'\n")
    with s:
        turn(s, "two")
        s.signal(signal.SIGHUP)
        wait_until(lambda: "reload rejected" in log_one.read_text(), "the refusal, in the log of the old release")
        assert not log_two.exists()
        assert os.readlink(f"/proc/{s.pid}/cwd") == str(s.folder / "releases" / "one")
        (s.folder / "releases" / "two" / "settings.toml").write_text("workers = 1\n")
        s.signal(signal.SIGHUP)
        wait_until(lambda: log_two.exists() and "reload done" in log_two.read_text(), "the reload")
        assert s.get().text == "two two []"
