"""One request through the app: start_response, write, the iterable, and how the body is framed. Runs in a worker.

The only WSGI runner; knows the socket as an Out. PEP 3333 decides what the app may do, RFC 9112 section 6 the framing:
the app's Content-Length, else the length of a one-chunk body, else chunked (HTTP/1.1), else the end of the connection.
Plain code on purpose: every request runs through respond().
"""

import time
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self

from forkserve.log import log
from forkserve.protocol.types import HEAD_ONLY, HTTP11, Environ, Request
from forkserve.wsgi.app import App
from forkserve.wsgi.clock import clock, date_line
from forkserve.wsgi.environ import SOFTWARE
from forkserve.wsgi.files import FileWrapper
from forkserve.wsgi.headers import (
    CLOSE,
    DATE,
    GIVEN,
    JOIN_BYTES,
    LINES,
    NO_BODY,
    PLAIN,
    SERVER,
    STATUSES,
    line_entry,
    remember,
    status_entry,
)
from forkserve.wsgi.out import ENDED, FORKED, RESTART_S, Out, PeerGone, is_of_body

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

SERVER_ERROR = "500 Internal Server Error"
_LEFT = "499 Client Closed Request"  # nobody reads it but the access log; the number is nginx's
OVERDUE = "504 Gateway Timeout"
_FRAMING = HTTP11 | HEAD_ONLY  # the flags of a request that the framing of its response depends on


