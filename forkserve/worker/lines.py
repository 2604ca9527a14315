"""The access line of an answer: one for each, with what the client took of it. Runs in a worker.

Most are written by the loop as soon as the app has ended. Here are those that wait for their client, and those of
answers that no app gave.
"""

from time import monotonic
from typing import TYPE_CHECKING

from forkserve.protocol.types import Environ
from forkserve.wsgi.response import Response

if TYPE_CHECKING:
    from forkserve.worker.connection import Connection

Unlogged = tuple[Environ, Response, float]  # the request, its answer, when it began


def note_later(connection: "Connection", environ: Environ, response: Response, began: float) -> None:
    """Have the line written when the client has taken the rest; now, if it has left."""
    connection.unlogged = (environ, response, began)
    if connection.fd < 0:
        note_now(connection)


def note_now(connection: "Connection") -> None:
    """Write the line that waits, if there is one."""
    unlogged, connection.unlogged = connection.unlogged, None
    access = connection.access
    if access is not None and unlogged is not None:
        environ, response, began = unlogged
        response.body_bytes = max(0, response.body_bytes - connection.unsent)
        access.note(environ, response, monotonic() - began)


def note_refusal(connection: "Connection", environ: Environ, status: str) -> None:
    """Have a line written for an answer of our own, to a request of which ``environ`` is known."""
    if connection.access is not None:
        response = Response.of((environ, b"", 0), connection, keep_alive=False)
        response.become_own_page(status)
        connection.unlogged = (environ, response, monotonic())
