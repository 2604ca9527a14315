"""The logs of a running server: what a client puts into them, and what happens to the service when nobody takes them."""

import os
import signal
from typing import Any

import pytest

from tests.client import Client
from tests.harness import Server, wait_until

SITE = "tests.apps.sites.plain:app"


def test_a_client_cannot_forge_an_access_line() -> None:
    with Server(app=SITE, accesslog="access") as s:
        with Client(s) as client:
            client.get('/a"b', 'User-Agent: x" 200 9 "y\\', "Authorization: Basic YSBiCmM6eA==").reply()
        access = s.folder / "access"
        wait_until(lambda: access.exists() and access.read_text(), "the access line")
        [line] = access.read_text().splitlines()
        assert line.startswith("127.0.0.1 - a\\x20b\\nc [")
        assert line.endswith('] "GET /a\\"b HTTP/1.1" 200 9 "-" "x\\" 200 9 \\"y\\\\"')


def test_access_lines_go_to_stdout_once_per_request() -> None:
    with Server(app=SITE, accesslog="-", access_log_format="%(m)s %(U)s %(s)s %(B)s") as s:
        with Client(s) as client:
            for target in ("/1", "/2"):
                client.get(target).reply()
            client.send(b"HEAD /3 HTTP/1.1\r\nHost: x\r\n\r\n").reply(is_head=True)
        wait_until(lambda: "/3" in s.said(), "the access lines")
        assert s.said().splitlines() == ["GET /1 200 7", "GET /2 200 7", "HEAD /3 200 0"]


def test_usr1_reopens_the_access_log() -> None:
    with Server(app=SITE, accesslog="access", access_log_format="%(U)s") as s:
        access, moved = s.folder / "access", s.folder / "access.1"
        s.get("/before")
        wait_until(lambda: access.exists() and access.read_text(), "the first line")
        access.rename(moved)
        s.signal(signal.SIGUSR1)
        wait_until(access.exists, "the new file")
        s.get("/after")
        wait_until(access.read_text, "the second line")
        assert (moved.read_text(), access.read_text()) == ("/before\n", "/after\n")


def full_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.parametrize("path", ["/dev/full", "pipe"])
@pytest.mark.parametrize("which", ["accesslog", "errorlog"])
def test_a_log_that_takes_nothing_stops_nobody(which: str, path: str) -> None:
    reading, writing = full_pipe()
    # Opened by its name in this process, which lives longer than the server.
    place = path if path != "pipe" else f"/proc/{os.getpid()}/fd/{writing}"
    settings: dict[str, Any] = {which: place}
    with Server(app=SITE, expect=["access log takes no lines"], **settings) as s:
        with Client(s) as client:
            for number in range(100):
                assert client.get(f"/{number}").reply().code == 200
                client.send(b"\r\n")
        assert s.exchange(b"\0").startswith(b"HTTP/1.1 400 ")
        if which == "accesslog":
            s.wait_line("access log takes no lines")
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_standard_stream_stops_nobody(closed: str) -> None:
    launcher = ("bash", "-c", f'exec "$0" "$@" {closed}>&-')
    with Server(app=SITE, launcher=launcher, accesslog="-", errorlog="-") as s:
        assert [s.get(f"/{number}").status for number in range(3)] == [200] * 3
        with Client(s) as client:
            assert client.send(b"\0").reply().code == 400


def test_without_both_standard_streams_nobody_stops_either() -> None:
    launcher = ("bash", "-c", 'exec "$0" "$@" >&- 2>&-')
    with Server(app=SITE, launcher=launcher, accesslog="-", errorlog="-") as s:
        assert [s.get(f"/{number}").status for number in range(3)] == [200] * 3
