"""`reload_surge = 0`: an app that can live only once is replaced all the same, the old worker first."""

import signal
import socket
from typing import Any

import pytest

from tests.harness import Server, wait_until

QUICK: dict[str, Any] = {"reload_settle": 0, "workers": 1}
APP = """
import fcntl, os, socket

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%s %d" % (WORD, os.getpid())]

"""
TAKES = {
    "port": "taken = socket.socket()\ntaken.bind(('127.0.0.1', {port}))\ntaken.listen()\n",
    "lock": "taken = open('lock', 'w')\nfcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
}


def only_once(what: str, **settings: Any) -> tuple[Server, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        takes = TAKES[what].format(port=free.getsockname()[1])
    s = Server(app="fresh_app:app", **QUICK, **settings)
    s.write_app(APP + takes + "WORD = b'one'\n")
    return s, APP + takes


@pytest.mark.parametrize("what", TAKES)
def test_an_app_that_takes_something_at_import_is_reloaded_without_a_surge(what: str) -> None:
    s, source = only_once(what, reload_surge=0)
    with s:
        for generation, word in ((2, "two"), (3, "three")):
            s.write_app(source + f"WORD = b'{word}'\n")
            s.signal(signal.SIGHUP)
            s.wait_line(f"reload done gen={generation}")
            assert s.get().text.startswith(f"{word} ")
        s.signal(signal.SIGUSR2)
        s.wait_line("reload done gen=4")
        assert s.get().text.startswith("three ")


def test_an_app_that_takes_something_at_import_is_recycled_without_a_surge() -> None:
    s, _ = only_once("port", reload_surge=0, max_requests=2, max_requests_jitter=0)
    with s:
        pids = {s.get().text for _ in range(6)}
        assert len(pids) >= 2, "answers of more than one worker, and none lost"


@pytest.mark.parametrize("what", TAKES)
def test_the_line_that_says_why_it_cannot_boot_names_the_remedy(what: str) -> None:
    s, source = only_once(what, reload_retries=0)
    s.expect += ["could not boot", "reload failed", "worker exited"]
    with s:
        s.write_app(source + "WORD = b'two'\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        assert "reload_surge = 0" in s.wait_line("worker could not boot")
        assert s.get().text.startswith("one ")


def test_code_that_cannot_boot_costs_its_one_worker_until_the_old_generation_is_born_again() -> None:
    s, source = only_once("port", reload_surge=0, reload_retries=0)
    s.expect += ["could not boot", "reload failed", "worker exited", "degraded"]
    with s:
        s.write_app("raise RuntimeError('broken')\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload failed")
        s.write_app(source + "WORD = b'mended'\n")
        wait_until(lambda: s.lines("worker ready")[1:], "a worker of the old generation")
        assert s.get().text.startswith("mended ")
        assert "gen=1" in s.lines("worker ready")[1]
        assert "reload_surge" not in s.wait_line("worker could not boot")
