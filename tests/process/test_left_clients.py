"""Requests whose client has left while they waited are not run; those of a half-closed one are."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, read_to_end, wait_until
from tests.process.tools import Gate, one_request

APP = """
import os
from urllib.parse import unquote
def app(environ, start_response):
    path, _, query = environ["RAW_URI"].partition("?")
    with open(os.environ["RAN"], "a") as file:
        file.write(path + "\\n")
    if path == "/gate":
        open(unquote(query)).read()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest) -> str:
    return {"tcp": "127.0.0.1:0", "unix": "unix:sock"}[request.param]


def serving(bind: str, ran: Path, **settings: Any) -> Server:
    s = Server(app="left_app:app", workers=1, bind=[bind], env={"RAN": str(ran)}, **settings)
    s.write_app(APP, "left_app")
    return s


def leave(sock: socket.socket) -> None:
    """Be gone for good: a reset where there is one, else the end of a unix socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def lines(ran: Path) -> list[str]:
    return ran.read_text().split() if ran.exists() else []


@pytest.mark.parametrize("settings", [{}, {"relay": "false"}, {"threads": 2}], ids=["relay", "no relay", "threads"])
def test_request_that_waited_in_the_queue_is_not_run_for_nobody(
    bind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    with serving(bind, ran, **settings) as s:
        [address] = s.addresses
        count = settings.get("threads", 1)
        gates = [Gate(s, f"gate{number}") for number in range(count)]
        busy = [s.connect(address) for _ in gates]
        for gate, sock in zip(gates, busy, strict=True):
            sock.sendall(one_request(gate.path, close=True))
            gate.wait_entered()
        gone, half = s.connect(address), s.connect(address)
        gone.sendall(one_request("/gone"))
        leave(gone)
        half.sendall(one_request("/half"))
        half.shutdown(socket.SHUT_WR)
        for gate, sock in zip(gates, busy, strict=True):
            gate.open()
            assert read_to_end(sock).endswith(b"ok")
            sock.close()
        assert read_to_end(half).endswith(b"ok"), "a half-closed client waits for its answer"
        half.close()
        assert "/half" in lines(ran) and "/gone" not in lines(ran)


@pytest.mark.parametrize("threads", [1, 2])
def test_rest_of_a_pipeline_is_not_run_for_nobody(threads: int, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with serving("127.0.0.1:0", ran, threads=threads) as s:
        [address] = s.addresses
        with Gate(s) as gate:
            sock = s.connect(address)
            sock.sendall(one_request(gate.path, close=False) + one_request("/behind", close=False) * 3)
            gate.wait_entered()
            leave(sock)
            gate.open()
        wait_until(lambda: s.get_at(address, "/last").status == 200, "that the worker goes on")
        assert "/behind" not in lines(ran)
        assert lines(ran)[-1] == "/last"
