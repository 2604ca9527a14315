"""The threads of a worker: jobs go in from the loop's thread and come out to it, finished. Knows nothing of requests.

What has finished is told by an eventfd in the loop's epoll, which is written once however many finish meanwhile. No
signal is blocked in the threads: the kernel prefers the main thread anyway, Python's handlers run nowhere else, and
what the app starts from a thread would inherit the mask, so that its terminate() would do nothing.
"""

import os
from _thread import allocate_lock
from collections.abc import Callable
from os import eventfd_read, eventfd_write
from queue import Empty, SimpleQueue
from threading import Thread, current_thread, get_native_id
from typing import Generic, TypeVar

from forkserve.errors import ExitCode
from forkserve.log import log
from forkserve.worker.forks import end_fork
from forkserve.worker.state import POOLED

Job = TypeVar("Job")


class _Pooled(Thread):
    """A thread that nobody waits for at the end of the process, unlike those that the app starts from it: a new thread
    is a daemon where the one that makes it is."""

    _has_begun = False

    @property
    def daemon(self) -> bool:  # type: ignore[override]  # nobody sets it
        """What `threading` asks when it starts this thread, and, from then on, when this one makes others."""
        return not self._has_begun

    def run(self) -> None:
        self._has_begun = True
        Thread.run(self)


class Pool(Generic[Job]):
    """``threads`` threads that call ``run`` with one job at a time. All but ``run`` is the loop's thread's."""

    def __init__(self, threads: int, run: Callable[[Job], None]) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable: take_done has something, or wake was said
        self._pid = os.getpid()
        self._threads = threads
        self._run = run
        self._taken = 0  # jobs that were put and have not come back
        self._work: SimpleQueue[Job] = SimpleQueue()
        self._lock = allocate_lock()  # of the two below
        self._done: list[Job] = []
        self._is_rung = False

    @property
    def is_idle(self) -> bool:
        """Whether there is no job."""
        return not self._taken

    @property
    def unfinished(self) -> int:
        """How many jobs were put and have not finished."""
        return self._taken - len(self._done)

    @property
    def is_full(self) -> bool:
        """Whether a job that is put now must wait for a thread."""
        return self._taken >= self._threads

    def start(self) -> None:
        """Start the threads."""
        for number in range(1, self._threads + 1):
            _Pooled(target=self._work_on, name=f"{POOLED}{number}").start()

    def put(self, job: Job) -> None:
        """Have a job run by the next free thread."""
        self._taken += 1
        self._work.put(job)

    def take_done(self) -> list[Job]:
        """Take what has finished since the last time, in order."""
        try:
            eventfd_read(self.fd)
        except BlockingIOError:
            pass
        with self._lock:
            done, self._done = self._done, []
            self._is_rung = False
        self._taken -= len(done)
        return done

    def withdraw(self) -> list[Job]:
        """Take back what no thread has begun."""
        found: list[Job] = []
        try:
            while True:
                found.append(self._work.get_nowait())
        except Empty:
            self._taken -= len(found)
            return found

    def wake(self) -> None:
        """Make ``fd`` readable. May be called from a signal handler, and by any thread."""
        eventfd_write(self.fd, 1)

    def let_go(self) -> None:
        """Close this process's copy, in a child that the app has forked."""
        os.close(self.fd)

    def _work_on(self) -> None:
        _name_thread(current_thread().name)
        try:
            while True:
                self._finish(self._run_next())
        except BaseException as error:  # a fault of ours: what the app raises ends in its response
            if os.getpid() != self._pid:
                os._exit(end_fork(error))
            log.exception("thread failed; worker ends", error)
            os._exit(ExitCode.FAILURE)

    def _run_next(self) -> Job:
        job = self._work.get()
        self._run(job)
        return job

    def _finish(self, job: Job) -> None:
        # A frame of its own, as above: an idle thread must not keep its last job alive.
        with self._lock:
            self._done.append(job)
            is_rung, self._is_rung = self._is_rung, True
        if not is_rung:
            self.wake()


def _name_thread(name: str) -> None:
    """Tell the kernel, for ps and top; CPython does so from 3.14 on. proc(5), /proc/PID/comm."""
    try:
        with open(f"/proc/self/task/{get_native_id()}/comm", "w", encoding="ascii") as comm:
            comm.write(name)
    except OSError:
        pass
