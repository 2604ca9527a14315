"""The end of a worker: what the interpreter does at its own end, in its order. Runs in a worker, last of all.

Threads are awaited (and executors with them), then exit handlers run, then what was written to files leaves its
buffers. We do it ourselves and end by os._exit: below us are the frames of the master that we were forked from, and an
interpreter that takes itself apart aborts when a daemon thread is at a file just then. Who has no time for it (a
request is overdue, the grace is over) does all but wait for threads, within a moment.
Sources: Py_FinalizeEx, threading._shutdown, multiprocessing.util._exit_function, concurrent.futures.process.
"""

import _io
import atexit
import gc
import os
import sys
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any

from forkserve.errors import ExitCode
from forkserve.log import log
from forkserve.unix import usage
from forkserve.unix.spool import SpoolFile
from forkserve.worker.state import POOLED

# The master kills 1 s after it has asked for the stacks.
LAST_S = 0.7
# What closes itself when it is deleted, as the interpreter does with all that modules hold. A file of Python code, such
# as gzip's, comes before all of them: it may end in one.
_CLOSING = (
    ("tempfile", "_TemporaryFileWrapper"),
    ("zipfile", "ZipFile"),
    ("shelve", "Shelf"),
    ("dbm.dumb", "_Database"),
)
_MOST_NAMED = 10


class Ending:
    """The end of this process; there is one, ``ending`` below."""

    def __init__(self) -> None:
        self.is_finishing = False  # all requests have ended; what the app has begun beside them goes on
        self._handlers_began = False

    def finish(self) -> None:
        """End like a program that has come to its end: what the app has begun is awaited, however long it takes."""
        self.is_finishing = True
        _await_threads()
        self._run_exit_handlers()
        _try(close_files)  # there may be no memory to find them

    def cut_short(self, code: int = ExitCode.FAILURE, within_s: float = LAST_S, *, with_helpers: bool = False) -> None:
        """Do what can be done without waiting, within so many seconds, and exit. May be called in a signal handler.

        Processes of multiprocessing that nobody would ever end are ended; ``with_helpers``: all of them.
        """
        try:
            start_new_thread(_exit_in, (within_s, code))
        except RuntimeError:
            pass  # no room for a thread: the master's KILL comes
        try:
            if self.is_finishing:
                _name_what_runs()
            _part_from_helpers(with_helpers)
            self._run_exit_handlers()
            _try(close_files)
        finally:
            os._exit(code)

    def _run_exit_handlers(self) -> None:
        if not self._handlers_began:  # one of them may be what hangs
            self._handlers_began = True
            atexit._run_exitfuncs()


ending = Ending()


def close_files() -> None:
    """Have everything leave that waits in the buffers of files, and close what closes itself when it is deleted.

    What fails is nobody's to hear of, as at the end of an interpreter.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _try(stream.flush)
    gc.unfreeze()  # what is frozen would not be found
    files_of_all_kinds = _subclasses(_io._IOBase)
    owners = [getattr(sys.modules.get(module), name, None) for module, name in _CLOSING]
    kinds = files_of_all_kinds.union(filter(None, owners))
    # isinstance() would ask proxies, which are the app's and may do anything; so it is 0.1 s for a million objects.
    found = [thing for thing in gc.get_objects() if type(thing) in kinds and not _is_spool(thing)]
    files = [thing for thing in found if type(thing) in files_of_all_kinds]
    closing = [file for file in files if type(file).__module__ != "_io"]
    for owner in owners:
        closing += [thing for thing in found if type(thing) is owner]
    for file in files:  # before any is closed: one may write to another
        _try(file.flush)
    for thing in closing:
        _try(thing.close)
    for file in files:
        _try(file.flush)


def _is_spool(file: Any) -> bool:
    """Whether it is ours, for what clients send. Nobody needs it any more, and a process that the app has forked would
    wait for ever for a thread of the worker that was writing to it."""
    try:
        raw = file.raw if type(file) is _io.BufferedRandom else file
    except ValueError:  # it was detached
        return False
    return isinstance(raw, SpoolFile)


def _subclasses(kind: type[Any]) -> set[type[Any]]:
    below: list[type[Any]] = kind.__subclasses__()
    return {kind, *below}.union(*map(_subclasses, below))


def _try(action: Callable[[], object]) -> None:
    try:
        action()
    except BaseException:
        pass


def _await_threads() -> None:
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return
    try:
        threading._shutdown()
    except BaseException as error:
        log.exception("app raised while its threads were awaited", error)


def _exit_in(seconds: float, code: int) -> None:
    sleep(seconds)
    os._exit(code)


def _name_what_runs() -> None:
    threading: Any = sys.modules.get("threading")
    threads = [] if threading is None else [
        thread.name for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread() and not thread.name.startswith(POOLED)
    ]  # fmt: skip
    processes = [f"{pid} {title}" for pid, title in usage.children_of(os.getpid())]
    named = {"threads": threads, "processes": processes}
    shown = {kind: ", ".join(names[:_MOST_NAMED]) for kind, names in named.items() if names}
    if shown:  # else an exit handler hangs, which the stacks tell
        log.warning("grace is over; what the app has begun is cut off", **shown)


def _part_from_helpers(all_of_them: bool) -> None:
    """Leave nobody behind who would wait for us for ever, and wait for nobody who has work of his own: exit handlers of
    multiprocessing end its daemons, and wait for the rest."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return
    pooled = set(_pooled())
    for child in process.active_children():
        if not child.daemon:
            if all_of_them or child.pid in pooled:
                _try(child.terminate)
            else:
                process._children.discard(child)


def _pooled() -> Iterator[int]:
    """The processes of executors: they know no end but that of their executor."""
    executors: Any = sys.modules.get("concurrent.futures.process")
    for manager in list(getattr(executors, "_threads_wakeups", ())):
        yield from list(getattr(manager, "processes", None) or ())
