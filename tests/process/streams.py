"""What the tests of streams share: a server of tests/process/stream_site.py at every front end, and who reads it."""

import socket

import pytest

from tests.harness import Server
from tests.process.gateway_clients import address_of, spell
from tests.process.tools import Gate, one_request
from tests.process.wires import Came, Pace, Wire, dial
from tests.unit.tls_pair import client_context

SITE = "tests.process.stream_site:app"
BIND = ["http://127.0.0.1:0", "uwsgi://unix:uwsgi.sock", "fastcgi://unix:fastcgi.sock", "scgi://unix:scgi.sock"]
LARGE = 6_000_000  # more than any socket holds
SMALL_WINDOW = 1 << 16
with_threads = pytest.mark.parametrize("threads", [1, 4])


def serve(**settings: object) -> Server:
    """A server of the streams at every front end; its temporary files have a folder of their own."""
    s = Server(app=SITE, **{"bind": BIND, **settings})  # type: ignore[arg-type]  # settings, not the harness's own
    (s.folder / "tmp").mkdir()
    s.env["TMPDIR"] = str(s.folder / "tmp")
    return s


def port_of(s: Server) -> int:
    """Where it speaks HTTP."""
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
    """The path of a gate's FIFO."""
    return gate.path.partition("?")[2]


def read_slowly(s: Server, target: str, *, window: int = SMALL_WINDOW, slow_s: float = 1.0) -> Came:
    """Read one answer over HTTP/1.1, slowly at first."""
    wire = Wire(dial(("127.0.0.1", port_of(s)), window=window), Pace(slow_s, 0.05, 20_000))
    try:
        wire.send(one_request(target))
        return wire.read("http")
    finally:
        wire.close()
