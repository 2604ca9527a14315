"""The habit: an event loop of asyncio in a thread of the module's, to which requests give their coroutines."""

import asyncio
import os
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


async def work() -> int:
    await asyncio.sleep(0.01)
    return os.getpid()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    found = asyncio.run_coroutine_threadsafe(work(), loop).result()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
