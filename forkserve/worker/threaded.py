"""The worker's loop where `threads` is more than 1: it reads and writes, and the app runs in a pool's threads.

A connection's requests run one at a time, in order. Whatever the loop keeps about connections is changed in its own
thread only: a thread of the pool sends, and marks.

While every thread runs a request, the loop waits for one of them and looks at nothing else, for a few milliseconds: the
kernel gives newcomers to siblings, and who is ready stays unread and gets the next thread. If the requests turn out to
be slow, the siblings get who is ready by the relay; whom nobody can take waits for a thread.
"""

from collections import deque
from select import POLLIN, poll
from time import monotonic

from forkserve.log import log
from forkserve.protocol.types import KEEP_ALIVE
from forkserve.unix.messages import UP, Spent
from forkserve.unix.scoreboard import Row
from forkserve.worker.loop import Loop
from forkserve.worker.pool import Pool
from forkserve.worker.pooled import Task, ThreadedConnection
from forkserve.worker.running import Run, Running
from forkserve.worker.stall import Stall
from forkserve.worker.state import IDLE
from forkserve.wsgi.clock import clock
from forkserve.wsgi.out import ENDED, FORKED
from forkserve.wsgi.response import respond

# No thread was free for so long, and fewer requests ended than there are threads: they are slow.
_PATIENCE_S = 0.004
_LONG_S = 0.02  # who has waited for a thread for longer may have left
_NEVER = float("inf")


