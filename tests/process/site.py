"""An app that does what its path says, faults included: GET /sleep?3, /exit?0, /gate?FIFO, /environ."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Environ = dict[str, Any]


def _pid(environ: Environ, query: str) -> object:
    return [os.getpid(), environ["forkserve.generation"], environ["forkserve.slot"]]


def _gate(environ: Environ, query: str) -> object:
    with open(query, "rb") as fifo:
        fifo.read()  # to its end: until the test closes it
    return "through"


def _sleep(environ: Environ, query: str) -> object:
    time.sleep(float(query))
    return "slept"


def _busy(environ: Environ, query: str) -> object:
    while True:
        pass


def _gil(environ: Environ, query: str) -> object:
    return any(itertools.repeat(False))  # for ever in C, which keeps the GIL and looks at no signal


def _stop(environ: Environ, query: str) -> object:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "continued"


def _exit(environ: Environ, query: str) -> object:
    os._exit(int(query))


def _environ(environ: Environ, query: str) -> object:
    return {name: value for name, value in environ.items() if isinstance(value, str)}


def _env(environ: Environ, query: str) -> object:
    return dict(os.environ)


def _fds(environ: Environ, query: str) -> object:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = [os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(int(fd))]
        except OSError:
            pass  # the one that listed
    return found


def _status(environ: Environ, query: str) -> object:
    return Path("/proc/self/status").read_text()


_PAGES: dict[str, Callable[[Environ, str], object]] = {
    "/pid": _pid,
    "/gate": _gate,
    "/sleep": _sleep,
    "/busy": _busy,
    "/gil": _gil,
    "/stop": _stop,
    "/exit": _exit,
    "/environ": _environ,
    "/env": _env,
    "/fds": _fds,
    "/status": _status,
}


def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the page's JSON."""
    page = _PAGES[environ["PATH_INFO"]]
    body = json.dumps(page(environ, environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body.encode()]
