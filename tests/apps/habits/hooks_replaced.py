"""The habit: sys.excepthook, threading.excepthook and sys.unraisablehook are the app's own."""

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def swallow(*given: object) -> None:
    """Say nothing."""


sys.excepthook = threading.excepthook = sys.unraisablehook = swallow


def fail() -> None:
    raise ValueError("in a thread")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    threading.Thread(target=fail).start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
