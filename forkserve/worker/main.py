"""What a new child does, in order, to become a worker; its only exit is its caller's os._exit.

Runs in a worker, straight after the fork, with every signal blocked and the master's descriptors closed.
"""

import faulthandler
import gc
import os
import signal
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import FrameType

from forkserve.accesslog import AccessLog
from forkserve.birth import Birth
from forkserve.config.settings import Settings
from forkserve.errors import AppNotFoundError, ExitCode, ForkserveError
from forkserve.log import log
from forkserve.unix import descriptors, signals, stacks
from forkserve.unix.messages import UP, Dumped, Ready, boot_failure
from forkserve.unix.scoreboard import ORDERED
from forkserve.unix.title import set_title
from forkserve.worker import cutoff
from forkserve.worker.ending import ending
from forkserve.worker.forks import Forks, end_fork
from forkserve.worker.loop import Loop
from forkserve.worker.room import Room
from forkserve.wsgi.app import App, load_app, user_traceback
from forkserve.wsgi.files import with_files

# A log reader that is slow for a moment shall not cost a worker's lines; the master waits for nobody.
_LOG_PATIENCE_MS = 100


def work(birth: Birth) -> int:
    """Boot, say READY, serve, and return the exit code."""
    began = monotonic()
    log.file.patience_ms = _LOG_PATIENCE_MS
    show = partial(set_title, f"worker {birth.slot}", birth.generation)
    show("booting")
    wakeup = signals.Wakeup(signals.WORKER)
    signals.disregard(signals.WORKER_IGNORES)
    wakeup.remember()
    _arm_dump(birth)
    forks = Forks(birth, wakeup)
    signals.restore(set())
    settings = birth.settings
    descriptors.allow(descriptors.needed(settings.worker_connections, settings.threads, len(birth.listeners)))
    birth.lifeline.watch(settings.graceful_timeout, log.file.fd, _ask_for_stacks)  # imports and exit handlers hang too
    try:
        kind = _kind_of_loop(birth)  # before the app is imported, which may patch what ours would bind
        # Before the app's folder becomes ours: its path is the master's.
        access = forks.access = _open_access_log(settings)
        app = with_files(load_app(settings.app, settings.chdir, settings.threads), settings)
        loop = forks.loop = _make_loop(kind, birth, app, wakeup, access, show)
    except BaseException as error:  # the app's import may raise anything
        return _say_boot_failure(birth, error) if forks.is_worker else end_fork(error)
    if not forks.is_worker:
        return end_fork(None)
    gc.collect()
    gc.freeze()  # what booting made is not looked at again, and stays shared with nobody's garbage
    loop.have(settings.threads, birth.row)
    loop.fatigue.boot_s = monotonic() - began
    _timed_out.loop = loop  # complete, and not before
    try:
        if birth.channel.send(UP.encode(Ready())):  # else the master has died meanwhile
            show("idle")
            loop.run()
    except BaseException as error:
        if forks.is_worker:
            raise
        return end_fork(error)
    _shut(birth)
    ending.finish()  # within the grace, or the orphan's bound, should the master be gone
    return ExitCode.OK


def _open_access_log(settings: Settings) -> AccessLog | None:
    if not settings.accesslog:
        return None
    access = AccessLog(settings.access_log_format)
    access.file.patience_ms = _LOG_PATIENCE_MS
    access.file.open(settings.accesslog)
    return access


def _kind_of_loop(birth: Birth) -> type[Loop]:
    """Return the loop that the settings ask for. (What else is imported late binds nothing that can be patched.)"""
    if birth.settings.threads > 1:
        from forkserve.worker.threaded import ThreadedLoop  # lazy: threading is 2 ms of a start

        return ThreadedLoop
    return Loop


def _make_loop(
    kind: type[Loop],
    birth: Birth,
    app: App,
    wakeup: signals.Wakeup,
    access: AccessLog | None,
    show: Callable[[str], None],
) -> Loop:
    return kind(
        app, birth.settings, birth.listeners, birth.channel, wakeup, birth.row, birth.siblings, birth.relay,
        birth.context, birth.bell, birth.call,
        generation=birth.generation, slot=birth.slot, access=access, title=show,
        spool=Room(birth.settings.limit_spool, birth.spooled[birth.slot : birth.slot + 1], birth.spooled),
    )  # fmt: skip


def _say_boot_failure(birth: Birth, error: BaseException) -> int:
    if isinstance(error, ForkserveError):
        code, line = error.exit_code, str(error)
        shown = error.__cause__
    else:
        code, line, shown = ExitCode.APP_IMPORT, f"{type(error).__name__}: {error}", error
    if not isinstance(error, AppNotFoundError) and code != ExitCode.APP_IMPORT:
        code = ExitCode.APP_IMPORT  # the settings were good when the master read them
    text = user_traceback(shown) if shown is not None else ""
    birth.channel.send(UP.encode(boot_failure(line, text, code)))
    ending.cut_short(code, with_helpers=True)  # or each try would leave some behind
    return code


def _shut(birth: Birth) -> None:
    """Close the doors: what the app has begun beside its requests may last, and nobody shall wait here meanwhile."""
    for listener in birth.listeners:
        listener.close()
    if birth.relay is not None:
        birth.relay.close()


class _TimedOut:
    """The handler behind faulthandler's: the stacks are written, now end the request and the process.

    Runs between two bytecodes of whatever hangs, if the interpreter still gets there; else the master kills.
    """

    loop: Loop | None = None
    birth: Birth | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        loop = self.loop
        if self.birth is not None:
            self._pass_stacks_on(self.birth)
        if loop is None or loop.answer_overdue():
            if loop is not None:
                connections = list(loop.connections.values())
                cutoff.tell(connections, with_running=loop.deadline[ORDERED] == 0.0)
                for connection in connections:
                    connection.cut()
                if loop.access is not None:
                    loop.access.flush()  # of the requests before it
            ending.cut_short(with_helpers=loop is None or not (loop.requests or loop.connections or loop.is_retiring))

    def _pass_stacks_on(self, birth: Birth) -> None:
        """Have the master log them, unless nothing of the app's is in them: it is clients that the worker waits for."""
        waits = self.loop is not None and not self.loop.runs_app and not ending.is_finishing
        if waits and not cutoff.has_threads():
            stacks.take(birth.stacks)
        elif not birth.channel.send(UP.encode(Dumped())):
            log.info("worker wrote its stacks; its master is gone", stacks.take(birth.stacks))


_timed_out = _TimedOut()


def _ask_for_stacks() -> None:
    """Do what the master would: it is dead, and the grace that this leaves us is all but over."""
    os.kill(os.getpid(), signals.DUMP)


def _arm_dump(birth: Birth) -> None:
    """Make the master's question for our stacks work from now on, boot included."""
    _timed_out.birth = birth
    signal.signal(signals.DUMP, _timed_out)
    # In C, so that it answers while the GIL is held; afterwards it calls the handler above.
    faulthandler.register(signals.DUMP, file=birth.stacks, all_threads=True, chain=True)
