"""Processes that the app forks without exec: they hold nothing of the worker's, however long they live."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.probes import status
from tests.process.tools import lives, one_request, open_files

# /fork?HOW leaves a child behind that waits for its SIGTERM, and answers with its pid.
APP = """
import multiprocessing, os, signal, threading, time

def live():
    os.chdir("/")  # the harness looks for whoever stands in the server's folder
    while True:
        signal.pause()

def app(environ, start_response):
    pid = os.getpid()
    if environ["QUERY_STRING"] == "os":
        pid = os.fork()
        if pid == 0:
            live()
    elif environ["QUERY_STRING"] == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=live)
        child.start()
        pid = child.pid
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(pid).encode()]
"""


def _server() -> Server:
    s = Server(app="fresh_app:app", workers=1)
    s.write_app(APP)
    return s


@contextmanager
def _forked(s: Server, how: str) -> Iterator[int]:
    pid = int(s.get(f"/fork?{how}").text)
    try:
        wait_until(lambda: os.readlink(f"/proc/{pid}/cwd") == "/", "the child's own code")
        yield pid
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


def _is_gone(pid: int) -> bool:
    return not lives(pid)


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
def test_child_of_the_app_holds_no_listener_no_connection_and_no_channel(how: str) -> None:
    with _server() as s, s.connect() as kept:
        kept.sendall(one_request("/", close=False))
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        with _forked(s, how) as child:
            held = open_files(child)
            assert [target for target in held if target.startswith(("socket:", "anon_inode:"))] == []
            kept.sendall(one_request("/"))
            assert read_to_end(kept).startswith(b"HTTP/1.1 200"), "the end comes although the child lives"
            assert lives(child)
            assert s.workers(), "the worker serves on"


def test_client_sees_the_end_of_its_connection_although_the_child_lives_on() -> None:
    with _server() as s, s.connect() as sock:
        sock.sendall(one_request("/fork?os"))
        answer = read_to_end(sock)
        child = int(answer.rpartition(b"\r\n\r\n")[2])
        try:
            assert answer.startswith(b"HTTP/1.1 200")
            assert lives(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_port_can_be_bound_again_while_a_child_of_the_app_still_lives() -> None:
    with _server() as s, _forked(s, "os") as child:
        assert s.stop() == 0
        assert lives(child)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", s.port))
            again.listen()


def test_child_of_the_app_ends_by_the_signals_that_its_worker_is_deaf_to() -> None:
    with _server() as s:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            with _forked(s, "os") as child:
                os.kill(child, number)
                wait_until(partial(_is_gone, child), f"the end by {number.name}")
        assert status(s)["ends"] == {}
        assert s.get("/").text == str(s.workers()[0])


def test_master_notices_the_end_of_a_worker_whose_child_lives_on() -> None:
    with _server() as s, _forked(s, "os") as child:
        s.expect.append("worker exited")
        s.kill(int(s.get("/").text))
        s.wait_line("worker ready", count=2)
        assert lives(child)
        assert s.get("/").status == 200
