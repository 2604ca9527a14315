"""Streams: each byte leaves in time, whatever the client takes; who left is noticed; threads of the app may write."""

import hashlib
import re
import shutil
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import Certificate
from tests.harness import read_to_end, wait_until
from tests.process.gateway_clients import spell
from tests.process.stream_site import pattern
from tests.process.streams import LARGE, SMALL_WINDOW, fifo_of, open_stream, port_of, read_slowly, serve, with_threads
from tests.process.tools import Gate, lives, one_request, sockets
from tests.process.wires import Verdict, Wire, dial

LATE_S = 0.25  # a bound, not an expectation: machines that run tests are slow and shared
_EVENT = re.compile(rb"<event ([0-9.]{17})>")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset


def read_bytes(sock: socket.socket, size: int, patience_s: float = 10.0) -> None:
    """Read so many bytes, or fail when nothing more comes for long."""
    sock.settimeout(patience_s)
    got = 0
    try:
        while got < size:
            data = sock.recv(1 << 18)
            assert data, f"the connection ended after {got} of {size} bytes"
            got += len(data)
    except TimeoutError:
        raise AssertionError(f"nothing came for {patience_s} s after {got} of {size} bytes") from None


def lateness(sock: socket.socket) -> list[float]:
    """Read to the end as quickly as it comes; how late each event was, in seconds."""
    found: list[float] = []
    with sock:
        tail = b""
        while data := sock.recv(1 << 18):
            now = time.monotonic()
            tail += data
            end = 0
            for match in _EVENT.finditer(tail):
                found.append(now - float(match[1]))
                end = match.end()
            tail = tail[max(end, len(tail) - 24) :]
    return found


# In time


@with_threads
@pytest.mark.parametrize("front", ["http", "tls", "uwsgi", "fastcgi"])
def test_event_behind_a_large_piece_arrives_in_time(threads: int, front: str, tmp_path: Path) -> None:
    if front == "tls" and shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificates")
    made = Certificate(tmp_path, "streams") if front == "tls" else None
    target = f"/events?size={LARGE}&count=4&by="
    with (
        serve(
            workers=2, threads=threads, certfile=made.file if made else None, keyfile=made.key if made else None
        ) as s,
        ThreadPoolExecutor() as pool,
    ):
        streams = [open_stream(s, front, target + by) for by in ("yield", "write")]
        for late in pool.map(lateness, streams):
            assert len(late) == 4
            assert max(late) < LATE_S, late


@with_threads
@pytest.mark.parametrize("by", ["yield", "write"])
def test_event_behind_a_piece_that_leaves_in_parts_arrives_in_time(threads: int, by: str) -> None:
    with serve(threads=threads) as s:
        late = lateness(open_stream(s, "http", f"/events?size=100000&count=4&by={by}", window=SMALL_WINDOW))
        assert len(late) == 4
        assert max(late) < LATE_S, late


@with_threads
@pytest.mark.parametrize("front", ["http", "uwsgi", "fastcgi", "scgi"])
@pytest.mark.parametrize("by", ["yield", "thread"])
def test_reader_gets_all_of_a_large_piece_while_the_app_is_silent(threads: int, front: str, by: str) -> None:
    with (
        serve(threads=threads) as s, Gate(s) as gate,
        open_stream(s, front, f"/gated?size={LARGE}&by={by}&gate={fifo_of(gate)}") as sock,
    ):  # fmt: skip
        read_bytes(sock, LARGE)
        gate.wait_entered()
        gate.open()
        assert b"the end" in read_to_end(sock)


@with_threads
def test_events_arrive_in_time_while_another_reader_of_the_same_worker_takes_nothing(threads: int) -> None:
    with (
        serve(threads=threads) as s,
        open_stream(s, "http", "/pieces?size=13000000&piece=60000&note=done", window=4096),
    ):
        wait_until((s.folder / "done").exists, "the response to wait for its reader")
        late = lateness(open_stream(s, "http", f"/events?size={LARGE}&count=4"))
        assert len(late) == 4
        assert max(late) < LATE_S, late


# Who has left


@with_threads
@pytest.mark.parametrize("by", ["yield", "write"])
@pytest.mark.parametrize("front", ["http", "uwsgi"])
def test_app_learns_at_its_next_piece_that_its_client_has_left(threads: int, by: str, front: str) -> None:
    with serve(threads=threads) as s, Gate(s) as gate:
        [worker] = s.workers()
        note, before = s.folder / "note", sockets(worker)
        sock = open_stream(s, front, f"/endless?by={by}&gate={fifo_of(gate)}&note={note}", window=SMALL_WINDOW)
        with sock:
            assert sock.recv(1000)
            gate.wait_entered()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        gate.open()
        wait_until(note.exists, "the end of the body")
        assert int(note.read_text()) <= 2, "one piece may have left into the void, or be the one that tells"
        wait_until(lambda: sockets(worker) <= before, "the end of its connection")
        assert s.workers() == [worker]


