"""The habit: os.fork, open and print are wrapped, as tracers do it."""

import builtins
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

real_open, real_fork, real_print = builtins.open, os.fork, print


def traced_open(*words: Any, **more: Any) -> Any:
    return real_open(*words, **more)


def traced_fork() -> int:
    return real_fork()


def traced_print(*words: Any, **more: Any) -> None:
    real_print(*words, **more)


builtins.open = traced_open
os.fork = traced_fork
builtins.print = traced_print


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
