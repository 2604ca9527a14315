"""The habit: socket.socket is a class of the app's own, as proxies by SOCKS do it."""

import os
import socket
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


class Proxied(socket.socket):
    """A socket that connects by somebody else."""

    def connect(self, address: Any) -> None:
        raise OSError("no way out")


socket.socket = Proxied  # type: ignore[misc]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
