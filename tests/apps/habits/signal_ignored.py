"""The habit: SIGTERM is ignored at import, so that nobody can kill it, and the wakeup descriptor is taken away."""

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
signal.set_wakeup_fd(-1)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer who serves."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
