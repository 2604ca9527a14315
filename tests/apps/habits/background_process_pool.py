"""A process pool of the module's, which a request uses once and nobody ever shuts down. METHOD is how it starts.

/ answers with the pids of its processes; /long leaves a long job in one of them; /hang never ends,
and writes the pids to `pool`.
"""

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

executor = concurrent.futures.ProcessPoolExecutor(
    2, mp_context=multiprocessing.get_context(os.environ.get("METHOD", "fork"))
)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


if os.environ.get("AT_IMPORT"):
    executor.submit(os.getpid).result()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/long":
        executor.submit(nap, 3600)
        time.sleep(0.2)
        pids = set(executor._processes)
    else:
        pids = {job.result() for job in [executor.submit(nap, 0.1) for _ in range(2)]}
    if environ["PATH_INFO"] == "/hang":
        with open("pool", "w", encoding="ascii") as file:
            file.write(" ".join(map(str, pids)))
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(map(str, pids)).encode()]
