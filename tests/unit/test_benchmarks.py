"""The benchmarks' own parts: reading wrk, reading the kernel's accounts, writing tables. Nothing here is timed."""

import argparse
import os
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compare, report, tree, wrk
from benchmarks.apps import pages
from benchmarks.cases import CASES, GOALS, SERIES, Case, Goal, Kind
from benchmarks.errors import InvalidRunError
from benchmarks.measure import Figure, Setup, can, figure
from benchmarks.report import Results
from benchmarks.servers import HERE, SERVERS, Server, present

GOOD = """Running 1s test @ http://127.0.0.1:8000/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   122.41us   98.10us   3.84ms   95.17%
    Req/Sec   128.56k     1.45k  129.99k    70.00%
  127928 requests in 1.10s, 12.57MB read
{more}Requests/sec: 116297.19
Transfer/sec:     11.43MB
"""
START = Case("start", "Start", Kind.START)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path / "peers", seconds=1, connections=1, server_core=None, bytecode=tmp_path / "bytecode")


@pytest.mark.parametrize(("wall", "seconds"), [("1.10s", 1.1), ("950.00ms", 0.95), ("1.50m", 90.0)])
def test_requests_and_duration_are_read_from_what_wrk_prints(wall: str, seconds: float) -> None:
    load = wrk.parse(GOOD.format(more="").replace("1.10s", wall))
    assert load.requests == 127928
    assert load.wall_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (GOOD.format(more="  Socket errors: connect 0, read 12, write 0, timeout 0\n"), "read 12"),
        (GOOD.format(more="  Non-2xx or 3xx responses: 7\n"), "7 answers were errors"),
        (GOOD.format(more="").replace("127928", "0"), "no request was answered"),
        ("unable to connect to 127.0.0.1:9 Connection refused\n", "Connection refused"),
        ("", "no output"),
    ],
)
def test_run_with_any_failed_request_has_no_figure(output: str, reason: str) -> None:
    with pytest.raises(InvalidRunError, match=reason):
        wrk.parse(output)


def test_cpu_time_of_a_process_is_what_the_process_itself_reads() -> None:
    earlier = time.process_time_ns()
    read = tree.process_cpu_ns(os.getpid())
    assert earlier <= read <= time.process_time_ns()


def test_tree_has_children_and_their_cpu_time_and_memory() -> None:
    work = "import os, sys; [None for _ in range(300_000)]; print(flush=True); sys.stdin.read()"
    before = tree.usage(os.getpid())
    mine = time.process_time_ns()
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        assert tree.pids(os.getpid()) == [os.getpid(), child.pid]
        of_child = tree.process_cpu_ns(child.pid)
        spent = tree.spent_ns(before, tree.usage(os.getpid()))
        assert of_child > 1_000_000
        assert spent >= of_child
        assert spent - tree.process_cpu_ns(child.pid) <= time.process_time_ns() - mine + 50_000_000
        assert tree.pss_bytes(child.pid) > 1 << 20


@pytest.mark.parametrize("seen_alive", [True, False])
def test_run_in_which_a_process_of_the_server_ends_has_no_figure(seen_alive: bool) -> None:
    before = tree.usage(os.getpid())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        if seen_alive:
            before = tree.usage(os.getpid())
    with pytest.raises(InvalidRunError, match="ended during the run"):
        tree.spent_ns(before, tree.usage(os.getpid()))


def test_tree_that_keeps_on_running_is_not_called_quiet() -> None:
    work = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None and busy.stdout.readline()
            with pytest.raises(InvalidRunError, match="still runs"):
                tree.quiet_usage(busy.pid, give_up_s=0.1)
        finally:
            busy.kill()


def test_server_that_ends_before_it_answers_gives_its_last_words_instead_of_a_figure(setup: Setup) -> None:
    broken = Server("broken", "forkserve", ("-c", "import sys; sys.exit('the port is cursed')"))
    taken = figure(setup, broken, START, 1)
    assert taken.value is None
    assert "ended before it answered" in taken.fault
    assert "the port is cursed" in taken.fault


