"""The error log: one line per fact, `time [pid] [level] sentence key=value`, from every process of the tree.

The journal knows time and pid by itself, so there a line has its priority instead: `<6>[info] sentence key=value`.
Used by the master and by workers, each writing whole lines to the same descriptor. Logging never raises and never
blocks the one who logs: what a full disk, a dead reader or a stuck pipe does not take is counted and said later.
Signal handlers and pure modules do not log. The access log is in accesslog.py.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Mapping
from os import write  # bound now: an app may patch what the module has
from select import POLLOUT, poll

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

# The journal's priorities, sd-daemon(3); a line without one has the unit's SyslogLevel (info).
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

# What poll(2) calls writable holds at least PIPE_BUF bytes (pipe(7)), so pieces of this size never block.
_PIECE_BYTES = 4096
# Non-blocking for FIFOs: opening one that has no reader fails at once (fifo(7)); a file does not care.
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel follows, path_resolution(7)
_PLAIN = re.compile(r"[!#-\[\]-~]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(match: "re.Match[str]") -> str:
    code = ord(match.group())
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def one_line(text: str) -> str:
    """Return ``text`` with every control character and line separator escaped: it cannot forge a line."""
    return _CONTROL.sub(_escape, text)


def value(thing: object) -> str:
    """Spell one value of a key=value pair: bare where it is one plain word, else in double quotes."""
    if isinstance(thing, float):
        return f"{thing:.3f}".rstrip("0").rstrip(".")
    text = str(thing)
    if _PLAIN.match(text):
        return text
    return '"' + one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def write_all(fd: int, data: bytes, patience_ms: int, may_block: bool) -> int:
    """Write ``data`` to ``fd`` without ever waiting longer than ``patience_ms`` at a time; returns what was written."""
    view = memoryview(data)
    while view:
        piece = view if not may_block else view[: _piece(data, len(data) - len(view))]
        try:
            if may_block and not _writable(fd, patience_ms):
                break
            view = view[write(fd, piece) :]
        except BlockingIOError:  # a FIFO, or somebody else set O_NONBLOCK on a shared descriptor
            if not _writable(fd, patience_ms):
                break
        except OSError:  # ENOSPC, EPIPE, EIO, EBADF: nobody can be told, the drop is counted
            break
    return len(data) - len(view)


def _piece(data: bytes, start: int) -> int:
    """How many bytes to write at once: whole lines, since between two writes other processes write theirs."""
    end = start + _PIECE_BYTES
    return (data.rfind(b"\n", start, end) + 1 - start if end < len(data) else 0) or _PIECE_BYTES


def _writable(fd: int, patience_ms: int) -> bool:
    waiting = poll()
    waiting.register(fd, POLLOUT)
    return any(events & POLLOUT for _, events in waiting.poll(patience_ms))


def open_to_append(path: str) -> int:
    """Open a log; returns the descriptor. Raises OSError.

    A link is followed only where root or we ourselves have made it: whoever may write into a log's folder could else
    have us append to any file. What the kernel links below /proc (/dev/stdout) is nobody's.
    """
    for _ in range(_MOST_LINKS):
        if os.path.realpath(os.path.dirname(path) or ".").startswith("/proc/"):
            return os.open(path, _APPENDING, 0o644)
        try:
            return os.open(path, _APPENDING | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        path = os.path.join(os.path.dirname(path), _read_link(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _read_link(path: str) -> str:
    """Return where a link leads whose maker may be trusted. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, "it is a link that another user has made")
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


