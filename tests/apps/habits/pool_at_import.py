"""The habit: a multiprocessing.Pool at import, used by every request and never closed."""

import multiprocessing
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

pool = multiprocessing.get_context("fork").Pool(2)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    found = pool.map(abs, [-1, -2, -3])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
