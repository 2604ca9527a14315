"""A request makes a daemon in the old way: fork, a session of its own, fork again, with a file open all the while.

The answer is what the daemon found: which signals are blocked and caught, and whether its file is still open.
"""

import os
import signal
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment


def look(report: int) -> None:
    blocked = len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    handler = signal.getsignal(signal.SIGTERM)
    os.write(report, f"{blocked} {handler == signal.SIG_DFL} {signal.set_wakeup_fd(-1)}".encode())


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]  # the numbers that ours had, too
        if os.fork() == 0:
            look(write)
            for fd in opened:
                os.close(fd)  # EBADF, if somebody else has
            os.write(write, b" whole")
        os._exit(0)
    os.close(write)
    os.waitpid(first, 0)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
