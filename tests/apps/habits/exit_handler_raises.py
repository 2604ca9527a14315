"""The habit: exit handlers, one of which raises."""

import atexit
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


@atexit.register
def say_goodbye() -> None:
    with open(f"goodbye.{os.getpid()}", "w", encoding="ascii"):
        pass


@atexit.register
def fail() -> None:
    raise RuntimeError("at the end")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
