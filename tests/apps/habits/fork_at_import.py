"""The module starts a helper while it is imported. HELPER says how: a process of multiprocessing, os.fork, a manager.

/ answers with the helper's pid; /terminate ends it and answers with its exit code.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterable
from multiprocessing.managers import SyncManager
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

context = multiprocessing.get_context("fork")
how = os.environ["HELPER"]


def help_for_ever() -> None:
    while True:
        signal.pause()


if how == "os":
    pid = os.fork()
    if pid == 0:
        help_for_ever()
elif how == "manager":
    manager = SyncManager(ctx=context)
    manager.start()
    shared = manager.dict()
    pid = manager._process.pid  # type: ignore[attr-defined]
else:
    helper = context.Process(target=help_for_ever, daemon=how == "daemon")
    helper.start()
    assert helper.pid is not None
    pid = helper.pid


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    answer = pid
    if environ["PATH_INFO"] == "/terminate":
        os.kill(pid, signal.SIGTERM)
        answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    elif how == "manager":
        shared["asked"] = shared.get("asked", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(answer).encode()]
