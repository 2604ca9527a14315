"""The habit: signal.signal(SIGTERM, ...) at import, with a handler that tidies up and ends the process."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def on_term(signum: int, frame: object) -> None:
    """Tidy up."""
    Path("tidied").write_text(str(os.getpid()))
    sys.exit(0)


signal.signal(signal.SIGTERM, on_term)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer who serves."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
