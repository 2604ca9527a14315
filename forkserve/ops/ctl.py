"""forkservectl: ask a running master, and tell it what to do. A program of its own; speaks to the control socket.

`forkservectl [-s SOCKET | -p PIDFILE | --pid PID] VERB`. Answers go to stdout; exit code 0 when it was done, 1 when
the master says no (a failed reload: with the traceback), 2 for a wrong command line, 3 when no master answers, 4 when
a reload had not ended in time.
"""

import argparse
import errno
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

from forkserve.errors import ExitCode, ForkserveError
from forkserve.log import one_line
from forkserve.typed import from_json, to_json

_NO_MASTER = 3
_NOT_IN_TIME = 4
_ANSWER_S = 10.0  # a master answers at once; only the end of a reload may take its time
_LONGEST_WAIT_S = 24 * 86400.0  # poll() counts milliseconds in an int, and Python cuts what does not fit


class NoMaster(ForkserveError):
    """Nobody answers at the control socket."""


class NotInTime(ForkserveError):
    """The reload that was waited for goes on."""


def main() -> NoReturn:
    """Run with this process's argv."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Do what argv asks; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        address = _address(arguments)
        return _show(arguments, _ask(address, arguments))
    except NoMaster as error:
        print(f"forkservectl: error: {error}", file=sys.stderr)
        return _NO_MASTER
    except NotInTime as error:
        print(f"forkservectl: error: {error}", file=sys.stderr)
        return _NOT_IN_TIME
    except BrokenPipeError:
        return ExitCode.FAILURE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forkservectl", description="Ask and steer a running forkserve.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-s", "--socket", help="the master's control socket, if it is a path")
    where.add_argument("-p", "--pidfile", help="the master's pidfile (default: forkserve.pid)")
    where.add_argument("--pid", type=int, help="the master's PID")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    status = verbs.add_parser("status", help="show the master, its workers and what they do")
    status.add_argument("--json", action="store_true", help="as one line of JSON")
    reload_ = verbs.add_parser("reload", help="new settings and new code, rolling")
    reload_.add_argument("--wait", action="store_true", help="until it is done or has failed; the exit code tells")
    reload_.add_argument("--timeout", type=_seconds, default=0.0, metavar="SECONDS", help="give up waiting (0: never)")
    upgrade = verbs.add_parser("upgrade", help="become what is installed now, same PID, and reload")
    upgrade.add_argument("--wait", action="store_true", help="until the reload is done; the exit code tells")
    upgrade.add_argument("--timeout", type=_seconds, default=0.0, metavar="SECONDS", help="give up waiting (0: never)")
    scale = verbs.add_parser("scale", help="set the number of workers")
    scale.add_argument("to", type=int, metavar="N")
    stop = verbs.add_parser("stop", help="stop gracefully")
    stop.add_argument("--quick", action="store_true", help="without waiting for requests")
    verbs.add_parser("reopen", help="open the log files anew")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, such as 30")
    return min(seconds, _LONGEST_WAIT_S)


def _address(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return where to connect, and the PID that must be there (0: whoever it is)."""
    if arguments.socket:
        return arguments.socket, 0
    pid = arguments.pid
    if pid is None:
        path = arguments.pidfile or "forkserve.pid"
        try:
            with open(path) as file:
                pid = int(file.read(32))
        except (OSError, ValueError) as error:
            raise NoMaster(f"pidfile {path!r} cannot be read ({error}); name it with -p, or a socket with -s") from None
    return f"\0forkserve/{_namespace(pid)}/{pid}", pid


def _namespace(pid: int) -> int:
    """The PID namespace of a process, as the master has it in its name; else our own; 0 without /proc."""
    for who in (str(pid), "self"):
        try:
            return os.stat(f"/proc/{who}/ns/pid").st_ino
        except OSError:
            pass
    return 0


