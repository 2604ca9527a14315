"""The habit: sys.stdout and sys.stderr are files of the app's own, and closed."""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

sys.stdout = io.StringIO()
sys.stderr = io.StringIO()
sys.stderr.close()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    print("to nobody")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