def test_four_streams_whose_clients_have_left_hold_no_thread() -> None:
    with serve(threads=4) as s, ExitStack() as stack:
        gates = [stack.enter_context(Gate(s, f"gate{number}")) for number in range(4)]
        for number, gate in enumerate(gates):
            target = f"/endless?gate={fifo_of(gate)}&note={s.folder / f'note{number}'}"
            with open_stream(s, "http", target, window=SMALL_WINDOW) as sock:
                gate.wait_entered()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for gate in gates:
            gate.open()
        began = time.monotonic()
        assert s.get_at(s.addresses[0], "/free").status == 200
        assert time.monotonic() - began < 3.0, "else each of them goes on for 5 s"
        for number in range(4):
            wait_until((s.folder / f"note{number}").exists, "the end of each body")
            assert int((s.folder / f"note{number}").read_text()) <= 2


# Who was killed


@pytest.mark.parametrize("size", [1000, LARGE], ids=["all of it taken", "some of it waits"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:0", "http://unix:http", "uwsgi://127.0.0.1:0", "uwsgi://unix:uwsgi",
                "scgi://127.0.0.1:0", "scgi://unix:scgi", "fastcgi://127.0.0.1:0", "fastcgi://unix:fastcgi"],
)  # fmt: skip
@with_threads
def test_answer_of_a_worker_that_is_killed_does_not_look_whole(threads: int, address: str, size: int) -> None:
    protocol = address.partition(":")[0]
    with serve(threads=threads, bind=[address], expect=["worker exited"]) as s, Gate(s) as gate:
        [worker] = s.workers()
        with s.connect(s.addresses[0].removeprefix("http://")) as sock:
            wire = Wire(sock)
            target = f"/gated?size={size}&gate={fifo_of(gate)}"
            if protocol == "http":
                wire.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            else:
                wire.send(spell(protocol, target))
            gate.wait_entered()
            if size == 1000:
                wait_until(lambda: len(sock.recv(10_000, socket.MSG_PEEK)) > size, "all of it")
            s.kill(worker)
            wait_until(lambda: not lives(worker), "its end")
            came = wire.read(protocol)
        assert came.verdict is Verdict.CUT, f"{came.verdict}, {len(came.body)} bytes, end {came.end!r}"


# Threads of the app


@with_threads
@pytest.mark.parametrize("spool", ["1GiB", "0"])
def test_what_a_thread_of_the_app_writes_arrives_whole(threads: int, spool: str) -> None:
    with serve(threads=threads, limit_response_spool=spool) as s:
        came = read_slowly(s, "/pieces?by=thread&size=13000000&piece=70000")
        assert (came.verdict, bytes(came.body) == pattern(13_000_000)) == (Verdict.WHOLE, True), len(came.body)
        assert s.lines("app raised") == []


@with_threads
def test_a_thread_of_the_app_reads_a_body_that_still_arrives(threads: int) -> None:
    body = pattern(300_000)
    with serve(threads=threads, stream_request_body="true") as s:
        with dial(("127.0.0.1", port_of(s))) as sock:
            sock.sendall(f"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            for at in range(0, len(body), 100_000):
                sock.sendall(body[at : at + 100_000])
                time.sleep(0.1)  # this client is slow
            came = Wire(sock).read("http")
        assert (came.status, came.body.decode()) == (200, hashlib.md5(body).hexdigest())


@with_threads
@pytest.mark.parametrize("moment", ["before the next request", "amid the next request"])
def test_write_after_the_end_of_the_response_raises_and_reaches_nobody(threads: int, moment: str) -> None:
    with (
        serve(threads=threads, keepalive=30, accesslog="access.log", expect=["app sent more"]) as s,
        Gate(s) as late,
        Gate(s, "next") as following,
    ):
        note, lines = s.folder / "note", s.folder / "access.log"
        with dial(("127.0.0.1", port_of(s))) as sock:
            wire = Wire(sock)
            wire.send(one_request(f"/late?gate={fifo_of(late)}&note={note}", close=False))
            assert wire.read("http").body == b"answered"
            late.wait_entered()
            if moment == "before the next request":
                wait_until(lambda: "/late" in lines.read_text(), "the end of the request: its answer comes before that")
                late.open()
                wait_until(note.exists, "the late write")
                wire.send(one_request("/next"))
            else:
                wire.send(one_request(f"/next?gate={fifo_of(following)}"))
                following.wait_entered()
                late.open()
                wait_until(note.exists, "the late write")
                following.open()
            came = wire.read("http")
            assert (came.status, bytes(came.body)) == (200, f"/next {hashlib.md5().hexdigest()}".encode())
            assert wire.rest() == (b"", "end")
        assert note.read_text().startswith("raised ")
