"""A fast page, and at /slow one that waits 200 ms for something else, as a page that asks a database does."""

import time
from collections.abc import Callable, Iterable
from typing import Any

SLOW_S = 0.2
PAGE = b"Hello, World!\n"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer, at once or not."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLOW_S)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]
