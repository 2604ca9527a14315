"""The flusher: writes what clients have not taken while the app is at work on the rest. A thread of a worker.

Without it a response would stand still between two pieces of the app's: what is kept is else written only when the app
gives more, or by the loop when it is done. It sleeps while nothing is kept for a running request. It sees a client that
leaves or takes nothing, and forgets what is kept for it; the app learns of that with its next piece.

Whoever calls here holds the backlog's lock, and so does the flusher while it writes: a backlog is watched exactly while
it is its connection's and not empty.
"""

import gc
import os
import signal
from _thread import RLock, allocate_lock, start_new_thread
from select import EPOLLOUT, epoll
from time import monotonic, sleep
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.worker.backlog import Backlog

if TYPE_CHECKING:
    from forkserve.worker.outlet import Outlet

_LOOK_S = 1.0  # how often it looks for clients that take nothing


class Flusher:
    """The flusher of one worker. ``send_timeout_s``: how long a client may take nothing."""

    def __init__(self, send_timeout_s: float) -> None:
        self._send_timeout_s = send_timeout_s
        self._watched: dict[int, tuple[Outlet, Backlog]] = {}
        self._epoll: epoll | None = None  # made with the thread
        self._bell = allocate_lock()
        self._bell.acquire()
        self._start = allocate_lock()  # of the thread, and to ring
        self._at_work = RLock()

    def watch(self, out: "Outlet", backlog: Backlog) -> None:
        """Write this backlog from now on, whenever its client takes something."""
        if backlog.is_watched or not self._is_running():
            return
        assert self._epoll is not None
        try:
            self._epoll.register(out.fd, EPOLLOUT)
        except OSError as error:  # too many watches: epoll_ctl(2)
            log.info("no flusher; what is kept waits for the app", cause=error.strerror)
            return
        self._watched[out.fd] = (out, backlog)
        backlog.is_watched = True
        with self._start:
            if self._bell.locked():
                self._bell.release()

    def leave(self, out: "Outlet", backlog: Backlog) -> None:
        """Leave this backlog to the caller from now on; of no effect if it is not watched."""
        if backlog.is_watched:
            assert self._epoll is not None
            backlog.is_watched = False
            del self._watched[out.fd]
            self._epoll.unregister(out.fd)

    def forget(self) -> None:
        """Close this process's copy, in a child that the app has forked: the thread is not there."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._watched.clear()
        self._start = allocate_lock()

    def _is_running(self) -> bool:
        """Start the thread, if it has not been; False: there is no room for one, the app's own pieces must do."""
        if self._epoll is not None:
            return True
        with self._start:
            if self._epoll is None:
                try:
                    waiting = epoll()
                except OSError as error:
                    log.info("no flusher; what is kept waits for the app", cause=error.strerror)
                    return False
                try:
                    start_new_thread(self._run, (waiting,))
                except RuntimeError as error:
                    waiting.close()
                    log.info("no flusher; what is kept waits for the app", cause=error)
                    return False
                # What the app forks must not begin without a garbage collector.
                os.register_at_fork(
                    before=self._at_work.acquire,
                    after_in_parent=self._at_work.release,
                    after_in_child=self._at_work.release,
                )
                self._epoll = waiting
        return True

    def _run(self, waiting: epoll) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the main thread's
        while True:
            self._bell.acquire()
            look_at = monotonic() + _LOOK_S
            while self._watched:
                events = waiting.poll(_LOOK_S)
                has_failed = False
                with self._at_work:
                    collects = gc.isenabled()
                    gc.disable()  # or the app's garbage could be finalized in a thread that the app does not know
                    try:
                        for fd, _ in events:
                            self._flush(fd)
                        if monotonic() >= look_at:
                            self._look()
                            look_at = monotonic() + _LOOK_S
                    except Exception as error:
                        log.exception("flusher failed; what is kept waits for the app", error)
                        has_failed = True
                    finally:
                        if collects:
                            gc.enable()
                if has_failed:
                    sleep(_LOOK_S)

    def _flush(self, fd: int) -> None:
        found = self._watched.get(fd)
        if found is None:
            return
        out, backlog = found
        with backlog.lock:
            if backlog.is_watched:
                out.flush(backlog)

    def _look(self) -> None:
        """Give up the clients that have taken nothing for too long."""
        now = monotonic()
        for out, backlog in list(self._watched.values()):
            if backlog.taken_at + self._send_timeout_s < now:
                with backlog.lock:
                    if backlog.is_watched:
                        out.give_up(backlog)
