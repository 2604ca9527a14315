"""A request starts a program and forgets it; its output is a pipe that nobody reads."""

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

LIVE_ON = "import os, time\nwhile not os.path.exists('end'): time.sleep(0.05)\n"


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    if environ["PATH_INFO"] == "/run":
        subprocess.Popen([sys.executable, "-c", LIVE_ON], stdout=subprocess.PIPE)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
