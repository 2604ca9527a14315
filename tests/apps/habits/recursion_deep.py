"""The habit: the recursion limit is high, and a request needs all of it."""

import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

sys.setrecursionlimit(5000)


def count(depth: int) -> int:
    return 1 + count(depth - 1) if depth else 0


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(count(2000)).encode()]
