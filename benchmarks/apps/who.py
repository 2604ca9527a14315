"""Tells which process answers: at once, at /pause after 5 ms, and at /hold?PATH when that file exists."""

import os
import time
from collections.abc import Callable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer with this process's pid."""
    if environ["PATH_INFO"] == "/pause":
        time.sleep(0.005)
    elif environ["PATH_INFO"] == "/hold":
        while not os.path.exists(environ["QUERY_STRING"]):
            time.sleep(0.02)
    page = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [page]
