"""Run wrk and read what it printed. A run with any failed request or socket error has no figure."""

import re
import signal
import subprocess
from dataclasses import dataclass

from benchmarks.errors import InvalidRunError

_REQUESTS = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h),", re.MULTILINE)
_SOCKET_ERRORS = re.compile(r"^\s*Socket errors: (.+)$", re.MULTILINE)
_REFUSED = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)$", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk got done."""

    requests: int
    wall_s: float


def load(command: list[str], seconds: int) -> Load:
    """Run a wrk command that is meant to take `seconds`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    except subprocess.TimeoutExpired as error:
        raise InvalidRunError("wrk did not end") from error
    return parse(done.stdout + done.stderr)


def warm_up(command: list[str], seconds: float) -> None:
    """Run a wrk command for a part of a second, which -d cannot ask for."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            output, _ = wrk.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            wrk.send_signal(signal.SIGINT)  # it stops, and reports
            output, _ = wrk.communicate()
    parse(output)


def parse(output: str) -> Load:
    """Read wrk's report; InvalidRunError when any request failed or there is no report."""
    if wrong := _SOCKET_ERRORS.search(output):
        raise InvalidRunError(f"wrk: socket errors: {wrong[1]}")
    if wrong := _REFUSED.search(output):
        raise InvalidRunError(f"wrk: {wrong[1]} answers were errors")
    if (found := _REQUESTS.search(output)) is None:
        raise InvalidRunError(f"wrk: {(output.strip() or 'no output').splitlines()[-1]}")
    if (requests := int(found[1])) == 0:
        raise InvalidRunError("wrk: no request was answered")
    return Load(requests, float(found[2]) * _SECONDS[found[3]])
