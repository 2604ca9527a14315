"""The drills' own parts: the client on its schedule, the verdicts, the page. Servers here are sockets of the test."""

import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import drill_report, report, tree
from benchmarks.drill_report import MEASURES, Results, Row, Run
from benchmarks.drills import DRILLS, _publish, main
from benchmarks.errors import InvalidRunError
from benchmarks.openloop import Ask, Entry, Load, Outcome, steady
from benchmarks.rig import NEVER, SUBJECTS, Code, rigged, wait

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ndrill 1"


@contextmanager
def _served(serve: Callable[[socket.socket], None], connections: int = 1) -> Iterator[int]:
    """A port at which each connection is given to ``serve``, one after the other, and then closed."""

    def run(listener: socket.socket) -> None:
        for _ in range(connections):
            sock, _ = listener.accept()
            with sock:
                serve(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _entry(serve: Callable[[socket.socket], None], timeout_s: float = 5.0) -> Entry:
    """What becomes of one request to such a server."""
    with _served(serve) as port, Load(port, [Ask(0.0)], b"drill ", timeout_s=timeout_s) as load:
        load.finish()
    [entry] = load.entries
    return entry


def _says(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(answer)

    return serve


def _resets(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _is_silent(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


@pytest.mark.parametrize(
    ("serve", "outcome"),
    [
        (_says(ANSWER), Outcome.OK),
        (_says(b"HTTP/1.0 200 OK\r\n\r\ndrill 1"), Outcome.OK),
        (_says(ANSWER.replace(b"200 OK", b"500 No")), Outcome.WRONG),
        (_says(ANSWER.replace(b"drill", b"break")), Outcome.WRONG),
        (_says(ANSWER[:-1]), Outcome.EOF),
        (_says(ANSWER[:20]), Outcome.EOF),
        (_says(b""), Outcome.EOF),
        (_resets, Outcome.RESET),
    ],
)
def test_each_end_of_a_request_has_its_name(serve: Callable[[socket.socket], None], outcome: Outcome) -> None:
    entry = _entry(serve)
    assert entry.outcome is outcome
    assert entry.failed == (outcome is not Outcome.OK)
    assert entry.due <= entry.begun <= entry.sent <= entry.ended
    assert entry.latency_s >= entry.late_s >= 0


def test_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    entry = _entry(_is_silent, timeout_s=0.2)
    assert entry.outcome is Outcome.TIMEOUT
    assert 0.2 <= entry.latency_s < 3


def test_closed_door_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Load(port, [Ask(0.0), Ask(0.0)], b"drill ") as load:
        load.finish()
    assert [entry.outcome for entry in load.entries] == [Outcome.REFUSED] * 2
    assert [entry.sent for entry in load.entries] == [0.0] * 2


def test_stall_delays_no_later_request_and_is_counted_in_full_for_each() -> None:
    gate = threading.Event()

    def stalls(sock: socket.socket) -> None:
        assert gate.wait(10)
        _says(ANSWER)(sock)

    schedule = [Ask(number * 0.05) for number in range(4)]
    with _served(stalls, connections=4) as port, Load(port, schedule, b"drill ") as load:
        assert wait(lambda: len(load._open) == 4, 10) < NEVER  # all were sent, though none was answered
        gate.set()
        load.finish()
    assert [entry.outcome for entry in load.entries] == [Outcome.OK] * 4
    by_due = sorted(load.entries, key=lambda entry: entry.due)
    assert [later.due - first.due for first, later in pairwise(by_due)] == pytest.approx([0.05] * 3)
    assert by_due[0].latency_s >= 0.15


def test_kept_connection_is_used_again_until_the_server_announces_its_end() -> None:
    closing = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    asked: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.settimeout(10)
        for answer in (ANSWER, closing):
            asked.append(sock.recv(65536))
            sock.sendall(answer)

    schedule = [Ask(number * 0.02, kept=True) for number in range(4)]
    with _served(serve, connections=2) as port, Load(port, schedule, b"drill ", kept=1) as load:
        load.finish()
    assert [entry.outcome for entry in load.entries] == [Outcome.OK] * 4
    assert len(asked) == 4
    assert not any(b"Connection: close" in request for request in asked)


def test_kept_connection_that_was_closed_while_idle_is_left_without_a_failure() -> None:
    schedule = [Ask(number * 0.1, kept=True) for number in range(3)]
    with _served(_says(ANSWER), connections=3) as port, Load(port, schedule, b"drill ", kept=1) as load:
        load.finish()
    assert [entry.outcome for entry in load.entries] == [Outcome.OK] * 3


def test_steady_load_has_its_rate_and_its_share_of_kept_connections() -> None:
    asks = [ask for ask, _ in zip(steady(60), range(60), strict=False)]
    assert [ask.due_s for ask in asks] == [number / 60 for number in range(60)]
    assert sum(ask.kept for ask in asks) == 20


def test_fault_of_the_client_itself_is_no_figure_of_the_server() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    load = Load(1, [Ask(0.0)], b"drill ")
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(InvalidRunError, match=r"the client failed: .*Too many open files"), load:
            load.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_group_has_orphans_and_no_zombies() -> None:
    forks = "import os, signal\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\n    signal.pause()\nos._exit(0)"
    with subprocess.Popen([sys.executable, "-c", forks], stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout is not None
        orphan = int(leader.stdout.readline())
        assert wait(lambda: tree.group(leader.pid) == [orphan], 10) < NEVER
        os.kill(orphan, signal.SIGKILL)
        assert wait(lambda: tree.group(leader.pid) == [], 10) < NEVER


def test_wait_that_is_in_vain_takes_no_longer_than_its_bound() -> None:
    began = time.monotonic()
    assert wait(lambda: False, 0.05) == NEVER
    assert time.monotonic() - began < 2


def test_rig_deploys_reloads_kills_and_leaves_nothing(tmp_path: Path) -> None:
    with rigged(SUBJECTS[0], tmp_path, tmp_path / "bytecode") as rig:
        assert rig.lives()
        assert rig.at_strength(1)
        rig.deploy(Code.BROKEN)
        rig.reload()
        assert wait(lambda: len(rig.notes("began", 2)) > 0, 10) < NEVER
        # A reload that comes before the boot has failed would abandon it unheard.
        assert wait(lambda: "a broken deploy" in rig.log.read_text(), 10) < NEVER
        assert rig.lives()
        rig.deploy(Code.GOOD)
        rig.reload()
        assert wait(lambda: rig.at_strength(3), 10) < NEVER
        assert not rig.can_bind()
        pid, folder = rig.pid, rig.log.parent
        rig.keep(tmp_path / "kept")
    assert tree.group(pid) == []
    assert not folder.exists()
    assert "a broken deploy" in (tmp_path / "kept.log").read_text()


def test_server_that_does_not_begin_to_serve_is_a_fault_with_its_last_words(tmp_path: Path) -> None:
    broken = replace(SUBJECTS[0], good=SUBJECTS[0].broken)
    why = r"did not begin to serve \(its last words: .*settings\.toml"
    with pytest.raises(InvalidRunError, match=why), rigged(broken, tmp_path, tmp_path / "bytecode"):
        pass


def test_command_line_runs_one_drill_and_writes_page_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, data = tmp_path / "page.md", tmp_path / "data.json"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    handler, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    try:
        words = ["--only", "master-killed", "--servers", "forkserve", "--rounds", "1", "--json", str(data)]
        assert main([*words, "--write", str(page)]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.setswitchinterval(interval)
    assert "| processes left after 4 s | 0 | 0 |" in page.read_text()
    assert '"drill": "master-killed"' in data.read_text()
    assert page.read_text().splitlines()[2] in capsys.readouterr().out


ROW = Row("kill", "KILL to somebody", {"failed": 0, "worst_ms": 50, "lives": True, "forks": None})


def _results(*runs: Run) -> Results:
    return Results(("A machine.",), (ROW,), {"forkserve": "1.0", "peer": "2.0"}, runs)


def _run(number: int, failed: int = 0, worst_ms: float = 3, lives: int = 1, server: str = "forkserve") -> Run:
    figures = {"failed": failed, "worst_ms": worst_ms, "lives": lives, "forks": 2}
    return Run("kill", server, number, figures, 100, {"reset": failed} if failed else {}, 1.0)


def test_table_has_the_median_the_worst_and_the_kinds_of_failure() -> None:
    text = drill_report.markdown(_results(_run(1), _run(2, worst_ms=4), _run(3, failed=7, worst_ms=NEVER, lives=0)))
    assert "| requests that failed | 0 (7) of 100: 7 reset | – | 0 |" in text
    assert "| worst latency | 4 ms (never) | – | ≤ 50 ms |" in text
    assert "| serves when it is over | yes (no) | – | yes |" in text
    assert "| boots in 5 s | 2 | – |  |" in text


def test_data_has_every_run_and_no_infinity(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    _publish(_results(_run(1, failed=2), _run(2, worst_ms=NEVER)), None, data)
    first, second = json.loads(data.read_text(), parse_constant=pytest.fail)["runs"]
    assert first["failures"] == {"reset": 2}
    assert second["figures"]["worst_ms"] is None


def test_goal_is_missed_by_the_worst_round_and_only_by_forkserve() -> None:
    good = (_run(1), _run(2, worst_ms=50.0), _run(3))
    assert drill_report.missed(_results(*good, _run(1, failed=9, server="peer"))) == []
    [slow] = drill_report.missed(_results(*good[:2], _run(3, worst_ms=50.1)))
    assert slow == "KILL to somebody: worst latency 3 ms, 50 ms, 50 ms; goal ≤ 50 ms"
    late = replace(_run(3, worst_ms=60.0), figures={**_run(3, worst_ms=60.0).figures, "late_ms": 58.0})
    [excused] = drill_report.missed(_results(late))
    assert excused == "KILL to somebody: worst latency 60 ms, the client itself being 58 ms late; goal ≤ 50 ms"
    [dead] = drill_report.missed(_results(*good[:2], _run(3, lives=0)))
    assert dead == "KILL to somebody: serves when it is over yes, yes, no; goal yes"
    assert f"- Missed by forkserve: {dead}." in drill_report.markdown(_results(*good[:2], _run(3, lives=0)))


def test_run_without_a_figure_is_left_out_and_its_fault_is_shown() -> None:
    text = drill_report.markdown(_results(_run(1), Run("kill", "forkserve", 2, fault="nobody came")))
    assert "| requests that failed | 0 of 100 | – | 0 |" in text
    assert "- kill, forkserve, round 2: nobody came" in text


def test_drills_have_names_of_their_own_and_known_measures() -> None:
    assert len({drill.name for drill in DRILLS}) == len(DRILLS)
    assert {measure for drill in DRILLS for measure in drill.goals} <= MEASURES.keys()


def test_page_has_its_markers_and_names_every_drill_that_a_promise_leans_on() -> None:
    page = PAGE.read_text("utf-8")
    assert "figures" in report.replace_between_markers(page, "figures")
    leans_on = {name for text in re.findall(r"the drills? ([^.]*)\.", page) for name in re.findall(r"`([\w-]+)`", text)}
    assert leans_on
    assert leans_on <= {drill.name for drill in DRILLS}


@pytest.mark.parametrize("number", range(1, 16))
def test_promise_on_the_page_is_proven_by_a_test_that_carries_its_number_or_says_not_yet(number: int) -> None:
    page = PAGE.read_text("utf-8").partition("## Drills")[0]
    found = re.search(rf"(?ms)^{number}\. (.*?)(?=^\d+\. |\Z)", page)
    assert found, "the promise is on the page"
    paths = [ROOT / name for name in re.findall(r"`(tests/[\w./]+)`", found[1])]
    assert all(path.exists() for path in paths), paths
    if "*Proof:*" in found[1]:
        assert any(f"test_promise_{number:02}_" in path.read_text("utf-8") for path in paths)
    else:
        assert "*Not yet:*" in found[1]
