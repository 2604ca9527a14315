"""A request starts programs, in each of the ways: /HOW answers with the signals that they find ignored.

/interrupt starts one, sends it SIGINT and answers with its exit code.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

SHOW = "grep SigIgn /proc/self/status"


def by_os_system() -> str:
    os.system(f"{SHOW} > ignored")
    with open("ignored", encoding="ascii") as file:
        return file.read()


def by_posix_spawn() -> str:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"{SHOW} > ignored"], os.environ)
    os.waitpid(pid, 0)
    with open("ignored", encoding="ascii") as file:
        return file.read()


def by_popen() -> str:
    with os.popen(SHOW) as pipe:
        return pipe.read()


def by_subprocess() -> str:
    return subprocess.check_output(SHOW, shell=True, text=True)


def by_preexec() -> str:
    return subprocess.check_output(SHOW, shell=True, text=True, preexec_fn=os.getpid)


def interrupt() -> str:
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"], stdout=-1, stdin=-1, stderr=-3
    ) as p:
        assert p.stdout is not None
        p.stdout.readline()
        p.send_signal(signal.SIGINT)
        return str(p.wait())


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    how = environ["PATH_INFO"].strip("/")
    answer = interrupt() if how == "interrupt" else globals()[f"by_{how}"]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
