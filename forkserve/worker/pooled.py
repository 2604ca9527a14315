"""A connection whose requests run in the threads of the pool, and one request on its way through it.

What happens to it happens in the loop's thread, but for what the app's thread sends, and for the time-out, which comes
from a signal handler there. Runs in a worker; the loop that drives it is in worker/threaded.py.
"""

import _socket
import errno
import os
from select import EPOLLIN
from time import monotonic
from typing import TYPE_CHECKING, cast

from forkserve.protocol.types import Environ, Refused, Request
from forkserve.worker.backlog import Backlog
from forkserve.worker.connection import Connection
from forkserve.worker.door import HAS_WORDS, hear_words
from forkserve.worker.lines import note_later, note_now, note_refusal
from forkserve.worker.running import Run
from forkserve.worker.state import HEAD, IDLE, RUNNING
from forkserve.wsgi.response import OVERDUE, Response, plain_answer

if TYPE_CHECKING:
    from forkserve.worker.door import Door
    from forkserve.worker.loop import Loop
    from forkserve.worker.threaded import ThreadedLoop
    from forkserve.worker.tls import TlsTransport

_ENDS = "503 Service Unavailable"
_LOST = OSError(errno.EPIPE, "the client has left")
_NEVER = float("inf")


class Task:
    """One request on its way through the pool."""

    __slots__ = ("connection", "is_left", "queued_at", "request", "response", "took_s")

    def __init__(self, connection: "ThreadedConnection", request: Request) -> None:
        self.connection = connection
        self.request = request
        self.response: Response | None = None  # until it begins
        self.took_s = 0.0
        self.queued_at = monotonic()
        self.is_left = False  # by its client, before it began


