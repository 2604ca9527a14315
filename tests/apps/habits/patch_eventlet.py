"""The habit: eventlet.monkey_patch() at the top of the module, of a service that once ran under eventlet workers."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import eventlet

# PATCH: what not to patch, such as "thread".
eventlet.monkey_patch(**{name: False for name in os.environ.get("PATCH", "").split(",") if name})


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Sleep where the query says so, and count the body."""
    time.sleep(float(environ["QUERY_STRING"] or 0))
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % size]
