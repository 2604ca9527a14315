"""A request forks, and the child leaves by sys.exit, by a fault or by returning, instead of os._exit.

/exit, /raise, /return: how it leaves. The answer is its exit code.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    code = 0
    if environ["PATH_INFO"] != "/":
        pid = os.fork()
        if pid == 0:
            print(f"child leaves by {environ['PATH_INFO']}")
            if environ["PATH_INFO"] == "/exit":
                sys.exit(7)
            if environ["PATH_INFO"] == "/raise":
                raise ValueError("the child's own fault")
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(code).encode()]
