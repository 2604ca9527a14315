"""The kit of apps with habits (tests/apps/habits), each through a whole life: served, reloaded, recycled, timed out,
stopped, and left by a master that is killed. Afterwards no process, port or file is left, and no line of the log is
wrong."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.apps.habit_table import NAMES, SPECIAL, Habit
from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import can_be_bound, lives, one_request

_MOST_REQUESTS = 4
_GRACE_S = 2
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+0000 \[\d+\] \[(debug|info|warning|error|critical)\] \S")
_USUAL = ("request overdue", "worker overdue", "worker was asked for its stacks", "master is gone")


def _cases() -> Iterator[object]:
    for name in NAMES:
        habit = SPECIAL.get(name, Habit())
        missing = pytest.mark.skipif(
            bool(habit.needs) and find_spec(habit.needs) is None, reason=f"needs {habit.needs}"
        )
        for threads in habit.threads:
            yield pytest.param(name, threads, marks=missing, id=f"{name}-{threads}")


every_habit = pytest.mark.parametrize(("name", "threads"), list(_cases()))


def server(name: str, threads: int) -> Server:
    habit = SPECIAL.get(name, Habit())
    return Server(
        app="tests.apps.habit_with_hang:app",
        workers=2,
        threads=threads,
        timeout="1.5s",
        graceful_timeout=_GRACE_S,
        max_requests=_MOST_REQUESTS,
        max_requests_jitter=0,
        reload_settle=0,
        env={"HABIT": name, **habit.env},
        expect=[*_USUAL, *habit.expect],
    )


def show_habit(s: Server, name: str) -> None:
    habit = SPECIAL.get(name, Habit())
    for path in habit.paths:
        assert s.get(path).status == 200, path
    if habit.fails:
        assert s.get(habit.fails).status == 500
    if habit.dies:
        with s.connect() as sock:
            sock.sendall(one_request(habit.dies))
            assert read_to_end(sock) == b""


def workers_of(s: Server) -> list[int]:
    """Those that have been ready so far; not by who is whose child, since the apps have some of their own."""
    return [int(line.rpartition("pid=")[2]) for line in s.lines("worker ready")]


def ours(s: Server) -> list[int]:
    """Every process that was started by this server, or by one of its own, whoever is its parent by now.

    By its session, its folder or its environment: a habit changes one or the other, and a title may overwrite the last.
    """
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                state, _, _, session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
                is_ours = int(session) == s.pid or os.readlink(f"/proc/{entry}/cwd") == str(s.folder)
                is_ours = is_ours or str(s.folder).encode() in Path(f"/proc/{entry}/environ").read_bytes()
                if is_ours and state != "Z":
                    found.append(int(entry))
    return found


def check_log(s: Server, name: str) -> None:
    habit = SPECIAL.get(name, Habit())
    for line in s.log().splitlines():
        assert _RECORD.match(line) or line.startswith("    ") or not line.strip(), f"torn line {line!r}"
    if not habit.never_ends:
        assert "grace over" not in s.log(), "a worker did not end in peace"


def end_what_outlives(s: Server, name: str) -> None:
    if SPECIAL.get(name, Habit()).outlives:
        assert ours(s), "what was meant to live on did not"
        (s.folder / "end").touch()
    wait_until(lambda: not ours(s), "that no process is left")


@every_habit
def test_a_whole_life(name: str, threads: int) -> None:
    with server(name, threads) as s:
        show_habit(s, name)
        first = workers_of(s)

        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        wait_until(lambda: not any(lives(pid) for pid in first), "the end of the old workers")
        show_habit(s, name)

        for _ in range(2 * _MOST_REQUESTS):
            assert s.get("/" if "/" in SPECIAL.get(name, Habit()).paths else SPECIAL[name].paths[0]).status == 200
        wait_until(lambda: len(s.lines("worker ready")) >= 5, "the replacement of one that has had its requests")

        assert s.get("/hang").status == 504
        s.wait_line("request overdue")
        show_habit(s, name)

        assert s.stop() == 0
        end_what_outlives(s, name)
        assert can_be_bound(s.port)
        check_log(s, name)


@every_habit
def test_nothing_is_left_when_the_master_is_killed(name: str, threads: int) -> None:
    with server(name, threads) as s:
        show_habit(s, name)
        workers = workers_of(s)
        s.signal(signal.SIGKILL)
        wait_until(lambda: not any(lives(pid) for pid in workers), "the end of the workers")
        assert can_be_bound(s.port)
        end_what_outlives(s, name)
        check_log(s, name)
        s.pidfile.unlink()


def test_the_kit_has_its_apps() -> None:
    assert len(NAMES) >= 40
    assert set(SPECIAL) <= set(NAMES)
