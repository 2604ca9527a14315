"""The worker's loop where `threads` is more than 1: it reads and writes, and the app runs in a pool's threads.

A connection's requests run one at a time, in order. Whatever the loop keeps about connections is changed in its own
thread only: a thread of the pool sends, and marks.

While every thread runs a request, the loop waits for one of them and looks at nothing else, for a few milliseconds: the
kernel gives newcomers to siblings, and who is ready stays unread and gets the next thread. If the requests turn out to
be slow, the siblings get who is ready by the relay; whom nobody can take waits for a thread.
"""

import errno
from collections import deque
from select import EPOLLIN, POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.protocol.types import FORWARDED, KEEP_ALIVE, Environ, Refused, Request
from forkserve.unix.scoreboard import Row
from forkserve.worker.backlog import Backlog
from forkserve.worker.connection import Connection
from forkserve.worker.door import apply_forwarded
from forkserve.worker.ending import ending
from forkserve.worker.lines import note_later, note_now, note_refusal
from forkserve.worker.loop import STOP_PATIENCE_S, Loop
from forkserve.worker.pool import Pool
from forkserve.worker.running import Run, Running
from forkserve.worker.stall import Stall
from forkserve.worker.state import HEAD, IDLE, RUNNING, WRITING
from forkserve.wsgi.out import FORKED
from forkserve.wsgi.response import OVERDUE, Response, clock, plain_answer, respond

if TYPE_CHECKING:
    from forkserve.worker.door import Door
    from forkserve.worker.tls import TlsTransport

# Beside an overdue request others run that are not; the master kills 1 s after it has asked for the stacks.
_LAST_S = 0.7
_FOR_THE_END_S = 0.2
# No thread was free for so long, and fewer requests ended than there are threads: they are slow.
_PATIENCE_S = 0.004
_ENDS = "503 Service Unavailable"
_LOST = OSError(errno.EPIPE, "the client has left")
_NEVER = float("inf")


class Task:
    """One request on its way through the pool."""

    __slots__ = ("connection", "request", "response", "took_s")

    def __init__(self, connection: "ThreadedConnection", request: Request) -> None:
        self.connection = connection
        self.request = request
        self.response: Response | None = None  # until it begins
        self.took_s = 0.0


class ThreadedConnection(Connection):
    """A connection whose requests run in the pool. While one does, nothing is read."""

    __slots__ = ("_ends", "_is_lost", "_is_timed_out", "_is_watched", "_threads", "response", "run", "waits")

    def __init__(self, loop: Loop, fd: int, family: int, peer: object, door: "Door", template: Environ) -> None:
        Connection.__init__(self, loop, fd, family, peer, door, template)
        assert isinstance(loop, ThreadedLoop)
        self._threads = loop
        self.response: Response | None = None  # of the request that runs
        self.run: Run | None = None  # its clock
        self._is_timed_out = False  # it was answered in the app's place
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
        has_time = (self.state is IDLE or self.state is HEAD) and self.deadline > monotonic()
        if has_time and threads.is_busy:
            if self.pass_on():
                return
        elif has_time and threads.is_full and self._tls is None:
            threads.keep_waiting(self)
            return
        Connection.on_readable(self)

    def take_turn(self) -> None:
        """Read at last; unless it was closed, passed on or read meanwhile."""
        self.waits = False
        if self.fd >= 0 and (self.state is IDLE or self.state is HEAD):
            thrift = self._threads.thrift
            if thrift is None or self.state is HEAD or thrift.admits(self):
                Connection.on_readable(self)

    def on_readable_tls(self) -> None:
        """The same where TLS may hold bytes that epoll does not show."""
        tls = self._tls
        assert tls is not None
        self.on_readable()
        while self._has_pending(tls) and not self.is_paused:
            self.on_readable()

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

    def time_out(self, response: Response, began: float) -> None:
        """Answer 504 instead of the app. In the loop's thread, while the app runs in another one.

        Either the app's thread sees that the connection is lost, or we see that it has sent a head: both say first and
        look afterwards.
        """
        if not response.head_sent:
            self.lose()
            if not response.head_sent:
                response.become_own_page(OVERDUE)
                try:
                    self._send_now(response.own_page(OVERDUE))
                except OSError:
                    pass
                self.release_end()
        self._is_timed_out = True
        self.unlogged = (response.request[0], response, began)
        note_now(self)

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
        if not self._is_watched:
            self._is_watched = True
            self._threads.epoll.register(self.fd, EPOLLIN)
        self.run = None
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
        if self._is_lost:
            self._abort()
        elif self._ends:
            if not waits and not response.aborted:
                self.release_end()
            self.close()
        if self.fd < 0 or waits or not response.keep_alive:
            self._after(response, flags, waits)
            return
        self._go_on_after_writing()
        if self._tls is not None and self._has_pending(self._tls):
            self.on_readable_tls()

    def _has_pending(self, tls: "TlsTransport") -> bool:
        return self.fd >= 0 and self.state is not WRITING and self.state is not RUNNING and tls.pending()

    def _serve(self) -> None:
        """Have the first complete request run; those that follow wait for its end."""
        self.fresh = False
        self.state = RUNNING
        self.deadline = _NEVER  # its request has one
        request = self._decoder.ready.pop(0)
        environ, line, flags = request
        if flags & FORWARDED:
            apply_forwarded(environ, self._door.forwarders.trust)
        self._threads.hand_over(Task(self, request), line)


