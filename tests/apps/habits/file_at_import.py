"""The habit: a file is opened at import and locked with flock(), by every worker in its turn."""

import fcntl
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

lock = open("lock", "w", encoding="ascii")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    fcntl.flock(lock, fcntl.LOCK_EX)
    fcntl.flock(lock, fcntl.LOCK_UN)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
