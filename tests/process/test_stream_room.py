"""Streams that their clients do not take: they cost little memory, and are whole where disk or descriptors are short.

FORKSERVE_FULL=1: more readers of the smallest pieces.
"""

import hashlib
import os
import resource
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.harness import PATIENCE_S, Server, read_to_end, wait_until
from tests.process.stream_site import pattern
from tests.process.streams import SMALL_WINDOW, open_stream, port_of, read_slowly, serve, with_threads
from tests.process.tools import lives, may_mount, on_small_disk, one_request
from tests.process.wires import Verdict, Wire, dial

FULL = "FORKSERVE_FULL" in os.environ
DISK = "4m"  # with a limit_spool far above it, so that it is the disk that is full
NO_ROOM = ["no room", "cannot accept", "descriptor"]


@pytest.mark.parametrize(
    ("piece", "size", "threads"),
    [(65_536, 3_000_000, 1), (65_536, 3_000_000, 4), (50, 2_000_000, 1), (50, 2_000_000, 4), (5, 800_000, 1)],
)
def test_stalled_readers_cost_little_memory_however_small_the_pieces_are(piece: int, size: int, threads: int) -> None:
    readers = 40 if FULL or piece > 50 else 8  # the app takes a second for each body of small pieces
    with serve(threads=threads, send_timeout=120) as s, ExitStack() as held:
        [worker] = s.workers()
        process = psutil.Process(worker)
        came = read_slowly(s, f"/pieces?size={size}&piece={piece}", slow_s=0.0)
        assert bytes(came.body) == pattern(size)
        before = process.memory_info().rss
        place = ("127.0.0.1", port_of(s))
        wires = [Wire(held.enter_context(dial(place, window=SMALL_WINDOW))) for _ in range(readers)]
        for wire in wires:
            wire.send(one_request(f"/pieces?size={size}&piece={piece}&note=done"))
        # All of them are made, since a response waits in a file beyond its memory.
        wait_until(partial(_is_long, s.folder / "done", readers), "all bodies to be made", 4 * PATIENCE_S)
        grown = process.memory_info().rss - before
        assert grown < readers * 1.25 * 2**20 + (12 << 20), f"{grown >> 20} MiB for {readers} readers"
        for wire in wires[:4]:
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
    with serve(threads=threads, launcher=on_small_disk("tmp", DISK), limit_spool="1GiB", expect=NO_ROOM) as s:
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
    with serve(threads=threads, expect=NO_ROOM) as s:
        with s.connect(s.addresses[0]) as sock:  # the folder is chosen while it is there
            sock.sendall(post(600_000))
            assert upload_page(600_000) in read_to_end(sock)
        (s.folder / "tmp").rmdir()
        all_whole(s, 6)


@with_threads
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs the prlimit command")
def test_answers_are_whole_while_descriptors_are_few(threads: int) -> None:
    launcher = ["prlimit", "--nofile=40:40"]
    with serve(threads=threads, launcher=launcher, expect=NO_ROOM) as s:
        all_whole(s, 25)


@with_threads
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_an_upload_waits_for_room_on_the_disk_and_is_not_refused(threads: int) -> None:
    size = 1_000_000
    with serve(threads=threads, launcher=on_small_disk("tmp", DISK), limit_spool="1GiB", expect=NO_ROOM) as s:
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
    with serve(threads=threads, expect=NO_ROOM) as s:
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
