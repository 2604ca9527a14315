"""The environ templates: what is the same for every request of a listener, and of a connection.

A request's environ is a copy of its connection's template into which the decoder writes. PEP 3333, "environ Variables".
"""

from collections.abc import Callable
from typing import Any

from forkserve import __version__
from forkserve.log import errors_stream
from forkserve.protocol.types import Environ
from forkserve.wsgi.files import FileWrapper

SOFTWARE = f"forkserve/{__version__}"


def listener_template(
    server_name: str, server_port: str, *, generation: int, slot: int, extend_deadline: Callable[[float], None]
) -> Environ:
    """Return the part of every environ that a listener decides. ``server_port`` is a str, never empty.

    Every key that each request has is here, with an empty value where the request decides: so there are more than 21
    keys, and CPython gives the copies room for 42 before they must grow, which costs 0.3 us.
    """
    return {
        "REQUEST_METHOD": "",
        "SCRIPT_NAME": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "RAW_URI": "",
        "REQUEST_URI": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": SOFTWARE,
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": errors_stream,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,  # also with one worker: two of them serve during a reload
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "forkserve.generation": generation,
        "forkserve.slot": slot,
        "forkserve.extend_deadline": extend_deadline,
        "forkserve.retire": _stay,
    }


def _stay() -> None:
    """Ask for nothing: where no worker serves (a CGI program), the process ends after the request anyway."""


def connection_template(listener: Environ, peer: Any) -> Environ:
    """Return the listener's template with the peer of one connection: (host, port, ...) or a unix peer's name."""
    template = listener.copy()
    if isinstance(peer, tuple):
        template["REMOTE_ADDR"] = peer[0]
        template["REMOTE_PORT"] = str(peer[1])
    return template
