"""The habit: handlers of its own for every signal that programs use, set at import."""

import os
import signal
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def on_signal(signum: int, frame: object) -> None:
    caught.append(signum)


caught: list[int] = []
for name in (
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGTERM",
    "SIGUSR1",
    "SIGUSR2",
    "SIGCHLD",
    "SIGWINCH",
    "SIGTTIN",
    "SIGTTOU",
):
    signal.signal(getattr(signal, name), on_signal)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
