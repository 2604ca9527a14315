"""Whose requests the end of a worker cuts off, by name: its stacks show our own loop, which says nothing of them.

Runs in a worker, in the handler of the order to end.
"""

import sys
from collections.abc import Iterable
from typing import Any

from forkserve.log import log
from forkserve.worker.connection import Connection
from forkserve.worker.outlet import peer_name
from forkserve.worker.state import BODY, HEAD, POOLED, RUNNING, WRITING
from forkserve.wsgi.response import OVERDUE

_MOST_NAMED = 10


def tell(connections: Iterable[Connection], *, with_running: bool) -> None:
    """Log whom the end leaves without a whole answer, the first ones by name; ``with_running``: also those whose
    request the app has not ended."""
    states = (RUNNING, WRITING, BODY, HEAD) if with_running else (WRITING, BODY, HEAD)
    cut = [connection for connection in connections if connection.state in states]
    for connection in cut[:_MOST_NAMED]:
        log.warning("request was cut off", **_about(connection))
    if len(cut) > _MOST_NAMED:
        log.warning("more requests were cut off", count=len(cut) - _MOST_NAMED)


def _about(connection: Connection) -> dict[str, object]:
    about: dict[str, object] = {"peer": peer_name(connection.peer)}
    response = connection.response
    kept = connection.kept_bytes
    if connection.state is RUNNING and response is not None:
        about["request"] = response.request[1].decode("latin-1")
        about["waited_for"] = "the app"
        if response.status == OVERDUE:
            about["answered"] = response.code
        elif response.head_sent:
            about["given_bytes"] = response.body_bytes
    elif connection.state is WRITING:
        about["request"] = connection.answered.decode("latin-1")
        about["waited_for"] = "the client to take the rest"
    else:
        told = connection.told()
        method, target = told.get("REQUEST_METHOD", ""), told.get("RAW_URI", told.get("PATH_INFO", ""))
        about["request"] = f"{method} {target}".strip() or "(a part of its head)"
        about["waited_for"] = "the client to send the rest"
    if kept:
        about["untaken_bytes"] = kept
    return about


def has_threads() -> bool:
    """Whether the app has started threads that live: then the stacks may tell something."""
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return False
    known = (threading._DummyThread, threading._MainThread)  # our flusher is one of the first, once it has been asked
    return any(not isinstance(thread, known) and not thread.name.startswith(POOLED) for thread in threading.enumerate())
