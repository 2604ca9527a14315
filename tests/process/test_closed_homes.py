"""Workers of a user who may not read Python or forkserve: told at once and in one line, where they died wordlessly."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkserve.errors import ExitCode
from tests.harness import Server
from tests.process.roaming_python import RoamingPython, anybody_can_run
from tests.process.tools import status

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# At /run it needs a part of the library that no worker has loaded before.
APP = """
def app(environ, start_response):
    said = ""
    if environ["PATH_INFO"] == "/run":
        import calendar, subprocess, sys
        said = subprocess.run([sys.executable, "-c", "print('ran')"], capture_output=True, text=True).stdout
    start_response("200 OK", [])
    return [said.encode()]
"""


class Home:
    """A folder with a Python below it, which the test opens and closes."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "home"
        self.folder.mkdir(mode=0o755)
        self.python = RoamingPython(self.folder / "versions" / "python")

    def serve(self, **arguments: Any) -> Server:
        s = Server(app="fresh_app:app", workers=1, reload_settle=0, **arguments)
        s.folder.chmod(0o777)
        s.write_app(APP)
        return self.python.take_over(s)

    def line(self, what: str) -> str:
        return f"may not enter {self.folder} (mode 0700), which holds {what}"


@pytest.fixture
def home() -> Iterator[Home]:
    place = Path(tempfile.mkdtemp(prefix="forkserve-home-"))  # tmp_path is root's alone
    place.chmod(0o755)
    try:
        home = Home(place)
        if not anybody_can_run(home.python.executable, home.python.environ):
            pytest.skip("another user may not read this checkout")
        yield home
    finally:
        shutil.rmtree(place)


def test_start_as_a_user_who_cannot_read_the_library_is_refused_in_one_line(home: Home) -> None:
    home.folder.chmod(0o700)
    with home.serve(user="nobody", await_ready=False) as s:
        assert s.wait_exit() == ExitCode.USAGE
        [line] = s.said().splitlines()
        assert line.startswith(f"forkserve: error: user = 'nobody': {home.line('Python')}")
        assert line.endswith(f"chmod a+x {home.folder}")
        assert not s.lines("worker forked")


def test_check_of_the_settings_refuses_what_a_start_refuses(home: Home) -> None:
    with home.serve(user="nobody") as s:
        for mode, code in ((0o700, ExitCode.USAGE), (0o711, ExitCode.OK)):
            home.folder.chmod(mode)
            ran = subprocess.run(
                [*s.command, "--check-config"], env=s.env, cwd=s.folder, capture_output=True, text=True, check=False
            )
            assert ran.returncode == code, ran.stderr
            assert (home.line("Python") in ran.stderr) is (code != ExitCode.OK)


def test_folder_that_was_closed_rejects_the_reload_and_nothing_else(home: Home) -> None:
    with home.serve(user="nobody", expect=["reload rejected"]) as s:
        assert s.get("/run").text == "ran\n"
        workers = s.workers()
        home.folder.chmod(0o700)
        s.signal(signal.SIGHUP)
        assert home.line("Python's library") in s.wait_line("reload rejected")
        assert s.get().status == 200
        assert s.workers() == workers
        home.folder.chmod(0o755)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert s.get("/run").text == "ran\n"
        assert status(s.pid, "Uid").split() == ["0"] * 4


def test_upgrade_to_a_python_that_workers_cannot_read_is_refused(home: Home) -> None:
    with home.serve(user="nobody", expect=["upgrade failed"]) as s:
        home.folder.chmod(0o700)
        s.signal(signal.SIGUSR2)
        assert home.line("Python") in s.wait_line("upgrade failed") + s.log()
        assert s.get().status == 200


def test_group_of_the_user_opens_the_folder(home: Home) -> None:
    """Who a worker is includes its groups; the modes alone do not tell."""
    os.chown(home.folder, 0, 1)
    home.folder.chmod(0o750)
    with home.serve(user="nobody", group="1") as s:
        assert s.get("/run").text == "ran\n"


@pytest.mark.parametrize(
    ("part", "mode", "said"),
    [
        ("library/os.py", 0o600, "may not read {path} (mode 0600), which belongs to Python's library"),
        ("library/lib-dynload", 0o700, "may not read {path} (mode 0700), which belongs to Python's library"),
        ("library/site-packages/msgspec", 0o700, "may not enter {path} (mode 0700), which holds msgspec"),
    ],
)
def test_part_that_is_closed_is_named(home: Home, part: str, mode: int, said: str) -> None:
    [library] = (home.folder / "versions" / "python" / "lib").glob("python3*")
    path = library.parent / part.replace("library", library.name)
    if path.is_file():  # it may be a link to the file of this machine's Python
        shutil.copy(path, path.with_suffix(".own"))
        path.with_suffix(".own").replace(path)
    path.chmod(mode)
    with home.serve(user="nobody", await_ready=False) as s:
        assert s.wait_exit() == ExitCode.USAGE
        assert said.format(path=path) in s.said()


def test_worker_that_stays_root_is_not_asked(home: Home) -> None:
    home.folder.chmod(0o700)
    with home.serve(group="daemon") as s:
        assert s.get("/run").text == "ran\n"
