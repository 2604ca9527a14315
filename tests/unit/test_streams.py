"""The parts of benchmarks/streams.py: events are found however they arrive, and their ages stand in the table."""

import socket
import threading
from pathlib import Path

import pytest

from benchmarks import report, streams
from benchmarks.apps import streamed
from benchmarks.stream_load import Ages, Plan, Unchunked, run
from benchmarks.streams import FIRSTS, SECTION, Run, markdown

BODY = b":  \n\ndata: 1000000\n\ndata: 3000000\n\n"
CHUNKED = b"%x;odd=1\r\n%b\r\n3\r\n\n\nd\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_chunks_are_taken_apart_however_they_arrive(step: int) -> None:
    unchunked = Unchunked()
    body = b"".join(unchunked.take(CHUNKED[at : at + step]) for at in range(0, len(CHUNKED), step))
    assert body == BODY + b"\n\nd"


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_event_is_as_old_as_it_is_when_its_last_byte_arrives(step: int) -> None:
    ages = Ages()
    for at in range(0, len(BODY), step):
        ages.take(BODY[at : at + step], 4_000_000)
    assert ages.ms == [3.0, 1.0]


def test_big_piece_before_the_events_is_not_kept() -> None:
    ages = Ages()
    for _ in range(100):
        ages.take(b" " * 100_000, 0)
    ages.take(b"\n\ndata: 1\n\n", 1_000_001)
    assert ages.ms == [1.0]


def test_app_begins_with_a_comment_of_the_size_that_was_asked_for() -> None:
    said: list[str] = []
    environ = {"PATH_INFO": "/events", "QUERY_STRING": "first=6000&seconds=0.01"}
    pieces = list(streamed.app(environ, lambda status, headers: said.append(status)))
    assert said == ["200 OK"]
    assert len(pieces[0]) == 6000
    ages = Ages()
    ages.take(b"".join(pieces), 0)
    assert len(ages.ms) == len(pieces) - 1 > 0


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED, ""),
        (b"HTTP/1.0 200 OK\r\n\r\n" + BODY, ""),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
        (b"", "no answer"),
    ],
)
def test_reader_tells_what_it_saw_or_why_it_did_not(answer: bytes, fault: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        told = run(Plan(f"127.0.0.1:{listener.getsockname()[1]}", "/events", "1.1", 20.0, events=True))
        thread.join()
    assert fault in told.fault
    assert len(told.ages_ms) == (0 if fault else 2)


def test_downloader_stops_at_its_time_amid_a_body() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1000)
                over.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        told = run(Plan(f"127.0.0.1:{listener.getsockname()[1]}", "/download", "1.0", 0.2))
        over.set()
        thread.join()
    assert (told.body_bytes, told.fault) == (1000, "")


def test_table_has_percentiles_and_whether_the_goal_is_met() -> None:
    ages = tuple(float(ms) for ms in range(1, 101))
    runs = [
        Run("forkserve, 2 workers", "direct", FIRSTS[0], (1.0, 2.0), 0.5, 10_000_000),
        Run("forkserve, 2 workers", "direct", FIRSTS[1], ages, 0.5, 1),
        Run("gunicorn", "direct", FIRSTS[0], fault="no event arrived"),
    ]
    text = markdown(("A machine.",), runs, ["a remark"])
    assert "| 1 of 2 rows | not met |" in text
    assert "| forkserve, 2 workers | direct | an event | 1.00 | 2.00 | 2.00 | 0.50 | 2 | 10 |" in text
    assert "| forkserve, 2 workers | direct | 6 MB | 50.00 | 99.00 | 100.00 | 0.50 | 100 | 0 |" in text
    assert "- a remark" in text
    assert "- gunicorn, direct, an event first: no event arrived" in text


def test_page_has_a_place_for_the_table() -> None:
    page = Path(streams.__file__).resolve().parent.parent / "docs" / "performance.md"
    assert "new" in report.replace_between_markers(page.read_text("utf-8"), "new", SECTION)
