"""The habit: an executor whose processes are new interpreters (spawn), at module level, used once."""

import concurrent.futures
import multiprocessing
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    found = executor.submit(abs, -1).result()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
