"""The habit: shared memory of multiprocessing at import, whose tracker is a process of its own."""

import multiprocessing.shared_memory
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    assert memory.buf is not None
    memory.buf[0] = 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [memory.name.encode()]
