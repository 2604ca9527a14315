"""The attendant: gives away what waits behind a slow request. A thread of a worker, and the only one of ours.

It sleeps while the worker holds one connection or none, or runs nothing. Else it looks every few milliseconds whether
the same request still runs, and if so passes the connections on that have become readable. While it does, the loop must
not touch them: it says ``attended``, and the loop, which looks at that after every request, waits for it. That is right
because either the loop sees ``attended`` or the attendant sees that nothing runs any more: both say first and look
afterwards, and the interpreter lock keeps that order. It falls asleep by the same rule: it says ``asleep``, then looks.
It knows a request by its number: holding the object could make it the one that ends the app's things.
"""

import gc
import os
import signal
from _thread import RLock, allocate_lock, start_new_thread
from time import sleep
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.worker.state import HEAD, IDLE

if TYPE_CHECKING:
    from forkserve.worker.loop import Loop

# A request that takes longer than one to two periods is slow. Shorter periods cost more wake-ups under load: 200 a
# second are about 0.3 % of one core.
_PERIOD_S = 0.004
_FEW = 3
_QUIET_PERIODS = 25  # without a running request in sight: asleep again


class Attendant:
    """The attendant of one worker's loop."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        # Not by threading: that would cost 2 ms of start and show apps a thread that is none of theirs.
        self._bell = allocate_lock()
        self._bell.acquire()
        self._at_work = RLock()  # a signal handler of the app may fork while the loop waits here
        # What the app forks must not hold a connection that is just leaving, nor begin without a garbage collector.
        os.register_at_fork(
            before=self._at_work.acquire,
            after_in_parent=self._at_work.release,
            after_in_child=self._at_work.release,
        )
        self._began = False
        self._is_alone = False
        self.asleep = True

    def ring(self) -> None:
        """Wake it: the worker holds several connections and is about to run a request. Called by the loop."""
        self.asleep = False
        self._is_alone = not self._loop.siblings.are_there()
        if self._is_alone:
            return  # the loop asks again in a second
        if not self._began:
            try:
                start_new_thread(self._run, ())
            except RuntimeError:  # no room for a thread: the loop rings again in a second
                log.info("no thread for the attendant; connections are not passed on for now")
                return
            self._began = True
        if self._bell.locked():  # else it is rung already
            self._bell.release()

    def try_again(self) -> None:
        """Be rung again, if no thread could be had or nobody else was there. Called by the loop once a second."""
        if not self._began or self._is_alone:
            self.asleep = True

    def await_end(self) -> None:
        """Wait until it has let go of the connections. Called by the loop when it sees ``attended``."""
        with self._at_work:
            pass

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the main thread's
        while True:
            self._bell.acquire()
            while not self.asleep:
                try:
                    self._watch()
                except Exception as error:
                    log.exception("attendant failed; connections are not passed on for now", error)
                    sleep(1)
                self.asleep = True
                if self._is_needed():
                    self.asleep = False

    def _is_needed(self) -> bool:
        loop = self._loop
        return loop.running is not None and (len(loop.connections) > 1 or loop.has_newcomers)

    def _watch(self) -> None:
        loop = self._loop
        quiet = last = 0
        while quiet < _QUIET_PERIODS:
            sleep(_PERIOD_S)
            quiet += 1
            if self._is_needed():
                quiet = 0
                number = loop.requests
                if number == last and self._loop.siblings.have_time():
                    self._relieve(number)
                last = number

    def _pass_on_ready(self) -> None:
        """Give away what became readable while the app runs."""
        loop = self._loop
        misses = 0
        for waiting in loop.turns[:]:
            misses += not waiting.pass_on()
        for fd, _ in loop.epoll.poll(0):
            connection = loop.connections.get(fd)
            if connection is None:
                loop.tell_of_newcomer(fd)
            elif (connection.state is IDLE or connection.state is HEAD) and not connection.waits:
                misses += not connection.pass_on()
                if misses > _FEW:
                    return  # the queue is full, it seems: they will be looked at again

    def _relieve(self, number: int) -> None:
        loop = self._loop
        with self._at_work:
            loop.attended = True
            collects = gc.isenabled()
            gc.disable()  # or the app's garbage could be finalized in a thread that the app does not know
            try:
                if loop.running is not None and loop.requests == number:
                    self._pass_on_ready()
            finally:
                loop.attended = False
                if collects:
                    gc.enable()
