"""The habit: sys.setprofile for every thread."""

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def profile(frame: Any, event: str, argument: Any) -> None:
    """Look on."""


threading.setprofile(profile)
sys.setprofile(profile)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
