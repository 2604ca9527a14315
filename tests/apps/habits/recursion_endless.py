"""A request recurses for ever: RecursionError is a 500 like any other."""

import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def count(depth: int) -> int:
    return 1 + count(depth + 1)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/fail":
        count(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
