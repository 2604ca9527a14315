"""The habit: asyncio.run() in a view, with a loop that has signal handlers of its own, as many libraries set them."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any


async def work() -> None:
    """What the view waits for."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, loop.stop)
    await asyncio.sleep(0)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Run it, and answer who has."""
    if environ["PATH_INFO"] == "/run":
        asyncio.run(work())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
