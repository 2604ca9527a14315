"""The habit: an event loop with signal handlers that is made once, run now and then, and never closed."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

loop = asyncio.new_event_loop()
loop.add_signal_handler(signal.SIGTERM, loop.stop)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Run it for a moment, and answer who has."""
    loop.run_until_complete(asyncio.sleep(0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