class Response:
    """One response in the making. What is not set yet stands on the class: making one costs nothing."""

    status: str = ""
    code: int = 0
    headers: list[tuple[str, str]] | None = None  # as the app gave them; for the access log
    head_sent: bool = False
    body_bytes: int = 0  # sent to the client, framing not counted
    full: bool = False  # no more of the body can leave: whatever the app would still yield is not asked for
    closes: bool = False  # the app wants the connection to end
    is_broken: bool = False  # no more of the request's body will come: it was said, and answered where it could be
    _restart_at: float = 0.0  # when the clock of the app is next worth a look
    _instead: str = ""  # the status of an answer of ours: whatever the app still gives goes nowhere
    aborted: bool = False  # the client must see that the body is not whole; keep_alive is false
    _status_line: bytes = b""
    _lines: Sequence[bytes] = ()
    _plain_head: bytes = b""  # status and headers as one, where the body is small and only our own lines come between
    length: int = -1  # of the whole body, if it is known: the app's Content-Length, or ours
    _chunked: bool = False
    _mute: bool = False  # HEAD, 204, 304: whatever the app yields, no body leaves
    _own_date: bool = False
    _own_server: bool = False

    # Set by who makes one: without an __init__ that costs 0.2 us less.
    request: Request
    out: Out
    keep_alive: bool  # becomes true again only where a streamed body has arrived whole

    @property
    def is_complete(self) -> bool:
        """Whether all of a body whose length is known was given."""
        return self.body_bytes == self.length

    @classmethod
    def of(cls, request: Request, out: Out, keep_alive: bool) -> Self:
        """Return a new one."""
        response = cls()
        response.request = request
        response.out = out
        response.keep_alive = keep_alive
        return response

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Any:
        """PEP 3333's start_response: check and store; nothing is sent before the first byte of the body."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
            self._own_date = self._own_server = False
        elif self._status_line:
            raise AssertionError("start_response was called a second time without exc_info")
        given = GIVEN.get(status)
        # Equal lists of str mean equal heads. An app has few heads for a status, often one: this saves 0.4 us of 1.2.
        if given is not None and given[0] == headers and type(headers) is list:
            _, self._status_line, self.code, self._lines, self.length, self._plain_head = given
            self.status = status
            self.headers = headers
            return self.write
        entry = STATUSES.get(status) or status_entry(status)
        if type(headers) is not list:
            raise TypeError(f"start_response: the headers must be a list, not a {type(headers).__name__}")
        lines = []
        length = -1
        is_plain = True
        for pair in headers:
            try:
                line, kind = LINES[pair]
            except (KeyError, TypeError):
                line, kind = line_entry(pair)
            lines.append(line)
            if kind >= 0:
                if length >= 0 and kind != length:
                    raise ValueError("start_response: several Content-Length headers that differ")
                length = kind
            elif kind != PLAIN:
                is_plain = False
                self._note(kind)
        self._status_line, self.code = entry
        self._lines = lines
        self._plain_head = b""
        self.length = length
        if is_plain and self.code not in NO_BODY:
            self._plain_head = remember(status, headers, entry, lines, length)
        self.status = status
        self.headers = headers
        return self.write

    def _note(self, kind: int) -> None:
        if kind == DATE:
            self._own_date = True
        elif kind == SERVER:
            self._own_server = True
        elif kind == CLOSE:
            self.keep_alive = False
            self.closes = True

    def write(self, data: bytes) -> None:
        """PEP 3333's write: the older way to send a part of the body."""
        if not isinstance(data, bytes):
            raise TypeError(f"write: the body must be bytes, not {type(data).__name__}")
        if data:
            self.put(data, -1)

    def put(self, data: bytes, whole: int) -> None:
        """Send a part of the body; ``whole`` is the length of all of it where that is known, else -1."""
        if self._chunked:  # as below, in two thirds of the time
            self.body_bytes += len(data)
            if monotonic() >= self._restart_at:
                self._restart()
            self.out.send(b"%x\r\n%b\r\n" % (len(data), data))
            return
        if self._plain_head and whole == self.length and not self.head_sent and self.request[2] & _FRAMING == HTTP11:
            # What most responses are, at once: as below, in half the time.
            self.head_sent = True
            self.body_bytes = whole
            if self.keep_alive:
                self.out.send(self._plain_head + clock.ending + data)
            else:
                self.out.send_last(self._plain_head + clock.closing + data)
            return
        head = b"" if self.head_sent else self._head(whole)
        if self._mute:
            self.full = True
            if head:
                self.out.send(head)
            return
        if 0 <= self.length < self.body_bytes + len(data):
            data = data[: self.length - self.body_bytes]
            self.full = True
            log.warning("app sent more than its Content-Length; the rest was dropped", **self._about())
        self.body_bytes += len(data)
        if whole < 0 and self.body_bytes != self.length and monotonic() >= self._restart_at:
            self._restart()
        data = self._piece(data)
        if not head:
            self.out.send(data)
        elif len(data) <= JOIN_BYTES:
            send = self.out.send if whole < 0 or self.keep_alive else self.out.send_last
            send(head + data)
        else:
            self.out.send_both(head, data)

    def _restart(self) -> None:
        """A response that goes on is no hang: the app has so long again for its next part."""
        self._restart_at = monotonic() + RESTART_S
        self.out.restart_clock()

    def _piece(self, data: bytes) -> bytes:
        """Frame a part of the body."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def put_file(self, file: FileWrapper) -> bool:
        """Send a file as the body, by the kernel; False: it must be read, as any other body."""
        region = None if self.head_sent else file.region()
        if region is None:
            if self.length >= 0:
                file.limit(self.length - self.body_bytes)  # more of the file than was announced is no fault
            return False
        fd, offset, count = region
        if 0 <= self.length < count:
            count = self.length
        head = self._head(count)
        if self._mute or not count:
            self.out.send(head)
            return True
        self.body_bytes += count
        self.out.send_file(head, fd, offset, count)
        return True

    def _head(self, whole: int) -> bytes:
        """Decide the framing and spell the head."""
        if not self._status_line:
            raise AssertionError("the app sent its body before it called start_response")
        self.head_sent = True
        framing = b""
        flags = self.request[2]
        self._mute = flags & HEAD_ONLY != 0
        if self.code in NO_BODY:
            framing = self._bodiless()
        elif self.length < 0:
            # The empty body of a HEAD says nothing of the length that GET would have.
            if whole > 0 or (whole == 0 and not self._mute):
                framing = b"Content-Length: %d\r\n" % whole
                self.length = whole
            elif flags & HTTP11:
                framing = b"Transfer-Encoding: chunked\r\n"
                self._chunked = not self._mute
            else:
                self.keep_alive = False  # the end of the connection is the end of the body
                if not self._mute:
                    self.out.guard_end()
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif not flags & HTTP11:
            framing += b"Connection: keep-alive\r\n"
        stamp = self._stamp() if self._own_date or self._own_server else clock.both
        return b"".join((self._status_line, *self._lines, stamp, framing, b"\r\n"))

    def _bodiless(self) -> bytes:
        """Frame a response that has no body by its status: RFC 9110 sections 8.6 and 15.3.6, RFC 9112 section 6.3."""
        self._mute = True
        if self.code != 304:  # which may tell the length that 200 would have
            self._lines = [line for line in self._lines if not line.lower().startswith(b"content-length:")]
        return b"Content-Length: 0\r\n" if self.code == 205 else b""

    def _stamp(self) -> bytes:
        date = b"" if self._own_date else date_line(int(time.time()))
        return date if self._own_server else date + f"Server: {SOFTWARE}\r\n".encode()

    def end(self) -> None:
        """The app has said all: send what is owed."""
        if not self.head_sent:
            self.out.send(self._head(0))
        if self._mute:
            self._tell_instead()
            return
        if self._chunked:
            self.out.send(b"0\r\n\r\n")
        elif self.body_bytes < self.length:
            self.keep_alive = False
            log.warning("app sent less than its Content-Length; connection closed", **self._about())

    def fail(self, error: BaseException) -> None:
        """The app raised: log it, and answer 500 if nothing has left yet; else the connection must break off."""
        if self.out is FORKED:
            raise error  # sys.exit() in a process that the app has forked, say, is that process's end
        self.keep_alive = False
        is_fault = not (self.is_broken and is_of_body(error))
        if is_fault:
            log.exception("app raised", error, **self._about())
        if self.head_sent:
            self.aborted = not self._instead
            self._tell_instead()
            return
        if not is_fault:  # the client has left, or it would have been answered
            self.become_own_page(_LEFT)
            self.body_bytes = 0
            return
        self.become_own_page(SERVER_ERROR)
        try:
            self.out.send(self.own_page(SERVER_ERROR))
        except PeerGone:
            pass

    def break_off(self, status: str) -> None:
        """No more of the body will come: answer in the app's place, if nothing has left yet; an empty ``status``: there
        is nobody to answer. Raises PeerGone."""
        self.is_broken = True
        self.keep_alive = False
        if status and not self.head_sent:
            self.become_own_page(status)
            self._instead, self._mute = status, True
            self.out.send(self.own_page(status))

    def _tell_instead(self) -> None:
        """Have the access log tell what the client got, though the app has called start_response since."""
        if self._instead:
            self.become_own_page(self._instead)

    def answer_overdue(self) -> None:
        """Answer in the app's place, which takes too long, if nothing has left yet. Raises PeerGone."""
        if not self.head_sent:
            self.become_own_page(OVERDUE)
            self.out.send(self.own_page(OVERDUE))
            self.out.release_end()

    def become_own_page(self, status: str) -> None:
        """Be an answer of the server's own from now on, as the access log tells it."""
        self.code, self.status, self.headers = int(status[:3]), status, []
        self.head_sent = True
        self.body_bytes = 0 if self.request[2] & HEAD_ONLY else len(status) + 1

    def own_page(self, status: str) -> bytes:
        """Spell a whole response of the server's own in the app's place, such as for a time-out."""
        return plain_answer(status, head_only=self.request[2] & HEAD_ONLY != 0)

    def _about(self) -> dict[str, object]:
        about: dict[str, object] = {"request": self.request[1].decode("latin-1")}
        if self.length >= 0:
            about |= {"announced": self.length, "sent": self.body_bytes}
        return about


