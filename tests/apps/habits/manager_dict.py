"""The habit: what all workers of a process share lies in a Manager, made at import."""

import multiprocessing
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

manager = multiprocessing.get_context("fork").Manager()
counts = manager.dict()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    counts["asked"] = counts.get("asked", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(counts["asked"]).encode()]
