"""Streams through a real nginx that waits for little: what an app makes in time reaches the client in time, and whole.

With FORKSERVE_GATEWAYS=1 (make test-gateways) alone: nginx must be installed first.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.gateways.conftest import ANYBODY
from tests.gateways.webservers import free_port
from tests.harness import Server, wait_until
from tests.process.stream_site import pattern
from tests.process.tools import one_request
from tests.process.wires import Came, Verdict, Wire, dial

pytestmark = [
    pytest.mark.skipif(os.environ.get("FORKSERVE_GATEWAYS") != "1", reason="a real nginx is for `make test-gateways`"),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

# How nginx is told to speak each protocol, and what its settings for it begin with.
PASSES = {
    "http": ("proxy_pass http://unix:{sock}:; proxy_http_version 1.1;", "proxy"),
    "uwsgi": ("include /etc/nginx/uwsgi_params; uwsgi_pass unix:{sock};", "uwsgi"),
    "fastcgi": ("include /etc/nginx/fastcgi_params; fastcgi_pass unix:{sock};", "fastcgi"),
    "scgi": ("include /etc/nginx/scgi_params; scgi_pass unix:{sock};", "scgi"),
}
PIECES, PIECE = 16, 300_000


@contextmanager
def nginx(folder: Path, ports: dict[str, int]) -> Iterator[None]:
    """An nginx that gives its upstreams 3 s from one read to the next."""
    places = ""
    for protocol, port in ports.items():
        spelled, prefix = PASSES[protocol]
        places += (
            f"server {{ listen 127.0.0.1:{port}; location / {{ {spelled.format(sock=folder / protocol)}"
            f" {prefix}_read_timeout 3s; {prefix}_buffering off; }} }}\n"
        )
    temporary = "".join(
        f"{kind}_temp_path {folder}/t_{kind};" for kind in ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log info; user root;"
        f"events {{ worker_connections 64; }}\n"
        f"http {{ access_log off; {temporary}\n{places}}}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        for port in ports.values():
            wait_until(partial(_listens, port), "nginx")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def _export(port: int) -> Came:
    with dial(("127.0.0.1", port)) as sock:
        wire = Wire(sock)
        wire.send(one_request(f"/export?size={PIECES * PIECE}&piece={PIECE}"))
        return wire.read("http")


@pytest.mark.parametrize("threads", [1, 4])
def test_export_of_a_piece_each_half_second_arrives_whole(threads: int, tmp_path: Path) -> None:
    ports = {protocol: free_port() for protocol in PASSES}
    bind = [f"{protocol}://unix:{tmp_path / protocol}" for protocol in PASSES]
    app = "tests.process.stream_site:app"
    with (
        Server(app=app, bind=bind, workers=len(PASSES), threads=threads, launcher=ANYBODY),
        nginx(tmp_path, ports),
        ThreadPoolExecutor(len(ports)) as pool,
    ):
        found = dict(zip(ports, pool.map(_export, ports.values()), strict=True))
    seen = {protocol: (came.status, came.verdict, len(came.body), came.end) for protocol, came in found.items()}
    assert all(bytes(came.body) == pattern(PIECES * PIECE) for came in found.values()), seen
    assert all(came.verdict is Verdict.WHOLE for came in found.values()), seen
