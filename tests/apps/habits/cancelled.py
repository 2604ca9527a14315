"""A request lets a CancelledError out, as async views do."""

import asyncio
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/fail":
        raise asyncio.CancelledError
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
