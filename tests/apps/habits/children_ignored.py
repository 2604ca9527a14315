"""The habit: signal(SIGCHLD, SIG_IGN), so that nobody has to wait for children."""

import os
import signal
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if os.fork() == 0:
        os._exit(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
