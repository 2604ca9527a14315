"""``python -m forkserve.cgi [--chdir FOLDER] APP``: a WSGI app as a program that a web server starts.

As a CGI program (RFC 3875): one request from the environment and stdin, the response to stdout, then the end. As a
FastCGI program, where descriptor 0 is a listening socket (FastCGI Specification 1.0, section 2.2): a whole forkserve
that speaks FastCGI there, to those of FCGI_WEB_SERVER_ADDRS if that is set; flags are its own then. What the app writes
to stdout goes to stderr.
"""

import io
import os
import socket
import stat
import sys
import time
from typing import Any, NoReturn

from forkserve.errors import ExitCode, ForkserveError
from forkserve.log import log
from forkserve.protocol.cgi import CgiEncoder, Variables
from forkserve.protocol.gateway import Encoder, flags_of
from forkserve.protocol.types import Environ, Refused
from forkserve.wsgi.app import load_app
from forkserve.wsgi.clock import clock
from forkserve.wsgi.environ import listener_template
from forkserve.wsgi.gateway_response import GatewayResponse, refusal
from forkserve.wsgi.out import PeerGone
from forkserve.wsgi.response import respond

_USAGE = "forkserve.cgi: usage: python -m forkserve.cgi [--chdir FOLDER] APP"
_BLOCK_BYTES = 1 << 16


class _Input(io.RawIOBase):
    """Exactly so many bytes of a descriptor; fewer are a fault and not an end."""

    def __init__(self, fd: int, length: int) -> None:
        self._fd = fd
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        if not view:
            return 0
        got = os.readv(self._fd, [view])
        if not got:
            raise OSError("the body ended before its CONTENT_LENGTH")
        self._left -= got
        return got


class _Stdout:
    """Where the response goes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take_encoder(self) -> Encoder:
        return CgiEncoder()

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise PeerGone(f"the web server has left: {error.strerror}") from None

    send_last = send

    def send_both(self, head: bytes, data: bytes) -> None:
        self.send(head)
        self.send(data)

    def guard_end(self) -> None:
        """Nobody but the web server could see it."""

    release_end = flush_meanwhile = restart_clock = guard_end

    def send_file(self, head: bytes, fd: int, offset: int, count: int) -> None:
        self.send(head)
        while count:
            data = os.pread(fd, min(count, _BLOCK_BYTES), offset)
            if not data:
                raise PeerGone("the file has become shorter than announced")
            self.send(data)
            offset += len(data)
            count -= len(data)


def main() -> NoReturn:
    """Run as whichever kind of program the web server has started."""
    argv = sys.argv[1:]
    if not argv or argv[-1].startswith("-"):
        sys.exit(_USAGE)
    if _is_listener(0):
        serve(argv)
    if len(argv) not in (1, 3) or (len(argv) == 3 and argv[0] != "--chdir"):
        sys.exit(_USAGE)
    sys.exit(run(argv[-1], argv[1] if len(argv) == 3 else ""))


def serve(argv: list[str]) -> NoReturn:
    """Be a FastCGI program: forkserve at the socket that is descriptor 0."""
    from forkserve.cli import main as forkserve  # lazy: a CGI program needs none of it

    allowed = os.environ.pop("FCGI_WEB_SERVER_ADDRS", "") or "*"  # section 3.2: unset, anybody may connect
    sys.argv[1:] = ["--bind", "fastcgi://fd://0", "--gateway-allow-ips", allowed, *argv]
    forkserve()
    raise AssertionError("it does not return")


def run(app: str, chdir: str = "") -> int:
    """Be a CGI program: answer the one request of the environment; return the exit code."""
    fd = os.dup(1)
    os.dup2(2, 1)
    out = _Stdout(fd)
    try:
        environ, line = read_environ({**os.environb})
    except Refused as refused:
        log.info("request refused", status=refused.status, reason=refused.reason)
        out.send(refusal(out.take_encoder(), refused.status))
        return ExitCode.OK
    clock.refresh(time.monotonic())
    response = GatewayResponse.of((environ, line, flags_of(environ)), out, False)
    try:
        loaded = load_app(app, chdir)
    except ForkserveError as error:
        response.fail(error)
        return int(error.exit_code)
    respond(loaded, environ, response)
    return ExitCode.FAILURE if response.aborted else ExitCode.OK


def read_environ(variables: dict[bytes, bytes]) -> tuple[Environ, bytes]:
    """Make the request's environ and line of the process's environment. Raises Refused."""
    found = Variables()
    for name, value in variables.items():
        try:
            found.add(name, value)
        except Refused:
            if name.startswith(b"HTTP_"):
                raise  # others are somebody else's: whatever stood in the environment already
    length = found.whole_length()
    template = listener_template("localhost", "80", generation=1, slot=0, extend_deadline=lambda seconds: None)
    template["wsgi.run_once"] = True
    environ, line = found.request(template, "")
    # They are parted already, and an empty PATH_INFO says that the program itself was asked for.
    for key in ("SCRIPT_NAME", "PATH_INFO"):
        environ[key] = variables.get(key.encode(), b"").decode("latin-1")
    environ["SCRIPT_NAME"] = environ["SCRIPT_NAME"].rstrip("/")
    environ["wsgi.input"] = io.BufferedReader(_Input(0, length))
    return environ, line


def _is_listener(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as sock:
            return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


if __name__ == "__main__":
    main()
