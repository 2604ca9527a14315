"""A request runs a loop of asyncio of its own."""

import asyncio
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


async def work() -> int:
    return await asyncio.to_thread(os.getpid)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    found = asyncio.run(work())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