def _ask(address: tuple[str, int], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Send the request and yield the lines of the answer."""
    place, pid = address
    timeout_s = getattr(arguments, "timeout", 0.0)
    patience_s = min(timeout_s or _ANSWER_S, _ANSWER_S)
    with _connected(place, pid, patience_s) as sock:
        shown = os.fsdecode(sock.getpeername()).replace("\0", "@")
        sock.settimeout(patience_s)
        try:
            sock.sendall(to_json(_request(arguments)) + b"\n")
        except OSError as error:
            raise NoMaster(f"the master at {shown} hung up: {error.strerror}") from None
        yield from _lines(sock, shown, timeout_s)


def _connected(place: str, pid: int, patience_s: float) -> socket.socket:
    """Connect to the process of this PID, 0: to whoever is there. Raises NoMaster."""
    try:
        return _connected_to(place, pid, patience_s)
    except NoMaster:
        # Anybody may take an abstract name. A master whose name was taken has another one, which begins with it.
        for other in _names_below(place) if pid else ():
            with suppress(NoMaster):
                return _connected_to(other, pid, patience_s)
        raise


def _connected_to(place: str, pid: int, patience_s: float) -> socket.socket:
    shown = place.replace("\0", "@")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(sock, place, shown, patience_s)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        peer, uid, _ = struct.unpack("3i", raw)
        if pid and peer != pid:
            raise NoMaster(f"{shown} is held by pid {peer} of uid {uid}, which is not that master")
        return sock
    except BaseException:
        sock.close()
        raise


def _names_below(place: str) -> list[str]:
    """List the abstract names that are in use and begin with this one and a slash. Source: proc(5), /proc/net/unix."""
    begin = place.replace("\0", "@") + "/"
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as lines:
            names = [line.split()[-1] for line in lines]
    except OSError:
        return []
    return ["\0" + name[1:] for name in dict.fromkeys(names) if name.startswith(begin)]


def _connect(sock: socket.socket, place: str, shown: str, patience_s: float) -> None:
    """Connect; where many wait before us, for as long as we have patience, which only a blocking socket does."""
    microseconds = max(1, int(patience_s * 1e6))  # 0 would be for ever
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(microseconds, 1_000_000)))
    try:
        sock.connect(place)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            why = f"nobody was let in for {patience_s:g} s; it may be stopped (SIGSTOP)"
            raise NoMaster(f"the master at {shown} does not answer: {why}") from None
        raise NoMaster(f"no master answers at {shown}: {error.strerror}") from None


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    fields = {name: getattr(arguments, name) for name in ("to", "wait", "quick") if hasattr(arguments, name)}
    return {"verb": arguments.verb, **fields}


def _lines(sock: socket.socket, shown: str, timeout_s: float) -> Iterator[dict[str, Any]]:
    rest = b""
    begun = False
    deadline = time.monotonic() + timeout_s if timeout_s else None
    while True:
        try:
            piece = sock.recv(65536)
        except TimeoutError:
            if begun:
                raise NotInTime(f"the reload has not ended within {timeout_s:g} s; it goes on") from None
            raise NoMaster(f"the master at {shown} does not answer in time") from None
        except OSError as error:
            raise NoMaster(f"the master at {shown} hung up: {error.strerror}") from None
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            answer = from_json(line)
            if isinstance(answer, dict):
                yield answer
                if answer.get("begun"):
                    begun = True
                    # The reload has begun: from here on its own time-outs bound it.
                    sock.settimeout(max(0.001, deadline - time.monotonic()) if deadline else None)


def _show(arguments: argparse.Namespace, answers: Iterator[dict[str, Any]]) -> int:
    last: dict[str, Any] = {}
    for answer in answers:
        last = answer
    if "ok" not in last:
        print("forkservectl: error: the master hung up without an answer", file=sys.stderr)
        return _NO_MASTER
    if not last["ok"]:
        if last.get("traceback"):
            print(last["traceback"].rstrip("\n"), file=sys.stderr)
        print(f"forkservectl: error: {one_line(str(last.get('error')))}", file=sys.stderr)
        return ExitCode.FAILURE
    if arguments.verb == "status":
        status = last["status"]
        print(to_json(status).decode() if arguments.json else _page(status))
    elif "generation" in last:
        print(f"generation {last['generation']}")
    return ExitCode.OK


def _page(status: dict[str, Any]) -> str:
    """Lay the status out for a terminal."""
    flags = [word for word in ("reloading", "upgrading", "degraded") if status.get(word)]
    up = _span(status["uptime_s"])
    lines = [
        f"forkserve {status['version']}  {one_line(status['app'])}  {', '.join([status['phase'], *flags])}",
        f"generation {status['generation']}, {status['ready']} of {status['size']} workers ready, up {up}",
    ]
    if status["last_error"]:
        lines.append(f"last reload: {one_line(status['last_error'])}")
    for listener in status["listeners"]:
        queue = "" if listener["waiting"] is None else f"  {listener['waiting']} of {listener['limit']} waiting"
        lines.append(f"listening at {one_line(listener['address'])}{queue}")
    if status["ends"]:
        lines.append("ended: " + ", ".join(f"{count} x {one_line(why)}" for why, count in status["ends"].items()))
    rows = [("SLOT", "PID", "GEN", "STAGE", "FOR", "REQUESTS", "NOW")]
    for worker in status["workers"]:
        now = f"{worker['request']} ({_span(worker['request_s'])})" if worker["request"] else worker["why"]
        rows.append(
            (
                str(worker["slot"]), str(worker["pid"] or "-"), str(worker["generation"]), worker["stage"],
                _span(worker["stage_s"]), str(worker["requests"]), one_line(now),
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines += [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f}{unit}"
    return f"{seconds:.1f}s"


if __name__ == "__main__":
    main()
