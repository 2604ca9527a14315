"""The habit: time stands still, as tests and demos have it: time.time and time.monotonic are replaced."""

import os
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

time.time = lambda: 1_000_000_000.0
time.monotonic = lambda: 1_000.0
time.sleep = lambda seconds: None


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
