"""Streams: each byte leaves in time, whatever the client takes; who left is noticed; what waits is little and whole."""

import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.certificates import Certificate
from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.gateway_clients import address_of, spell
from tests.process.stream_site import pattern
from tests.process.tools import Gate, lives, may_mount, on_small_disk, one_request, sockets
from tests.process.wires import Came, Pace, Verdict, Wire, dial
from tests.unit.tls_pair import client_context

SITE = "tests.process.stream_site:app"
BIND = ["http://127.0.0.1:0", "uwsgi://unix:uwsgi.sock", "fastcgi://unix:fastcgi.sock", "scgi://unix:scgi.sock"]
FULL = "FORKSERVE_FULL" in os.environ
LARGE = 6_000_000  # more than any socket holds
LATE_S = 0.25  # a bound, not an expectation: machines that run tests are slow and shared
SMALL_WINDOW = 1 << 16
_EVENT = re.compile(rb"<event ([0-9.]{17})>")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset
with_threads = pytest.mark.parametrize("threads", [1, 4])


def serve(**settings: object) -> Server:
    """A server of the streams at every front end; its temporary files have a folder of their own."""
    s = Server(app=SITE, **{"bind": BIND, **settings})  # type: ignore[arg-type]  # settings, not the harness's own
    (s.folder / "tmp").mkdir()
    s.env["TMPDIR"] = str(s.folder / "tmp")
    return s


def port_of(s: Server) -> int:
    return int(s.addresses[0].rpartition(":")[2])


def open_stream(s: Server, front: str, target: str, *, window: int = 0) -> socket.socket:
    """Ask for a stream at a front end ("http", "tls" or a gateway's) over a connection of its own."""
    if front in ("http", "tls"):
        sock = dial(("127.0.0.1", port_of(s)), window=window, tls=client_context() if front == "tls" else None)
        sock.sendall(one_request(target))
    else:
        sock = s.connect(address_of(s, front))
        sock.sendall(spell(front, target))
    return sock


def fifo_of(gate: Gate) -> str:
    return gate.path.partition("?")[2]


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
    with serve(threads=threads) as s, open_stream(s, "http", "/pieces?size=13000000&piece=60000", window=4096):
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
        note = s.folder / "note"
        sock = open_stream(s, front, f"/endless?by={by}&gate={fifo_of(gate)}&note={note}", window=SMALL_WINDOW)
        with sock:
            assert sock.recv(1000)
            gate.wait_entered()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        gate.open()
        wait_until(note.exists, "the end of the body")
        assert int(note.read_text()) <= 2, "one piece may have left into the void, or be the one that tells"
        wait_until(lambda: sockets(worker) <= 8, "the end of its connection")
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


def read_slowly(s: Server, target: str, *, window: int = SMALL_WINDOW, slow_s: float = 1.0) -> Came:
    """Read one answer over HTTP/1.1, slowly at first."""
    wire = Wire(dial(("127.0.0.1", port_of(s)), window=window), Pace(slow_s, 0.05, 20_000))
    try:
        wire.send(one_request(target))
        return wire.read("http")
    finally:
        wire.close()


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
    with serve(threads=threads, keepalive=30) as s, Gate(s) as late, Gate(s, "next") as following:
        note = s.folder / "note"
        with dial(("127.0.0.1", port_of(s))) as sock:
            wire = Wire(sock)
            wire.send(one_request(f"/late?gate={fifo_of(late)}&note={note}", close=False))
            assert wire.read("http").body == b"answered"
            late.wait_entered()
            if moment == "before the next request":
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


# Memory, disk, descriptors


@pytest.mark.parametrize(
    ("piece", "size", "threads"),
    [(65_536, 3_000_000, 1), (65_536, 3_000_000, 4), (50, 2_000_000, 1), (50, 2_000_000, 4), (5, 800_000, 1)],
)
def test_stalled_readers_cost_little_memory_however_small_the_pieces_are(piece: int, size: int, threads: int) -> None:
    readers = 40 if FULL or piece > 5 else 20  # the app takes a second for each body of such pieces
    with serve(threads=threads, send_timeout=120) as s, ExitStack() as held:
        [worker] = s.workers()
        process = psutil.Process(worker)
        came = read_slowly(s, f"/pieces?size={size}&piece={piece}", slow_s=0.0)
        assert bytes(came.body) == pattern(size)
        before = process.memory_info().rss
        place = ("127.0.0.1", port_of(s))
        wires = [Wire(held.enter_context(dial(place, window=SMALL_WINDOW))) for _ in range(readers)]
        for wire in wires:
            wire.send(one_request(f"/pieces?size={size}&piece={piece}"))
        # All of them are made, since a response waits in a file beyond its memory.
        wait_until(partial(_is_long, s.folder / "done", readers + 1), "all bodies to be made", 4 * PATIENCE_S)
        grown = process.memory_info().rss - before
        assert grown < readers * 1.25 * 2**20 + (16 << 20), f"{grown >> 20} MiB for {readers} readers"
        for wire in wires:
            came = wire.read("http")
            assert (came.verdict, bytes(came.body) == pattern(size)) == (Verdict.WHOLE, True)


