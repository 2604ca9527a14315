"""The habit: umask(0o077) at import and umask(0) in every request."""

import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

os.umask(0o077)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    os.umask(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