def test_modules_of_every_server_are_compiled_once_whatever_the_environment_says(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    own = Server("own", "forkserve", ("-c", _served("from small import app")))
    assert figure(setup, own, START, 1).fault == ""
    assert list(setup.bytecode.rglob("small.*.pyc"))


def test_answer_that_is_not_200_is_no_first_answer(setup: Setup) -> None:
    refuses = "def app(environ, start): start('503 Busy', []); return []"
    server = Server("refuses", "forkserve", ("-c", _served(refuses)))
    assert "503" in figure(setup, server, START, 1).fault


def test_nothing_of_a_server_is_left_behind(setup: Setup, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    forks = f"""
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if (pid := os.fork()) == 0:
    signal.pause()
open({str(stray)!r}, "w").write(str(pid))
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from small import app
"""
    taken = figure(setup, Server("forks", "forkserve", ("-c", _served(forks))), START, 1)
    assert taken.value is not None, taken.fault
    try:
        handle = os.pidfd_open(int(stray.read_text()))
    except ProcessLookupError:
        return  # already reaped
    try:
        assert select.select([handle], [], [], 10)[0], "the stray child still lives"
    finally:
        os.close(handle)


def _served(app: str) -> str:
    # {{port}} is filled in by Server.arguments; the app's own braces must not be, so there are none.
    return (
        f"{app}\nfrom wsgiref.simple_server import make_server\nmake_server('127.0.0.1', {{port}}, app).serve_forever()"
    )


def _results(*figures: Figure) -> Results:
    case = Case("small", "Small page", Kind.CPU)
    return Results(("A machine.",), 3, (case,), dict.fromkeys(SERVERS[:3], "1.0"), figures)


def _figures(server: str, *values: float) -> list[Figure]:
    return [
        Figure("small", server, number, value, "", 1, wall_s=2.0, cpu_ns=1_900_000_000)
        for number, value in enumerate(values, 1)
    ]


def test_table_shows_median_spread_and_multiples() -> None:
    text = report.markdown(_results(*_figures("forkserve", 9, 8, 30), *_figures("bjoern", 10, 9, 12)), ())
    assert "| server | median | min – max | × bjoern | × forkserve | busy |" in text
    assert "| forkserve | 9.0 | 8.0 – 30.0 | 0.90 | 1.00 | 95% |" in text
    assert "| bjoern | 10.0 | 9.0 – 12.0 | 1.00 | 1.11 | 95% |" in text
    assert "| gunicorn-sync | " not in text.partition("### Servers")[0], "a server without a figure has no row"


def test_figure_of_an_invalid_round_is_left_out_and_its_fault_is_shown() -> None:
    failed = Figure("small", "bjoern", 3, fault="wrk: socket errors: read 1")
    text = report.markdown(_results(*_figures("bjoern", 10, 12), failed), ())
    assert "| bjoern | 11.0 | 10.0 – 12.0 |" in text
    assert "- bjoern, small, round 3: wrk: socket errors: read 1" in text


def test_loads_in_which_the_server_did_not_get_its_core_are_counted_in_the_remarks() -> None:
    quiet = _figures("bjoern", 10, 12)
    disturbed = replace(quiet[1], round=3, cpu_ns=1_500_000_000)
    assert "disturbed" not in report.markdown(_results(*quiet), ())
    assert "- 1 of 3 loads were disturbed" in report.markdown(_results(*quiet, disturbed), ())


@pytest.mark.parametrize(("peer", "verdict"), [(6.1, "met"), (5.9, "not met"), (None, "not measured")])
def test_goal_is_met_up_to_its_factor(peer: float | None, verdict: str) -> None:
    figures = [*_figures("forkserve", 9), *(_figures("bjoern", peer) if peer else [])]
    text = report.markdown(_results(*figures), [Goal("small", ("bjoern",), 1.5)])
    assert f"| {verdict} |" in text


@pytest.mark.parametrize(("mine", "verdict"), [(7.9, "met"), (8.1, "not met")])
def test_goal_beside_several_peers_counts_the_best_of_them(mine: float, verdict: str) -> None:
    figures = [*_figures("forkserve", mine), *_figures("bjoern", 100), *_figures("gunicorn-sync", 8)]
    text = report.markdown(_results(*figures), [Goal("small", ("bjoern", "gunicorn-sync"), 1.0)])
    assert "the best of bjoern, gunicorn-sync" in text
    assert f"× gunicorn-sync | {verdict} |" in text


@pytest.mark.parametrize(("mine", "verdict"), [(120, "met"), (121, "not met")])
def test_goal_with_a_limit_is_met_below_it_whatever_the_peers_need(mine: float, verdict: str) -> None:
    figures = [replace(figure, case="start") for figure in (*_figures("forkserve", mine), *_figures("bjoern", 1))]
    results = replace(_results(*figures), cases=(START,))
    text = report.markdown(results, [Goal("start", ("bjoern",), 1.0, limit=120)])
    assert f"| {verdict} |" in text


def test_goal_of_a_case_that_a_peer_has_not_is_compared_with_another_of_its_cases() -> None:
    logged = [replace(figure, case="log") for figure in _figures("forkserve", 13)]
    results = replace(_results(*logged, *_figures("bjoern", 10)), cases=(Case("log", "Log", Kind.CPU),))
    assert "1.3 × bjoern | met |" in report.markdown(results, [Goal("log", ("bjoern",), 1.35, of_case="small")])


def test_cases_of_a_series_are_one_table_with_a_column_for_each() -> None:
    few = [replace(figure, case="varied") for figure in _figures("forkserve", 10)]
    many = [replace(figure, case="headers-32") for figure in _figures("forkserve", 20)]
    cases = (Case("varied", "Varied", Kind.CPU), Case("headers-32", "32", Kind.CPU))
    text = report.markdown(replace(_results(*few, *many), cases=cases), ())
    assert "| header fields | 2 | 32 |" in text
    assert "| forkserve | 10.0 | 20.0 |" in text


def test_server_is_measured_where_it_has_what_the_case_asks_for() -> None:
    rows, cases = {server.name: server for server in SERVERS}, {case.name: case for case in CASES}
    assert can(rows["bjoern"], cases["small"])
    assert not can(rows["bjoern"], cases["memory"]), "it has one process"
    assert not can(rows["gunicorn-sync"], cases["held"]), "it closes every connection"
    assert not can(rows["granian"], cases["idle-256"]), "the case is for others only"


@pytest.mark.parametrize("rounds", [1, 2, 5, 7])
@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_case_of_few_rounds_is_spread_over_all(wanted: int, rounds: int) -> None:
    due = [number for number in range(1, rounds + 1) if compare._is_due(number, wanted, rounds)]
    assert len(due) == min(wanted, rounds)
    assert due[-1] == rounds


def test_no_figure_is_begun_after_the_end(setup: Setup) -> None:
    own = Server("own", "forkserve", ("-c", "raise SystemExit"))
    assert list(compare._figures(setup, 5, CASES, [own], end=time.monotonic())) == []


def test_memory_of_idle_connections_is_what_the_server_adds_for_them(setup: Setup) -> None:
    keeps = """
import mmap, socket
listener = socket.create_server(('127.0.0.1', {port}), backlog=1024)
held = []
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    memory = mmap.mmap(-1, 65536)
    memory.write(b'x' * 65536)
    held.append((connection, memory))
    connection.send(b'HTTP/1.1 200 OK' + bytes((13, 10)) + b'Content-Length: 0' + bytes((13, 10)) * 2)
"""
    case = Case("held", "", Kind.HELD)
    taken = figure(replace(setup, held=100), Server("keeps", "forkserve", ("-c", keeps)), case, 1)
    assert taken.value is not None, taken.fault
    assert 60 <= taken.value <= 90


def test_server_that_closes_idle_connections_has_no_figure_for_holding_them(setup: Setup) -> None:
    closes = Server("closes", "forkserve", ("-c", _served("from small import app")))
    taken = figure(replace(setup, held=5), closes, Case("held", "", Kind.HELD), 1)
    assert "closed" in taken.fault or "connection" in taken.fault
    assert taken.value is None


def test_idle_server_is_told_from_one_that_ticks(setup: Setup) -> None:
    ticks = """
import threading
def tick():
    [None for _ in range(3000)]
    threading.Timer(0.05, tick).start()
tick()
from small import app
"""
    case, quickly = Case("idle", "", Kind.IDLE, workers=0), replace(setup, idle_s=0.5)
    quiet = figure(quickly, Server("quiet", "forkserve", ("-c", _served("from small import app"))), case, 1)
    ticking = figure(quickly, Server("ticks", "forkserve", ("-c", _served(ticks))), case, 1)
    assert quiet.value is not None and ticking.value is not None, (quiet.fault, ticking.fault)
    assert ticking.value > quiet.value + 200


def test_file_and_stream_are_as_long_as_they_say() -> None:
    said: list[tuple[str, str]] = []
    assert b"".join(pages.file({}, lambda status, headers: said.extend(headers))) == pages.BIG
    assert ("Content-Length", str(len(pages.BIG))) in said
    assert b"".join(pages.stream({}, lambda status, headers: None)) == pages.CHUNK * pages.CHUNKS


def test_page_keeps_everything_outside_its_markers() -> None:
    page = f"before\n{report.BEGIN}\nold figures\n{report.END}\nafter\n"
    replaced = report.replace_between_markers(page, "new figures")
    assert replaced == f"before\n{report.BEGIN}\n\nnew figures\n{report.END}\nafter\n"
    assert report.replace_between_markers(replaced, "new figures") == replaced


@pytest.mark.parametrize("page", ["", report.BEGIN, f"{report.END}\n{report.BEGIN}"])
def test_page_without_its_two_markers_in_order_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="begin"):
        report.replace_between_markers(page, "figures")


def test_performance_page_has_its_markers() -> None:
    page = Path(__file__).parents[2] / "docs" / "performance.md"
    assert "figures" in report.replace_between_markers(page.read_text("utf-8"), "figures")


def test_names_are_unique_and_everything_that_goals_and_cases_name_exists() -> None:
    servers, cases = {server.name for server in SERVERS}, {case.name for case in CASES}
    assert (len(servers), len(cases)) == (len(SERVERS), len(CASES))
    assert {peer for goal in GOALS for peer in goal.peers} <= servers
    assert {name for case in CASES for name in (*case.beside, *case.only)} <= servers
    assert {goal.case for goal in GOALS} | {goal.of_case for goal in GOALS if goal.of_case} <= cases
    assert {name for series in SERIES for _, name in series.points} <= cases
    assert all((HERE / case.script).exists() for case in CASES)


def test_peer_that_is_not_installed_is_left_out_with_its_remedy(tmp_path: Path) -> None:
    peer = replace(SERVERS[1], remedy="apt install what it needs")
    found, missing = present([SERVERS[0], peer], tmp_path)
    assert list(found) == [SERVERS[0]]
    assert missing == ["bjoern is left out: bjoern is not installed; apt install what it needs"]


def test_chosen_names_give_rows_in_the_order_of_the_table() -> None:
    read = compare._chosen(CASES)
    assert read("start,small") == [CASES[0], CASES[2]]
    with pytest.raises(argparse.ArgumentTypeError, match="fast: not one of small,"):
        read("small,fast")
