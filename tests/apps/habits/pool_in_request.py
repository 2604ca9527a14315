"""A request makes a pool of processes, uses it, and lets it go without a word."""

import multiprocessing
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    pool = multiprocessing.get_context("fork").Pool(2)
    found = pool.map(abs, [-1, -2])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
