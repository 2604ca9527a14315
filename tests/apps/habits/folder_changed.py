"""The habit: chdir() to somewhere else, at import and in every request."""

import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

os.chdir("/")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    os.chdir("/tmp")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
