"""The habit: an interval timer, whose handler runs a hundred times a second."""

import os
import signal
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

ticks: list[None] = []
signal.signal(signal.SIGALRM, lambda signum, frame: ticks.append(None))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