class ThreadedLoop(Loop):
    """One worker at work, with threads for the app: call ``have`` once, then ``run``."""

    kind = ThreadedConnection
    running_now: Running[Task]
    _pool: Pool[Task]
    _overdue: frozenset[Task] = frozenset()
    _is_ending = False
    _waiting: deque[ThreadedConnection]  # ready and unread, since no thread is free

    def have(self, threads: int, row: Row) -> None:
        """Start so many threads, which share a row of the scoreboard."""
        self.attendant = None  # this thread is free to look after who waits
        self.running_now = Running(row)
        self._threads = threads
        self._pool = Pool(threads, self._run)
        self._waiting = deque()
        self._bell = poll()
        self._bell.register(self._pool.fd, POLLIN)
        self.poll = self._poll
        self._special[self._pool.fd] = self.readers[self._pool.fd] = self._on_done
        clock.refresh(monotonic())  # later it is by the threads, of which one may see what another has half done
        self._stall = Stall(self._pool, self.running_now, row, threads, self.timeout_s)
        self._pool.start()

    def hand_over(self, task: Task, line: bytes) -> None:
        """Have a request run by a thread."""
        now = monotonic()
        if now >= self.show_busy_at:
            self.show_busy(now, line)
        self.requests += 1
        self._pool.put(task)

    @property
    def is_full(self) -> bool:
        """Whether every thread has a request."""
        return self._pool.is_full

    def keep_waiting(self, connection: ThreadedConnection) -> None:
        """Leave a connection that is ready unread until a thread is free, or for a moment."""
        if not connection.waits:
            connection.waits = True
            self._waiting.append(connection)

    def retire(self, *, drain: bool) -> None:
        """Finish what was begun and take nothing new. See Loop."""
        Loop.retire(self, drain=drain)
        if drain:  # also for those whose request runs now
            self.keepalive_s = min(self.keepalive_s, STOP_PATIENCE_S)

    def hurry(self) -> None:
        """Leave as soon as the requests that run have ended: drop what waits, for a thread too."""
        for task in self._pool.withdraw():
            task.connection.state = IDLE
        Loop.hurry(self)

    def let_go(self) -> None:
        """Close this process's copies of what is the worker's, in a child that the app has forked."""
        for task in self.running_now.runs.values():
            if task.response is not None:
                task.response.out = FORKED
        Loop.let_go(self)
        self._pool.let_go()

    def answer_overdue(self) -> bool:
        """Answer 504 where a request is overdue; False: others run, and may end. In a signal handler."""
        now = monotonic()
        running = list(self.running_now.runs.items())  # without the lock: this may be the thread that has it
        # None is overdue: the order was about the worker, and means all of them.
        late = [(run, task) for run, task in running if run.deadline <= now] or running
        overdue = [task for _, task in late]
        for run, task in late:
            if task.response is not None:
                task.connection.time_out(task.response, run.began)
        if len(overdue) == len(running):
            for task in self._pool.withdraw():
                task.connection.refuse_now(task.request[0])
            return True
        self._overdue = frozenset(overdue)
        self._pool.wake()
        return False

    def _run(self, task: Task) -> None:
        """Run the app for one request. In a thread of the pool."""
        if self._overdue:
            return  # the process ends in a moment: whatever it began now would break off
        connection = task.connection
        environ, line, flags = task.request
        now = monotonic()
        run = connection.run = Run(self.running_now, now + self.timeout_s, now, line)
        environ["forkserve.extend_deadline"] = run.extend_deadline
        response = connection.response_kind.of(task.request, connection, connection.stays and flags & KEEP_ALIVE != 0)
        task.response = connection.response = response
        self.running_now.begin(run, task)
        respond(self.app, environ, response)
        self.running_now.end(run)
        task.took_s = monotonic() - now

    def _look_at_clock(self, now: float) -> None:
        Loop._look_at_clock(self, now)
        self._stall.look(now)

    def _poll(self, timeout_s: float | None, most: int) -> list[tuple[int, int]]:
        """Wait for events; while all threads are newly at work, for one of them to be free."""
        if self._pool.is_full and not self.is_busy:
            self._await_thread()
            if self._pool.is_full and not self.is_busy:
                timeout_s = 0  # many quick requests: let us see what else there is
        return self.epoll.poll(timeout_s, most)

    def _await_thread(self) -> None:
        """Give every thread that is free its next request, until nobody waits for one, for a moment at most."""
        until = monotonic() + _PATIENCE_S
        left_s = _PATIENCE_S
        ended = 0
        while left_s > 0 and self._bell.poll(left_s * 1000):
            ended += self._go_on()
            if not self._pool.is_full:
                return
            left_s = until - monotonic()
        if ended < self._threads:
            self._be_busy()

    def _be_busy(self) -> None:
        """Leave to the siblings what they can take: no thread will be free soon."""
        self.is_busy = True
        self._entrance.rest()
        while self._waiting:
            connection = self._waiting.popleft()
            if not connection.pass_on():
                connection.take_turn()

    def _on_done(self) -> None:
        """Requests have run, or one is overdue."""
        self._go_on()

    def _go_on(self) -> int:
        """Go on after the requests that have run; tell how many."""
        done = self._pool.take_done()
        for task in done:
            task.connection.on_ran(task)
        # One that waits for each that has ended: pipelines, which go on by themselves, shall not overtake for ever.
        count = len(done)
        while self._waiting and (count > 0 or not self._pool.is_full):
            count -= 1
            self._waiting.popleft().take_turn()
        # The entrance is opened at the end of this round.
        self.is_busy = (self.is_busy and self._pool.is_full) or self._is_ending
        if self._overdue and not self._is_ending:
            self._end()
        return len(done)

    def _end(self) -> None:
        """Let the others finish, for a moment; then end the process: a thread that hangs cannot be ended."""
        until = monotonic() + _LAST_S
        self._is_ending = self.is_busy = True
        self._entrance.close(exhausted=True)
        for task in self._pool.withdraw():
            task.connection.on_ran(task)
        for connection in list(self.connections.values()):
            connection.pass_on()
        while (left_s := until - monotonic()) > 0 and self._has_unfinished():
            for fd, _ in self.epoll.poll(left_s):
                self._on_other(fd)
        for connection in self.connections.values():
            connection.cut()
        if self.access is not None:
            self.access.flush()
        ending.cut_short(within_s=max(0.0, until - monotonic()) + _FOR_THE_END_S)

    def _has_unfinished(self) -> bool:
        overdue = {task.connection for task in self._overdue}
        at_work = (connection for connection in self.connections.values() if connection.state in (RUNNING, WRITING))
        return any(connection not in overdue for connection in at_work)

    def _show(self, what: str) -> None:
        if what != "idle" or self._pool.is_idle:
            Loop._show(self, what)
