"""A request starts a program that is meant to outlive us, and never waits for it: until the file `end` is there."""

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

LIVE_ON = "import os, time\nwhile not os.path.exists('end'): time.sleep(0.05)\n"


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/run":
        subprocess.Popen([sys.executable, "-c", LIVE_ON], start_new_session=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
