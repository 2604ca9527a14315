"""A web server's side of uwsgi, FastCGI and SCGI, by hand: what the tests of gateways ask with."""

import json
import socket
from typing import Any

from tests.harness import Server, read_to_end
from tests.unit.gateways import fastcgi_request, scgi_request, uwsgi_packet

PROTOCOLS = ("uwsgi", "fastcgi", "scgi")


def variables(path: str = "/", method: str = "GET", length: int = 0, **more: str) -> dict[str, str]:
    """What a web server would say of such a request."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "REQUEST_URI": path + (f"?{query}" if query else ""),
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(length) if length else "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "443",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTPS": "on",
        "HTTP_HOST": "example.org",
        **more,
    }


def spell(protocol: str, path: str = "/", method: str = "GET", body: bytes = b"", **more: str) -> bytes:
    """One whole request; FastCGI's asks for the connection to end."""
    said = variables(path, method, len(body), **more)
    if protocol == "uwsgi":
        return uwsgi_packet(said, body)
    return fastcgi_request(said, body) if protocol == "fastcgi" else scgi_request(said, body)


class Reply:
    """One response as the gateway reads it."""

    def __init__(self, protocol: str, raw: bytes) -> None:
        self.raw = raw
        self.is_ended = True
        if protocol == "fastcgi":
            raw, self.is_ended, _ = stdout_of(raw)
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        first = "HTTP/1.1 " if protocol == "uwsgi" else "Status: "
        assert lines[0].startswith(first), raw[:100]
        self.status = lines[0].removeprefix(first)
        self.headers = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: Server, protocol: str, path: str = "/", method: str = "GET", body: bytes = b"", **more: str) -> Reply:
    """Ask over a connection of its own, at the server's address of this protocol."""
    with server.connect(address_of(server, protocol)) as sock:
        sock.sendall(spell(protocol, path, method, body, **more))
        return Reply(protocol, read_to_end(sock))


def address_of(server: Server, protocol: str) -> str:
    """Where the server speaks it."""
    return next(address for address in server.addresses if address.startswith(protocol + "://"))


def stdout_of(raw: bytes) -> tuple[bytes, bool, bytes]:
    """Take FastCGI records apart: STDOUT, whether END_REQUEST came, and what follows that."""
    found, at = b"", 0
    while at < len(raw):
        kind, size, padding = raw[at + 1], int.from_bytes(raw[at + 4 : at + 6], "big"), raw[at + 6]
        content = raw[at + 8 : at + 8 + size]
        at += 8 + size + padding
        if kind == 6:
            found += content
        elif kind == 3:
            return found, True, raw[at:]
    return found, False, b""


def read_request_end(sock: socket.socket) -> Reply:
    """Read one FastCGI response of a kept connection."""
    raw = b""
    while not (raw and stdout_of(raw)[1]):
        piece = sock.recv(65536)
        assert piece, f"the connection ended: {raw[-100:]!r}"
        raw += piece
    return Reply("fastcgi", raw)