class LogFile:
    """A place that lines are appended to: a path that can be opened anew, or a standard stream."""

    def __init__(self, standard_fd: int) -> None:
        self.path = "-"
        self.fd = standard_fd
        self.patience_ms = 0  # the master waits for nobody; a worker may grant a slow reader a moment
        self.lost = 0
        self.is_journal = False
        self._standard_fd = standard_fd
        self._may_block = True
        self._torn = False  # the last line in the file has lost its end

    def open(self, path: str) -> None:
        """Append to ``path`` from now on; ``-`` is the standard stream. OSError leaves all as it was."""
        if path != "-":
            path = os.path.abspath(path)  # whoever opens it anew later may stand in another folder
        fd = self._standard_fd if path == "-" else open_to_append(path)
        if self.fd != self._standard_fd:
            # From path to path the number stays, so that whoever was told it (faulthandler, in workers) writes to the
            # new file. From a path to the standard stream it changes: only the master, who told nobody, goes there.
            if path != "-":
                os.dup2(fd, self.fd, inheritable=False)
                os.close(fd)
                fd = self.fd
            else:
                os.close(self.fd)
        self.path, self.fd, self._torn = path, fd, False
        try:
            found = os.fstat(fd)
        except OSError:
            self._may_block = self.is_journal = False  # closed stderr: writes fail at once
        else:
            self._may_block = not stat.S_ISREG(found.st_mode)
            # systemd.exec(5): which descriptor leads to the journal; stderr may have been sent elsewhere since.
            self.is_journal = os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"

    def reopen(self) -> None:
        """Open the path again (USR1, logrotate); a path that cannot be opened leaves the old file in use."""
        self.open(self.path)

    def write(self, data: bytes, lines: int = 1) -> bool:
        """Append ``data``; False (and its ``lines`` more in ``lost``) when not all of it could be written.

        Once something was lost nobody waits again: a reader that hangs costs its writers one moment, not one per line.
        """
        if self._torn:
            data = b"\n" + data
        written = write_all(self.fd, data, 0 if self.lost else self.patience_ms, self._may_block)
        if written:
            self._torn = written < len(data) and not data.endswith(b"\n", 0, written)
        if written == len(data):
            return True
        self.lost += lines
        return False


class ErrorLog:
    """The error log of this process; there is one, ``log`` below."""

    def __init__(self) -> None:
        self.file = LogFile(2)
        self.level = LEVELS["info"]

    def setup(self, path: str, level: str) -> None:
        """Write to ``path`` what is at least as severe as ``level``. Raises OSError."""
        self.file.open(path)
        self.level = LEVELS[level]

    def say(self, level: str, sentence: str, fields: Mapping[str, object], detail: str = "") -> None:
        """Write one line; ``detail`` (a traceback) follows on lines of its own, indented."""
        if LEVELS[level] < self.level:
            return
        pairs = "".join(f" {key}={value(thing)}" for key, thing in fields.items())
        text = f"{self._beginning(level)}[{level}] {one_line(sentence)}{pairs}\n"
        if detail:
            indent = f"<{_PRIORITIES[level]}>    " if self.file.is_journal else "    "
            text += "".join(f"{indent}{one_line(line)}\n" for line in detail.rstrip("\n").split("\n"))
        lost = self.file.lost
        if lost:
            said = f"{self._beginning('warning')}[warning] log lines were lost count={lost}\n"
            self.file.lost = 0 if self.file.write(said.encode(), lines=0) else lost
        self.file.write(text.encode("utf-8", "backslashreplace"))

    def _beginning(self, level: str) -> str:
        return f"<{_PRIORITIES[level]}>" if self.file.is_journal else f"{_timestamp()} [{os.getpid()}] "

    def debug(self, sentence: str, **fields: object) -> None:
        """Say what only a developer of forkserve wants to see."""
        self.say("debug", sentence, fields)

    def info(self, sentence: str, detail: str = "", /, **fields: object) -> None:
        """Say what happened as it should."""
        self.say("info", sentence, fields, detail)

    def warning(self, sentence: str, **fields: object) -> None:
        """Say what an operator should look at."""
        self.say("warning", sentence, fields)

    def error(self, sentence: str, *, detail: object = "", **fields: object) -> None:
        """Say what went wrong for somebody; ``detail``: as for ``say``."""
        self.say("error", sentence, fields, str(detail))

    def exception(self, sentence: str, error: BaseException, **fields: object) -> None:
        """Say what went wrong with the traceback of ``error``."""
        self.say("error", sentence, fields, traceback_text(error))


def traceback_text(error: BaseException) -> str:
    """Spell the traceback of ``error``, chained causes included."""
    import traceback  # lazy: only a fault pays for it

    return "".join(traceback.format_exception(error))


def _timestamp() -> str:
    now = time.time()
    local = time.localtime(now)
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + f".{int(now % 1 * 1000):03d}" + time.strftime(" %z", local)


class ErrorStream:
    """``wsgi.errors``: a text stream whose lines go to the error log's file; takes any str, lone surrogates too."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        """Append ``text`` as it is."""
        log.file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Append each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits: write() has written."""

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return os.isatty(log.file.fd)

    def fileno(self) -> int:
        """The descriptor that lines go to, as ``print(file=...)`` and the logging package may ask."""
        return log.file.fd


log = ErrorLog()
errors_stream = ErrorStream()

__all__ = [
    "LEVELS",
    "ErrorLog",
    "ErrorStream",
    "LogFile",
    "errors_stream",
    "log",
    "one_line",
    "traceback_text",
    "value",
]
