"""The smallest honest WSGI app: the same page for every server that is compared.

Runs inside the workers of forkserve and of its peers, so it imports nothing that would weigh in their memory.
"""

import os
import time
from collections.abc import Callable

Start = Callable[[str, list[tuple[str, str]]], object]

PAGE = b"Hello, World!\n"


def app(environ: dict[str, object], start_response: Start) -> list[bytes]:
    """Answer every request with one line of text."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]


def pid(environ: dict[str, object], start_response: Start) -> list[bytes]:
    """Answer with this worker's pid, after a pause in which its siblings must take the other requests."""
    time.sleep(0.005)
    page = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [page]
