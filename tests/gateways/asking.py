"""A client of the web servers: plain http.client, from an address of its own, with targets as they are written."""

import ssl
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPSConnection

from tests.gateways.webservers import Front
from tests.harness import Answer

CLIENT = "127.0.0.7"  # another one than any web server's
PATIENCE_S = 30.0


def connect(front: Front) -> HTTPConnection:
    """A connection to a front."""
    if not front.tls:
        return HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE_S, source_address=(CLIENT, 0))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(
        "127.0.0.1", front.port, context=context, timeout=PATIENCE_S, source_address=(CLIENT, 0)
    )  # fmt: skip


def send(connection: HTTPConnection, target: str, method: str = "GET", **headers: str) -> None:
    """Send a head alone."""
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": "shop.example"} | headers).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()


def ask(front: Front, target: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """Ask once, over a connection of its own."""
    connection = connect(front)
    try:
        if body:
            headers["Content-Length"] = str(len(body))
        send(connection, target, method, **headers)
        if body:
            connection.send(body)
        with connection.getresponse() as response:
            return Answer(response)
    finally:
        connection.close()


def ask_chunked(front: Front, target: str, pieces: Iterable[bytes]) -> Answer:
    """POST a body in chunks."""
    connection = connect(front)
    try:
        send(connection, target, "POST", Transfer_Encoding="chunked")
        for piece in pieces:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        with connection.getresponse() as response:
            return Answer(response)
    finally:
        connection.close()
