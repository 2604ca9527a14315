"""The pidfile and its lock; the locks are real, also between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forkserve.errors import PidfileError
from forkserve.unix.pidfile import Pidfile


def test_it_holds_the_pid_and_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = Pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == ["pid"]
    pidfile.remove()
    assert os.listdir(tmp_path) == []


def test_second_owner_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    first = Pidfile(str(path))
    with pytest.raises(PidfileError, match=f"held by a running forkserve, pid {os.getpid()}; stop it"):
        Pidfile(str(path))
    assert os.listdir(tmp_path) == ["pid"]
    assert path.read_text() == f"{os.getpid()}\n"
    first.remove()


@pytest.mark.parametrize("left", ["", "12345\n", "1\n", "no pid at all", "\x00" * 100])
def test_file_that_nobody_holds_is_stale_whatever_it_says(tmp_path: Path, left: str) -> None:
    path = tmp_path / "pid"
    path.write_text(left)
    pidfile = Pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    pidfile.remove()


def test_file_of_a_killed_owner_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = f"from forkserve.unix.pidfile import Pidfile; import os; Pidfile({str(path)!r}); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    assert path.exists()
    pidfile = Pidfile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    pidfile.remove()


def test_file_that_took_our_place_is_not_ours_to_unlink(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = Pidfile(str(path))
    path.unlink()
    path.write_text("another's\n")
    pidfile.remove()
    assert path.read_text() == "another's\n"


def test_closing_leaves_file_and_lock_to_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = Pidfile(str(path))
    child = os.fork()
    if child == 0:
        pidfile.close()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(PidfileError):
        Pidfile(str(path))
    pidfile.remove()


@pytest.mark.parametrize("path", ["no/such/folder/pid", "."])
def test_path_that_cannot_be_written_is_said(tmp_path: Path, path: str) -> None:
    with pytest.raises(PidfileError, match="cannot be written"):
        Pidfile(str(tmp_path / path))
    assert os.listdir(tmp_path) == []


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = (
        "import sys\nfrom forkserve.errors import PidfileError\nfrom forkserve.unix.pidfile import Pidfile\n"
        "sys.stdin.readline()\n"
        f"try:\n    p = Pidfile({str(path)!r})\nexcept PidfileError:\n    print('refused', flush=True)\n"
        "else:\n    print('won', flush=True)\n    sys.stdin.readline()\n    p.remove()\n"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    said = [starter.stdout.readline().strip() for starter in starters if starter.stdout is not None]
    winner = starters[said.index("won")]
    assert path.read_text() == f"{winner.pid}\n"
    for starter in starters:
        starter.communicate("\n" if starter is winner else None)
    assert sorted(said) == ["refused"] * 5 + ["won"]
    assert os.listdir(tmp_path) == []
