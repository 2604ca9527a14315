"""Promise 11: a service that was started by the command of a virtual environment behind a link becomes, by USR2, what
the link shows then, though the first line of the command names its interpreter without links."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, Server

APP = """
import sys
from release import NAME

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{NAME} {sys.prefix} {sys.flags.utf8_mode}".encode()]
"""
CODE = "import sys\nfrom forkserve.__main__ import main\nsys.exit(main())\n"
FIRST_LINES = {
    "plain": "#!{python}\n",
    "flags": "#!{python} -Xutf8\n",
    "shell": "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
}


def release(s: Server, name: str, first_line: str) -> Path:
    """A virtual environment as pip makes them, whose packages are ours and a module that names the release."""
    folder = s.folder / "releases" / name
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(f"{ROOT}\n{ours}\n")
    (packages / "release.py").write_text(f"NAME = {name!r}\n")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    command = folder / "bin" / "forkserve"
    command.write_text(first_line.format(python=python) + CODE)
    command.chmod(0o755)
    return folder


def turn(s: Server, name: str) -> None:
    (s.folder / "next").symlink_to(f"releases/{name}")
    (s.folder / "next").rename(s.folder / "current")


def upgrade(s: Server, count: int = 1) -> None:
    s.signal(signal.SIGUSR2)
    s.wait_line("reload done", count)


@pytest.mark.parametrize("called", ["current/bin/forkserve", "bin/forkserve", "relative"])
@pytest.mark.parametrize("first_line", FIRST_LINES)
def test_promise_11_the_environment_that_the_link_shows_now_is_used(first_line: str, called: str) -> None:
    s = Server(app="fresh_app:app", workers=1, reload_settle=0)
    s.write_app(APP)
    s.env["PYTHONPATH"] = str(s.folder)
    releases = {name: release(s, name, FIRST_LINES[first_line]) for name in ("one", "two")}
    turn(s, "one")
    (s.folder / "bin").mkdir()
    (s.folder / "bin" / "forkserve").symlink_to("../current/bin/forkserve")  # as people link commands to their PATH
    s.command[0:3] = ["current/bin/forkserve" if called == "relative" else str(s.folder / called)]
    utf8 = int(first_line == "flags")
    with s:
        assert s.get().text == f"one {releases['one']} {utf8}"
        pid = s.pid
        turn(s, "two")
        upgrade(s)
        assert s.pid == pid
        assert s.get().text == f"two {releases['two']} {utf8}"
        assert os.readlink(f"/proc/{pid}/exe") == str(Path(sys.executable).resolve())
        turn(s, "one")
        upgrade(s, 2)
        assert s.get().text == f"one {releases['one']} {utf8}"


def test_promise_11_a_command_that_is_gone_is_refused_and_named() -> None:
    s = Server(app="fresh_app:app", workers=1, reload_settle=0, expect=["upgrade failed"])
    s.write_app(APP)
    s.env["PYTHONPATH"] = str(s.folder)
    release(s, "one", FIRST_LINES["plain"])
    turn(s, "one")
    s.command[0:3] = [str(s.folder / "current" / "bin" / "forkserve")]
    with s:
        [worker] = s.workers()
        turn(s, "missing")
        s.signal(signal.SIGUSR2)
        line = s.wait_line("upgrade failed")
        assert f"{s.folder}/current/bin/forkserve: No such file or directory" in line
        assert s.workers() == [worker]
