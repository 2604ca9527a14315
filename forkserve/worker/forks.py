"""Processes that the app forks: what they let go of, how they are called, how they end. Runs in them.

A copy of a listener or of a connection would keep a port bound, or a client waiting, for as long as such a process
lives; our handlers would make it deaf. Registered before anything of the app runs, since apps fork while they are
imported. Programs that are started without a fork of Python's (vfork, posix_spawn) lose all of it by their exec.
"""

import faulthandler
import os
import signal
from _thread import get_ident
from typing import TYPE_CHECKING

from forkserve.birth import Birth
from forkserve.errors import AppImportError, ExitCode
from forkserve.log import errors_stream
from forkserve.unix import signals
from forkserve.unix.title import set_helper_title
from forkserve.worker.ending import ending
from forkserve.wsgi.app import user_traceback
from forkserve.wsgi.out import FORKED, PeerGone

if TYPE_CHECKING:
    from forkserve.accesslog import AccessLog
    from forkserve.worker.loop import Loop


class Forks:
    """What one worker has to tell its forks."""

    def __init__(self, birth: Birth, wakeup: signals.Wakeup) -> None:
        """Register it; the app has not run yet."""
        self.loop: Loop | None = None
        self.access: AccessLog | None = None
        self._birth = birth
        self._wakeup = wakeup
        self._pid = os.getpid()
        self._has_let_go = False
        self._masks: dict[int, set[signal.Signals]] = {}  # of each thread that forks
        # A signal that comes before the child has let go would go to our pipe, and so to the worker: it must wait.
        os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._in_child)

    @property
    def is_worker(self) -> bool:
        """Whether this process is the worker itself; else the app has forked, and its fork came back to us."""
        return os.getpid() == self._pid

    def _block(self) -> None:
        self._masks[get_ident()] = signals.block_all()

    def _unblock(self) -> None:
        signals.restore(self._masks.pop(get_ident()))

    def _in_child(self) -> None:
        try:
            if not self._has_let_go:  # else this is a fork of a fork, and the numbers of our descriptors are its own
                self._has_let_go = True
                self._let_go()
        finally:
            self._unblock()

    def _let_go(self) -> None:
        birth = self._birth
        signal.set_wakeup_fd(-1)
        signals.give_back((*signals.WORKER, *signals.WORKER_IGNORES))
        faulthandler.unregister(signals.DUMP)
        signal.signal(signals.DUMP, signal.SIG_DFL)
        os.close(birth.stacks)
        birth.lifeline.forget()
        for listener in birth.listeners:
            listener.close()
        if birth.relay is not None:
            birth.relay.close()
        birth.channel.close()
        birth.call.close()
        if birth.bell is not None:
            birth.bell.close()
        self._wakeup.close()
        if self.access is not None:
            self.access.lines.clear()  # the worker writes them
        if self.loop is not None:
            if self.loop.running is not None:
                self.loop.running.out = FORKED
            self.loop.let_go()
        set_helper_title(f"forked by {birth.settings.app}, worker {birth.slot}")


def end_fork(error: BaseException | None) -> int:
    """End a process that the app has forked and that came back to us instead of ending by itself; return its exit code.

    As if it had come to the end of its program; or with the traceback of what it raised.
    """
    cause = error.__cause__ if isinstance(error, AppImportError) else error
    if isinstance(cause, PeerGone):  # it had an answer for a client that is the worker's
        cause = None
    code: int = ExitCode.OK if cause is None else ExitCode.FAILURE
    if isinstance(cause, SystemExit):
        code = cause.code if isinstance(cause.code, int) else ExitCode.OK if cause.code is None else ExitCode.FAILURE
    elif cause is not None and (text := user_traceback(cause)):
        errors_stream.write(text)
    ending.finish()
    return code