def _is_long(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size >= size


def inside(s: Server) -> Path:
    """The folder of temporary files, as the server sees it."""
    return Path(f"/proc/{s.pid}/root{s.folder}/tmp")


def fill(folder: Path) -> Path:
    """Fill a disk; remove the file to have room again."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def post(size: int) -> bytes:
    head = f"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + pattern(size)


def upload_page(size: int) -> bytes:
    return f"/upload {hashlib.md5(pattern(size)).hexdigest()}".encode()


def all_whole(s: Server, readers: int) -> None:
    """So many slow readers of 10 MB at once: each gets all of it."""
    with ThreadPoolExecutor(readers) as pool:
        target = "/pieces?size=10000000&piece=200000"
        found = list(pool.map(lambda _: read_slowly(s, target, window=1 << 18), range(readers)))
    whole = pattern(10_000_000)
    assert [(came.verdict, came.status, bytes(came.body) == whole) for came in found] == [
        (Verdict.WHOLE, 200, True)
    ] * readers


@with_threads
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_answers_are_whole_while_the_disk_under_their_spool_is_full(threads: int) -> None:
    with serve(threads=threads, launcher=on_small_disk("tmp", "2m"), expect=["stored", "spool", "disk"]) as s:
        with s.connect(s.addresses[0]) as sock:  # the folder is chosen while there is room
            sock.sendall(post(600_000))
            assert upload_page(600_000) in read_to_end(sock)
        filler = fill(inside(s))
        all_whole(s, 6)
        filler.unlink()
        all_whole(s, 6)
        assert list(inside(s).iterdir()) == []


@with_threads
def test_answers_are_whole_where_the_folder_of_temporary_files_is_missing(threads: int) -> None:
    s = serve(threads=threads)
    s.env["TMPDIR"] = "/nonexistent"
    with s:
        all_whole(s, 6)


@with_threads
def test_answers_are_whole_though_the_folder_of_temporary_files_goes_away(threads: int) -> None:
    with serve(threads=threads, expect=["stored", "spool", "disk"]) as s:
        with s.connect(s.addresses[0]) as sock:  # the folder is chosen while it is there
            sock.sendall(post(600_000))
            assert upload_page(600_000) in read_to_end(sock)
        (s.folder / "tmp").rmdir()
        all_whole(s, 6)


@with_threads
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs the prlimit command")
def test_answers_are_whole_while_descriptors_are_few(threads: int) -> None:
    launcher = ["prlimit", "--nofile=40:40"]
    with serve(threads=threads, launcher=launcher, expect=["cannot accept", "descriptor", "Too many"]) as s:
        all_whole(s, 25)


@with_threads
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_an_upload_waits_for_room_on_the_disk_and_is_not_refused(threads: int) -> None:
    size = 1_000_000
    with serve(threads=threads, launcher=on_small_disk("tmp", "2m"), expect=["stored", "spool", "disk", "body"]) as s:
        with s.connect(s.addresses[0]) as sock:
            sock.sendall(post(600_000))
            assert upload_page(600_000) in read_to_end(sock)
        filler = fill(inside(s))
        with s.connect(s.addresses[0]) as sock:
            sender = threading.Thread(target=_send, args=(sock, post(size)))
            sender.start()
            try:
                sock.settimeout(1.0)
                with pytest.raises(TimeoutError):
                    raise AssertionError(f"answered without room: {sock.recv(1000)!r}")
            finally:
                filler.unlink()
                sock.settimeout(PATIENCE_S)
                sender.join()
            assert upload_page(size) in read_to_end(sock)


@with_threads
def test_an_upload_waits_for_a_descriptor_and_is_not_refused(threads: int) -> None:
    size = 1_000_000
    with serve(threads=threads, expect=["cannot accept", "descriptor", "Too many", "body"]) as s:
        [worker] = s.workers()
        with s.connect(s.addresses[0]) as sock:
            wire = Wire(sock)
            wire.send(one_request("/first", close=False))
            assert wire.read("http").status == 200
            before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, before[1]))  # what is open stays open
            sender = threading.Thread(target=_send, args=(sock, post(size)))
            sender.start()
            try:
                sock.settimeout(1.0)
                with pytest.raises(TimeoutError):
                    raise AssertionError(f"answered without a descriptor: {sock.recv(1000)!r}")
            finally:
                resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
                sock.settimeout(PATIENCE_S)
                sender.join()
            assert upload_page(size) in read_to_end(sock)


def _send(sock: socket.socket, raw: bytes) -> None:
    try:
        sock.sendall(raw)
    except OSError:
        pass  # the answer tells


def spools(s: Server, pid: int) -> Iterator[os.stat_result]:
    """What a process has open in the folder of temporary files."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(s.folder / "tmp")):
                yield os.stat(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass  # closed while we look


def test_spools_are_nobody_else_s_and_gone_with_the_worker_though_all_are_killed() -> None:
    with serve(expect=["master is gone"]) as s, ExitStack() as held:
        [worker] = s.workers()
        for _ in range(3):
            held.enter_context(open_stream(s, "http", "/pieces?size=10000000&piece=200000", window=4096))
        wait_until(lambda: len(list(spools(s, worker))) == 3, "three spools")
        for found in spools(s, worker):
            assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o600, 0)
        assert list((s.folder / "tmp").iterdir()) == []
        s.signal(signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not lives(worker), "the end of the worker")
        s.forget_pidfile()
        assert list((s.folder / "tmp").iterdir()) == []
