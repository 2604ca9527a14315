"""The habit: a thread at import that is no daemon and never ends, such as a heartbeat."""

import os
import threading
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def beat() -> None:
    while True:
        time.sleep(0.05)


threading.Thread(target=beat, name="heartbeat").start()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
