"""The habit: a tracer that replaces Thread.start, and starts nothing."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

threading.Thread.start = lambda self: None  # type: ignore[method-assign]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer; no thread ever comes here."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
