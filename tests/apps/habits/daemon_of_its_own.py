"""A request starts a daemon (fork, setsid, fork), which is meant to outlive us: until the file `end` is there."""

import os
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def live_on() -> None:
    while not os.path.exists("end"):
        time.sleep(0.05)
    os._exit(0)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/run":
        first = os.fork()
        if first == 0:
            os.setsid()
            if os.fork() == 0:
                live_on()
            os._exit(0)
        os.waitpid(first, 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