class ThreadedConnection(Connection):
    """A connection whose requests run in the pool. While one does, nothing is read."""

    __slots__ = (
        "_ends",
        "_is_answered",
        "_is_given_up",
        "_is_lost",
        "_is_timed_out",
        "_is_watched",
        "_threads",
        "response",
        "run",
        "waits",
    )

    def __init__(self, loop: "Loop", fd: int, family: int, peer: object, door: "Door", template: Environ) -> None:
        Connection.__init__(self, loop, fd, family, peer, door, template)
        self._threads = cast("ThreadedLoop", loop)
        self.response: Response | None = None  # of the request that runs
        self.run: Run | None = None  # its clock
        self._is_timed_out = False  # it was answered in the app's place
        self._is_answered = False  # with a page of ours
        self._is_given_up = False  # its thread hangs; the connection is over
        self._ends = False  # when its request has run
        self._is_lost = False  # the running request cannot be answered any more
        self._is_watched = True  # by epoll
        self.waits = False  # ready, and unread until there is a thread

    def on_readable(self) -> None:
        """Bytes, or the end of them, have arrived."""
        threads = self._threads
        if self.state is RUNNING:
            # Looked at afterwards. Most clients wait for their answer, so most requests get by without this.
            if self._is_watched:
                self._is_watched = False
                threads.epoll.unregister(self.fd)
            return
        if self.has_rest:
            return  # it is not its turn
        has_time = (self.state is IDLE or self.state is HEAD) and self.deadline > monotonic()
        if has_time and threads.is_busy:
            if self.offer():
                return
        elif has_time and threads.is_full and self._tls is None:
            threads.keep_waiting(self)
            return
        Connection.on_readable(self)

    def take_turn(self) -> None:
        """Read at last, or go on with a pipeline; unless it was closed, passed on or read meanwhile."""
        self.waits = False
        if self.fd >= 0 and (self.state is IDLE or self.state is HEAD):
            if self.has_left():
                self.leave_unserved()
                return
            thrift = self._threads.thrift
            if self.has_rest:
                Connection.take_turn(self)
            elif thrift is None or self.state is HEAD or thrift.admits(self):
                Connection.on_readable(self)

    def _take_rest(self, began: float) -> None:
        """Go on with a pipeline, behind those who wait for a thread."""
        threads = self._threads
        if self.has_rest and threads.is_retiring and self.stays and self.pass_on():
            return
        if self.has_rest and self.deadline > monotonic() and threads.has_waiting and not threads.is_busy:
            threads.keep_waiting(self)
        else:
            Connection._take_rest(self, began)

    def close(self) -> None:
        """Close now; while its request runs, afterwards."""
        if self.state is RUNNING:
            self._ends = True
        else:
            Connection.close(self)

    def send_last(self, data: bytes) -> None:
        """Send it without the end: the loop, which closes, may have something else to do first."""
        self.send(data)

    def lose(self) -> None:
        """The client cannot be answered any more: the app, which runs, meets PeerGone at its next byte."""
        if self.state is not RUNNING:
            self.close()
            return
        self._is_lost = True
        self.drop_kept(_LOST)
        if self._backlog is None:
            lost = Backlog(self._loop.spool, 0)
            lost.fail(_LOST)
            self._backlog = lost  # which sends come to

    def pause_clock(self) -> float:
        """Take the running request's deadline away for a moment: what follows is not on the app's time."""
        return 0.0 if self.run is None else self.run.stop_clock()

    def resume_clock(self, deadline: float, waited_s: float) -> None:
        """Give it back, so much later."""
        if self.run is not None:
            self.run.go_on(deadline, waited_s)

    def restart_clock(self) -> None:
        """The app has given a part of its response: its time for the next one begins."""
        if self.run is not None:
            self.run.restart(self._threads.limits.part_s)

    def time_out(self, response: Response, began: float) -> None:
        """Answer 504 instead of the app. In the loop's thread, while the app runs in another one.

        Either the app's thread sees that the connection is lost, or we see that it has sent a head: both say first and
        look afterwards.
        """
        has_begun = response.head_sent
        self.lose()
        if not has_begun and not response.head_sent:
            self._is_answered = True
            response.become_own_page(OVERDUE)
            try:
                self._send_now(response.own_page(OVERDUE))
            except OSError:
                pass
            self.release_end()
        self._is_timed_out = True
        self.unlogged = (response.request[0], response, began)
        note_now(self)

    def abandon(self) -> None:
        """End the connection while its thread hangs in the app, after time_out(): as a whole response ends where the
        answer was ours, else as a cut. The descriptor stays, and leads to nobody: the thread may still write to it."""
        self._is_given_up = True
        del self._threads.connections[self.fd]
        del self._threads.readers[self.fd]
        if self._is_watched:
            self._is_watched = False
            self._threads.epoll.unregister(self.fd)
        if self._is_answered or (self._tls is None and not self._is_guarded):
            try:
                self.sock.shutdown(_socket.SHUT_WR)
            except OSError:  # the client has left; or TLS has no room for its last word
                pass
        else:
            self.guard_end()
            self.cut()
            nobody = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            os.dup2(nobody.fileno(), self.fd, inheritable=False)
            nobody.close()

    def refuse_now(self, environ: Environ) -> None:
        """Say that the request, which no thread has begun, never will be: the process ends in this moment."""
        note_refusal(self, environ, _ENDS)
        note_now(self)
        try:
            self._send_now(plain_answer(_ENDS))
        except OSError:
            pass
        self.release_end()

    def on_ran(self, task: Task) -> None:
        """Go on after a request, which has run in the pool, or never will."""
        response = task.response
        environ, _, flags = task.request
        self.state = IDLE
        self.response = None
        if not self._is_watched and not self._is_given_up:
            self._is_watched = True
            self._threads.epoll.register(self.fd, EPOLLIN)
        self.run = None
        if self._is_given_up:  # its thread came back after all
            self._threads.given_up.discard(self)
            self.fd = -1
            self._decoder.close()
            self.sock.close()
            return
        if task.is_left:
            self.leave_unserved()
            return
        if response is None:
            refused = Refused(_ENDS, "the worker ends before this request could begin")
            refused.environ = environ
            self._refuse(refused)
            return
        waits = self._backlog is not None
        access = self._threads.access
        if access is not None and not self._is_timed_out:
            if waits or self.unsent:
                note_later(self, environ, response, monotonic() - task.took_s)
            else:
                access.note(environ, response, task.took_s)
        if self._is_answered:  # a moment ago, and the app has ended after all
            self.take_back()
            self._backlog = None
            self.linger()
            return
        if self._is_lost:
            self._abort()
        elif self._ends:
            if not waits and not response.aborted:
                self.part()
                return
            self.close()
        if self.fd < 0 or waits or not response.keep_alive:
            self._after(response, flags, waits)
            return
        self._go_on_after_writing()
        if self._tls is not None and self._has_pending(self._tls):
            self.on_readable_tls()

    def _has_pending(self, tls: "TlsTransport") -> bool:
        return self.state is not RUNNING and not self.has_rest and Connection._has_pending(self, tls)

    def _serve(self) -> None:
        """Have the first complete request run; those that follow wait for its end."""
        if self.fresh:
            self.fresh = False
            if self.has_left():
                self.leave_unserved()
                return
        self.state = RUNNING
        self.deadline = _NEVER  # its request has one
        request = self._decoder.ready.pop(0)
        environ, line, flags = request
        if flags & HAS_WORDS:
            hear_words(environ, flags, self._door.forwarders, self.peer)
        self._threads.hand_over(Task(self, request), line)
