"""The probes' own parts: what is seen of an answer, and that a wrong one is told. The peer here is a few bytes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import probes
from benchmarks.probe_table import ROWS, Row, answers, refuses
from benchmarks.probe_wire import Seen, exchange

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"


@contextmanager
def saying(answer: bytes) -> Iterator[int]:
    """A port that answers whatever it is sent with these bytes, once for each connection, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    if sock.recv(65536):
                        sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("data", "end", "code", "body", "is_whole"),
    [
        (b"", "closed", 0, b"", False),
        (CHUNKED, "closed", 200, b"one", False),
        (CHUNKED + b"0\r\n\r\n", "open", 200, b"one", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "open", 0, b"", False),
        (b"HTTP/1.0 404 No\r\nContent-Length: 3\r\n\r\non", "closed", 404, b"on", False),
        (b"HTTP/1.0 404 No\r\nContent-Length: 3\r\n\r\none", "open", 404, b"one", True),
        (b"HTTP/1.0 200 OK\r\n\r\none", "closed", 200, b"one", True),
        (b"HTTP/1.0 200 OK\r\n\r\none", "reset", 200, b"one", False),
    ],
)
def test_an_answer_is_seen_as_a_client_sees_it(data: bytes, end: str, code: int, body: bytes, is_whole: bool) -> None:
    seen = Seen(data, end)
    assert (seen.code, seen.body, seen.is_whole) == (code, body, is_whole)


def test_all_that_comes_and_how_it_ends_is_seen() -> None:
    with saying(CHUNKED) as port:
        seen = exchange(port, b"GET / HTTP/1.1\r\n\r\n")
    assert (seen.data, seen.end, str(seen)) == (CHUNKED, "closed", "200")


def test_a_cell_tells_what_is_wrong_of_several_answers() -> None:
    row = Row("x", (answers(b"x", 200, b"one"), refuses(b"x", 200, 400), answers(b"x", 404)))
    with saying(CHUNKED + b"0\r\n\r\n") as port:
        assert probes._cell(row, port) == "✘ ✔ / ✔ / 200"
        assert probes._cell(Row("x", row.probes[:2]), port) == "✔"


def test_a_server_that_answers_everything_alike_is_right_in_few_rows() -> None:
    quick = [row for row in ROWS if "close()" not in row.title and "raised again" not in row.title]
    with saying(CHUNKED + b"0\r\n\r\n") as port:
        right = [row.title for row in quick if probes._cell(row, port) == probes.RIGHT]
    assert len(right) < len(ROWS) / 4, right
