"""The attendant: gives away what waits behind a slow request. A thread of a worker, and the only one of ours.

It sleeps in the kernel until the master rings: this worker has run the same request for some milliseconds, and a
sibling has time (master/relief.py). From then on it looks every few milliseconds, until that request has ended, and
passes connections on that have become readable while any sibling has time. While it does, the loop must not touch them:
it says ``attended``, and the loop, which looks at that after every request, waits for it. That is right because either
the loop sees ``attended`` or the attendant sees that nothing runs any more: both say first and look afterwards, and the
interpreter lock keeps that order. It knows a request by its number: holding the object could make it the one that ends
the app's things.
"""

import gc
import os
import signal
from _thread import RLock, start_new_thread
from time import sleep
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.unix.bell import Bell
from forkserve.unix.scoreboard import WATCHED
from forkserve.worker.state import HEAD, IDLE

if TYPE_CHECKING:
    from forkserve.worker.loop import Loop

_PERIOD_S = 0.004
_FEW = 3
_ASK_AGAIN_S = 1.0  # where the master does not watch: nobody else is there


class Attendant:
    """The attendant of one worker's loop; the master rings ``bell``, and is asked to by ``call``."""

    def __init__(self, loop: "Loop", bell: Bell, call: Bell) -> None:
        self._loop = loop
        self._bell = bell
        self._call = call
        self._at_work = RLock()  # a signal handler of the app may fork while the loop waits here
        # What the app forks must not hold a connection that is just leaving, nor begin without a garbage collector.
        os.register_at_fork(
            before=self._at_work.acquire,
            after_in_parent=self._at_work.release,
            after_in_child=self._at_work.release,
        )
        self._began = False

    def ask(self, now: float) -> None:
        """Ask the master to watch us: the worker holds several connections and is about to run a request. Called by the
        loop."""
        self._loop.deadline[WATCHED] = now + _ASK_AGAIN_S
        if not self._began:
            try:
                # Not by threading: that would cost 2 ms of start and show apps a thread that is none of theirs.
                start_new_thread(self._run, ())
            except RuntimeError:  # no room for a thread: the loop asks again in a second
                log.info("no thread for the attendant; connections are not passed on for now")
                return
            self._began = True
        self._call.ring()

    def await_end(self) -> None:
        """Wait until it has let go of the connections. Called by the loop when it sees ``attended``."""
        with self._at_work:
            pass

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the main thread's
        while True:
            self._bell.wait()
            try:
                self._watch()
            except Exception as error:
                log.exception("attendant failed; connections are not passed on for now", error)
                sleep(1)

    def _watch(self) -> None:
        """Look after those that wait, as long as the request runs that runs now."""
        loop = self._loop
        number = loop.requests
        while loop.running is not None and loop.requests == number:
            if (len(loop.connections) > 1 or loop.has_newcomers) and loop.siblings.have_time():
                self._relieve(number)
            sleep(_PERIOD_S)

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
