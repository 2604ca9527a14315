"""A request starts a process of multiprocessing that is a new interpreter: /spawn, /forkserver.

The answer is what it finds: whether its garbage collector is on, and its title.
"""

import gc
import multiprocessing
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def look(answer: Any) -> None:
    with open("/proc/self/cmdline", encoding="utf-8") as file:
        answer.put(f"{gc.isenabled()} {'forkserve.cli' in sys.modules} {file.read()}")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    context: Any = multiprocessing.get_context(environ["PATH_INFO"].strip("/"))
    answer = context.Queue()
    process = context.Process(target=look, args=(answer,))
    process.start()
    found = answer.get()
    process.join()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [found.encode()]
