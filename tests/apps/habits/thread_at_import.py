"""The habit: a daemon thread at import that takes jobs from a queue, as error reporters have it."""

import os
import queue
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

jobs: queue.Queue[str] = queue.Queue()


def report() -> None:
    while True:
        jobs.get()


threading.Thread(target=report, daemon=True).start()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    jobs.put(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
