"""The habit: faulthandler.enable() and a dump of all stacks each few seconds."""

import faulthandler
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

faulthandler.enable()
faulthandler.dump_traceback_later(600, repeat=True)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