def respond(app: App, environ: Environ, response: Response) -> None:
    """Run the app for one request. Never raises: whatever the app raises is logged and answered.

    BaseException, too: out of a request CancelledError, SystemExit (argparse in a view), a time-out of gevent or a
    panic of a Rust extension say nothing of the process. Whoever wants its end has environ["forkserve.retire"].
    """
    body: Any = None
    try:
        body = app(environ, response.start_response)
        if (body.__class__ is list or body.__class__ is tuple) and len(body) == 1 and body[0].__class__ is bytes:
            if body[0]:  # an empty chunk must not send the head: the app may still raise
                response.put(body[0], len(body[0]))
        elif body.__class__ is not FileWrapper or not response.put_file(body):
            for chunk in body:
                if not isinstance(chunk, bytes):
                    raise TypeError(f"the body must be made of bytes, not {type(chunk).__name__}")
                if chunk:
                    response.put(chunk, -1)
                    if response.full:
                        break
        if response.body_bytes != response.length or not response.head_sent:
            response.end()
    except PeerGone:
        response.keep_alive = False
        if response.out is FORKED:
            raise  # a process that the app has forked came back: it ends there
    except BaseException as error:
        response.fail(error)
    finally:
        if body.__class__ is not list:
            _close(body, response)
        response.out = ENDED


def _close(body: Any, response: Response) -> None:
    try:
        if hasattr(body, "close"):
            if body.__class__ is not FileWrapper or not body.closes_at_once:
                response.out.flush_meanwhile()
            body.close()
    except BaseException as error:
        response.keep_alive = False
        log.exception("app raised in close()", error)


def plain_answer(status: str, *, head_only: bool = False) -> bytes:
    """Spell a whole response of the server's own, such as for "400 Bad Request"; the connection closes after it."""
    text = f"{status}\n".encode("latin-1")
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
    ).encode("latin-1")
    clock.refresh(time.monotonic())
    return b"%b%b\r\n%b" % (head, clock.both, b"" if head_only else text)
