"""The habit: sys.settrace for every thread, as coverage and debuggers do."""

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def trace(frame: Any, event: str, argument: Any) -> Any:
    return trace


threading.settrace(trace)
sys.settrace(trace)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