class ThreadedLoop(Loop):
    """One worker at work, with threads for the app: call ``have`` once, then ``run``."""

    kind = ThreadedConnection
    running_now: Running[Task]
    _pool: Pool[Task]
    _overdue: tuple[tuple[Run, Task], ...] = ()  # that were answered in the app's place, and not given up yet
    _late_s = 0.0  # how late the master found the first of them
    _is_ordered = False  # by the master, to do so
    _is_spent = False  # a thread hangs, so the process must end
    _waiting: deque[ThreadedConnection]  # ready and unread, since no thread is free

    def have(self, threads: int, row: Row) -> None:
        """Start so many threads, which share a row of the scoreboard."""
        self.limits = self.timer.limits
        self.given_up: set[ThreadedConnection] = set()  # whose threads hang
        self.attendant = None  # this thread is free to look after who waits
        self.running_now = Running(row)
        self._pool = Pool(threads, self._run)
        self._waiting = deque()
        self._bell = poll()
        self._bell.register(self._pool.fd, POLLIN)
        self.poll = self._poll
        self._special[self._pool.fd] = self.readers[self._pool.fd] = self._on_done
        clock.refresh(monotonic())  # later it is by the threads, of which one may see what another has half done
        self._stall = Stall(self._pool, self.running_now, row, threads, self.limits.first_s)
        self._pool.start()

    def hand_over(self, task: Task, line: bytes) -> None:
        """Have a request run by a thread."""
        now = monotonic()
        if now >= self.show_busy_at:
            self.show_busy(now, line)
        self.requests += 1
        self._pool.put(task)
        if self._is_spent:
            self._refuse_what_waits()

    @property
    def is_full(self) -> bool:
        """Whether every thread has a request."""
        return self._pool.is_full

    @property
    def runs_app(self) -> bool:
        """Whether a request is in the app."""
        return bool(self.running_now.runs or self.given_up)

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits for a thread."""
        return self._pool.is_full or bool(self._waiting)

    def keep_waiting(self, connection: ThreadedConnection) -> None:
        """Leave a connection that is ready unread until a thread is free, or for a moment."""
        if not connection.waits:
            connection.waits = True
            self._waiting.append(connection)

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
        for connection in self.given_up:
            connection.let_go()

    def answer_overdue(self) -> bool:
        """Answer 504 where a request is overdue. In a signal handler. True: the order was about the worker, which ends
        at once; else it ends when the others have."""
        running = list(self.running_now.runs.items())  # without the lock: this may be the thread that has it
        first = self.running_now.overdue_since
        is_about_one = first > 0.0 and not self._is_spent and not self._stall.is_told
        # The master gives requests more time where it stood still: whoever has more than the first has more now, too.
        # The first may have ended in this moment; the master counts on our end all the same.
        late = [(run, task) for run, task in running if run.deadline <= first] if is_about_one else running
        self._overdue = self._answer(late)
        if is_about_one:
            self._is_ordered = True
            self._late_s = monotonic() - first
            self._pool.wake()
            return False
        for task in self._pool.withdraw():
            task.connection.refuse_now(task.request[0])
        return True

    def _answer(self, late: list[tuple[Run, Task]]) -> tuple[tuple[Run, Task], ...]:
        """Answer these in the app's place, but for who ends in this moment; return whom."""
        found = []
        for run, task in late:
            if task.response is not None and task.response.out is not ENDED:
                task.connection.time_out(task.response, run.began)
                found.append((run, task))
        return tuple(found)

    def _run(self, task: Task) -> None:
        """Run the app for one request. In a thread of the pool."""
        connection = task.connection
        environ, line, flags = task.request
        now = monotonic()
        if now - task.queued_at > _LONG_S and connection.has_left():
            task.is_left = True
            return
        run = Run(self.running_now, now + self.first_s, now, line, now + self.limits.whole_s)
        connection.run = run
        environ["forkserve.extend_deadline"] = run.extend_deadline
        keep_alive = flags & KEEP_ALIVE != 0 and (connection.stays or connection.owes_more())
        response = connection.response_kind.of(task.request, connection, keep_alive)
        task.response = connection.response = response
        self.running_now.begin(run, task)
        respond(self.app, environ, response)
        self.running_now.end(run)
        task.took_s = monotonic() - now

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
        self._relieve_waiting()

    def _relieve_waiting(self) -> None:
        """Have those whom no thread takes soon served elsewhere, where that can be."""
        while self._waiting:
            connection = self._waiting.popleft()
            if not connection.offer():
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
        self.is_busy = (self.is_busy and self._pool.is_full) or self._is_spent
        if self._is_ordered:
            self._is_ordered = False
            self._be_spent()
            self._give_up_overdue()
        return len(done)

    def _be_spent(self) -> None:
        """Leave when the other requests have ended: a thread that hangs cannot be. Somebody new goes elsewhere."""
        self._is_spent = self.is_busy = True
        self.running_now.release(self._late_s)
        self._channel.send(UP.encode(Spent()))
        self._entrance.close(exhausted=True)  # the master has told the siblings to look
        if not self.is_retiring:
            self.retire(drain=False)
        self._relieve_waiting()

    def _give_up_overdue(self) -> None:
        """Count the requests that were answered in the app's place as ended."""
        overdue, self._overdue = self._overdue, ()
        for run, task in overdue:
            if self.running_now.give_up(run):  # else it has ended by itself meanwhile
                self.given_up.add(task.connection)
                task.connection.abandon()
        self._refuse_what_waits()

    def _refuse_what_waits(self) -> None:
        """Where every thread hangs, refuse what none has begun."""
        if len(self.given_up) >= self._threads:
            for task in self._pool.withdraw():
                task.connection.on_ran(task)

    def _look_at_clock(self, now: float) -> None:
        if self._is_spent and now >= self._sweep_at:
            self._time_out_more(now)
        Loop._look_at_clock(self, now)
        if not self._is_spent:
            self._stall.look(now)

    def _time_out_more(self, now: float) -> None:
        """Look after the requests that are overdue beside the first one: the master does not any more."""
        late = self.running_now.overdue(now)
        for run, _ in late:
            request = run.line.decode("latin-1")
            log.error("one more request overdue", request=request, age_s=round(now - run.began, 3))
        self._overdue = self._answer(late)
        self._give_up_overdue()

    def _take_next(self) -> bool:
        if len(self.given_up) < self._threads:
            return Loop._take_next(self)
        self._draining = False
        return bool(self.connections)

    def _show(self, what: str) -> None:
        if what != "idle" or self._pool.is_idle:
            Loop._show(self, what)
