"""The last answer of a connection arrives whole: what is unread, or has no room yet, cuts nothing of it."""

import hashlib
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import Certificate
from tests.harness import wait_until
from tests.process.streams import LARGE, SMALL_WINDOW, port_of, serve
from tests.process.tools import one_request, wait_retiring
from tests.process.wires import Verdict, Wire, dial
from tests.unit.tls_pair import client_context

with_threads = pytest.mark.parametrize("threads", [1, 4])


def post(size: int) -> bytes:
    return f"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size)


@with_threads
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "gathered"])
def test_an_upload_in_a_pipeline_of_a_retiring_worker_resets_nothing(threads: int, streams: bool) -> None:
    with serve(threads=threads, relay="false", stream_request_body=str(streams).lower(), reload_settle=0) as s:
        [worker] = s.workers()
        with dial(("127.0.0.1", port_of(s)), window=SMALL_WINDOW) as sock:
            wire = Wire(sock)
            first = one_request(f"/pieces?size={LARGE}&piece=200000", close=False)
            wire.send(first + post(100_000) + post(300_000))
            assert sock.recv(1, socket.MSG_PEEK)
            s.signal(signal.SIGHUP)
            wait_retiring(worker)
            came = wire.read("http")
            assert (came.verdict, len(came.body)) == (Verdict.WHOLE, LARGE)
            came = wire.read("http")
            assert (came.verdict, bytes(came.body)) == (Verdict.WHOLE, hashlib.md5(bytes(100_000)).hexdigest().encode())
            came = wire.read("http")
            assert (came.verdict, bytes(came.body)) == (Verdict.WHOLE, hashlib.md5(bytes(300_000)).hexdigest().encode())
            assert came.fields["connection"] == "close"
            assert wire.rest() == (b"", "end")


@with_threads
def test_the_end_of_tls_waits_for_room(threads: int, tmp_path: Path) -> None:
    made = Certificate(tmp_path, "here")
    lines = [f"GET /pieces?size={size}&piece=9000" for size in range(170_000, 215_000, 500)]  # its socket ends in there
    settings = {"certfile": made.file, "keyfile": made.key, "accesslog": "access.log"}
    with serve(threads=threads, bind=["unix:sock"], **settings) as s, ExitStack() as stack:
        wires = [Wire(stack.enter_context(dial(str(s.folder / "sock"), tls=client_context()))) for _ in lines]
        for wire, line in zip(wires, lines, strict=True):
            wire.send(f"{line} HTTP/1.0\r\n\r\n".encode())
        [worker] = s.workers()
        wait_until(lambda: "epoll" in Path(f"/proc/{worker}/wchan").read_text(), "all to wait for their clients")
        answers = [wire.read("http") for wire in wires]
        assert {(came.verdict, came.end) for came in answers} == {(Verdict.WHOLE, "end")}
