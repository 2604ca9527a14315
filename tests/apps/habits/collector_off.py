"""The habit: the garbage collector is off, frozen, and its thresholds are zero."""

import gc
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

gc.disable()
gc.freeze()
gc.set_threshold(0)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
