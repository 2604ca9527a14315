"""`--check-config` passes what a start passes, and refuses what cannot start."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, clean_environ

APP = "import os\nprint('uid', os.getuid(), os.getgid())\n\ndef app(environ, start_response): ...\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="forkserve-test-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "fresh_app.py").write_text(APP)
        yield Path(name)


def check(folder: Path, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkserve", "--check-config", *flags, "fresh_app:app"],
        capture_output=True, text=True, cwd=folder, env=clean_environ() | more, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_the_app_is_imported_by_whom_a_worker_is(folder: Path) -> None:
    """By the group alone, since Python may be where nobody else can read it; both are taken by one call."""
    ran = check(folder, "--group", "nogroup")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("uid 0 65534\n")


@pytest.mark.parametrize("setting", ["accesslog", "errorlog"])
def test_a_log_in_a_folder_that_is_missing_is_refused(folder: Path, setting: str) -> None:
    ran = check(folder, **{f"FORKSERVE_{setting.upper()}": "missing/one.log"})
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.strip().endswith(f"{setting} = 'missing/one.log': cannot be opened: No such file or directory")
    missing: dict[str, Any] = {setting: "missing/one.log"}
    with Server(app="fresh_app:app", await_ready=False, **missing) as s:
        assert s.wait_exit() == 2
        assert "missing/one.log" in s.said() + s.log()


def test_a_socket_as_stdout_is_refused_and_told_to_be_a_dash(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ran = subprocess.run(
            [sys.executable, "-m", "forkserve", "--check-config", "fresh_app:app"],
            stdout=theirs.fileno(), stderr=subprocess.PIPE, text=True, cwd=folder, check=False, timeout=60,
            env=clean_environ() | {"FORKSERVE_ACCESSLOG": "/dev/stdout"},
        )  # fmt: skip
    assert ran.returncode == 2
    assert "accesslog = '/dev/stdout': is a socket" in ran.stderr
    assert 'use "-"' in ran.stderr


def test_nothing_is_made_by_looking(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert check(folder, FORKSERVE_ACCESSLOG="empty/access.log", FORKSERVE_ERRORLOG="empty/error.log").returncode == 0
    assert list((folder / "empty").iterdir()) == []


def test_a_variable_that_only_looks_like_ours_is_a_warning(folder: Path) -> None:
    ran = check(folder, FORKSERVE_VERSION="1.2.3", FORKSERVE_WORKER="4")
    assert ran.returncode == 0
    assert "forkserve: warning: FORKSERVE_VERSION: unknown variable, ignored\n" in ran.stderr
    assert 'FORKSERVE_WORKER: unknown variable, ignored; did you mean "FORKSERVE_WORKERS"?' in ran.stderr
    expected = ["FORKSERVE_VERSION: unknown variable", "FORKSERVE_WORKER: unknown variable"]
    s = Server(
        app="tests.process.site:app", env={"FORKSERVE_VERSION": "1.2.3", "FORKSERVE_WORKER": "4"}, expect=expected
    )
    with s:
        assert s.get("/pid").status == 200
        assert all(s.lines(line) for line in expected)


def test_a_module_that_is_not_there_is_told_with_the_folder_and_the_flag(folder: Path) -> None:
    (folder / "fresh_app.py").rename(folder / "other.py")
    ran = check(folder)
    assert ran.returncode == 3
    assert ran.stderr.count(f"looked for in {folder}, --chdir names another folder") == 1
    (folder / "fresh_app.py").write_text("import no_such_module_anywhere\n")
    assert "--chdir" not in check(folder).stderr
