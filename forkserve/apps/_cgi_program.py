"""One run of a CGI program: its process, its two pipes, its head and its body. RFC 3875 sections 6 and 7.

The body of the WSGI response is the program itself: iterated it gives what the program writes, closed it is gone, with
whatever else is in its process group.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import IO, Any

_HEAD_BYTES = 64 * 1024
_MOST_FIELDS = 100
_BLOCK_BYTES = 64 * 1024
_LINE_BYTES = 4096  # of stderr
_MOST_LINES = 1000
_LONGEST_S = 24 * 86400.0  # poll() counts milliseconds in an int
_LAST_S = 2.0  # to exit by itself, once its output has ended

_OWN = ("status", "location", "content-type")  # of which there is one, section 6.3
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_STATUS = re.compile(r"[2-9][0-9]{2}(?: .*)?")
# Section 6.3.2: a path of ours. "//" begins the name of a host.
_LOCAL = re.compile(r"/(?!/)[^#]*")


class Failed(Exception):
    """The program cannot be run, or does not answer as it should; ``reason`` is for the log."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """A response's head."""

    def __init__(self, text: str) -> None:
        """Read it; raises Failed for what is none."""
        self.fields: list[tuple[str, str]] = []
        own: dict[str, str] = {}
        for line in re.split("\r?\n", text):
            match = _FIELD.fullmatch(line)
            if match is None:
                raise _bad(f"{line[:100]!r} is no header field")
            lower = match[1].lower()
            if lower in _OWN:
                if lower in own:
                    raise _bad(f"two {match[1]} fields")
                own[lower] = match[2]
            if lower != "status":
                self.fields.append((match[1], match[2]))
        status = own.get("status")
        if len(self.fields) > _MOST_FIELDS:
            raise _bad(f"more than {_MOST_FIELDS} header fields")
        if not own:
            raise _bad("neither Content-Type nor Location nor Status")  # section 6.2
        if status is not None and not _STATUS.fullmatch(status):
            raise _bad(f"Status is {status[:100]!r}")
        self.location = own.get("location", "")
        self.is_local = status is None and _LOCAL.fullmatch(self.location) is not None
        self.status = status or ("302 Found" if self.location else "200 OK")
        if len(self.status) == 3:
            self.status += " "  # which WSGI wants


class Program:
    """A program that runs."""

    def __init__(
        self, file: str, env: dict[bytes, bytes], body: IO[bytes], errors: Any, timeout_s: float, most_bytes: int
    ) -> None:
        self._name = os.path.basename(file)
        self._errors = errors
        self._deadline = time.monotonic() + min(timeout_s, _LONGEST_S)
        self._left = most_bytes
        self._output = b""  # read, and not given yet
        self._said = b""  # a line of stderr that is not whole
        self._lines = 0
        self._is_closed = False
        self._announces = False  # how long its output is: the server notes what is missing of it
        try:
            self._process = subprocess.Popen(
                [file], env=env, cwd=os.path.dirname(file), stdin=body, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Failed("500 Internal Server Error", f"{file} cannot be run: {error.strerror}") from None
        assert self._process.stdout is not None and self._process.stderr is not None
        self._out, self._err = self._process.stdout, self._process.stderr
        self._poll = select.poll()
        for pipe in (self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
            self._poll.register(pipe, select.POLLIN)

    def read_head(self) -> Head:
        """Wait for the head. Raises Failed."""
        while True:
            match = _END_OF_HEAD.search(self._output)
            if match is not None or len(self._output) > _HEAD_BYTES:
                break
            data = self._read()
            if not data:
                raise _bad("it ended within its header fields" if self._output else "it said nothing")
            self._output += data
        if match is None or match.start() > _HEAD_BYTES:
            raise _bad(f"header fields of more than {_HEAD_BYTES} bytes")
        head = Head(self._output[: match.start()].decode("latin-1"))
        self._output = self._output[match.end() :]
        self._announces = any(name.lower() == "content-length" for name, _ in head.fields)
        return head

    def __iter__(self) -> Iterator[bytes]:
        """Give what it writes. Raises Failed where that is cut, so that it does not look whole."""
        if self._output:
            yield self._output
        while data := self._read():
            yield data
        if self._was_killed() and not self._announces:
            raise Failed("502 Bad Gateway", f"{self._name} was ended by a signal")

    def close(self) -> None:
        """End it, with all that is in its process group."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._read_errors()
        self._tell(self._said)
        self._out.close()
        self._err.close()

    def _was_killed(self) -> bool:
        """Let it exit by itself, now that its output has ended; whether a signal ended it instead.

        It is not reaped: close() signals its process group, whose number must be nobody else's by then.
        """
        until = time.monotonic() + _LAST_S
        while time.monotonic() < until:
            try:
                told = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # somebody has reaped it, or SIGCHLD is ignored: nobody knows how it ended
                return False
            if told is not None:
                return told.si_code != os.CLD_EXITED
            time.sleep(0.001)
        return False  # it has said all

    def _read(self) -> bytes:
        """Wait for output; b"": its end. What comes on stderr meanwhile goes to the log."""
        while True:
            left_s = self._deadline - time.monotonic()
            events = self._poll.poll(max(0.0, left_s) * 1000)
            if not events:
                raise Failed("504 Gateway Timeout", f"{self._name} took too long and was killed")
            if any(fd == self._err.fileno() for fd, _ in events):
                self._read_errors()
            if any(fd == self._out.fileno() for fd, _ in events):
                data = os.read(self._out.fileno(), _BLOCK_BYTES)
                self._left -= len(data)
                if self._left < 0:
                    raise Failed("502 Bad Gateway", f"{self._name} wrote too much and was killed")
                return data

    def _read_errors(self) -> None:
        try:
            data = os.read(self._err.fileno(), _BLOCK_BYTES)
        except BlockingIOError:
            return
        if not data and not self._is_closed:
            self._poll.unregister(self._err)
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._said) > _LINE_BYTES:
            self._tell(self._said)
            self._said = b""

    def _tell(self, line: bytes) -> None:
        self._lines += 1
        if line and self._lines <= _MOST_LINES:
            tell(self._errors, self._name, line[:_LINE_BYTES].decode("utf-8", "backslashreplace"))


def tell(errors: Any, name: str, line: str) -> None:
    """Write one line to the error log."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    errors.write(f"{name}: {text}\n")


def _bad(reason: str) -> Failed:
    return Failed("502 Bad Gateway", f"no CGI response: {reason}")
