"""The program that an upgrade becomes: how it was started, run once on trial in a child, then become by exec.

Everything is as at our own start: the interpreter and its flags, the arguments, the environment, the folder by its
name (so that a link to another release leads there now). Limits and the umask are never changed by a master, so there
is nothing to restore. Runs in the master. Sources: execve(2); `sys.orig_argv`; the trial: `answer` below.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from forkserve import __version__
from forkserve.errors import ForkserveError
from forkserve.master import events as ev
from forkserve.master import handover as over
from forkserve.master import process
from forkserve.master.folder import name_of
from forkserve.master.handover import Handover
from forkserve.typed import Struct
from forkserve.unix import signals

_LONGEST_FIRST_LINE = 4096  # of a script, in bytes
_LONGEST_OUTPUT = 16 * 1024  # of a trial, as far as the log and who waits shall see it
_ALARM_S = 120  # the kernel ends a trial whose master has died; a living master does so much earlier
# What speaks for, or is meant for, the process that we are.
_NOT_FOR_TRIALS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE")
_HANDED_IN = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")  # once is enough: they are in the state now


class Launch(Struct, frozen=True):
    """How this process was started."""

    program: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    folder: str

    @classmethod
    def ours(cls, environ: Mapping[str, str]) -> "Launch":
        """Note it at the start; ``environ`` is the environment as it was then."""
        script, arguments = _script_of(sys.executable, sys.orig_argv)
        # Not argv[0]: what a shell found on its PATH, or a link to an interpreter, is spelled out here.
        argv = (script, *arguments) if script else (sys.executable, *sys.orig_argv[1:])
        kept = {name: value for name, value in environ.items() if name not in (*_HANDED_IN, over.VARIABLE)}
        return cls(argv[0], argv, kept, name_of(environ.get("PWD", "")))

    def become(self, word: str, fd: int, nonce: str, leave_out: tuple[str, ...] = ()) -> NoReturn:
        """Replace this process's image; ``fd`` holds the state. Raises OSError."""
        os.chdir(self.folder)
        environ = {name: value for name, value in self.environ.items() if name not in leave_out}
        os.set_inheritable(fd, True)
        os.execve(self.program, self.argv, {**environ, over.VARIABLE: f"{word}:{fd}:{nonce}"})


def _script_of(interpreter: str, argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the script by which ``argv`` was started, and its arguments; an empty one: the interpreter was called.

    The first line of a virtual environment's command names its interpreter by a path without links. Where the command
    was called by a link to its release, only the command that the link shows then knows the interpreter of the new one.
    """
    place = next((place for place, word in enumerate(argv) if place and not word.startswith("-")), 0)
    script, flags = argv[place], list(argv[1:place])
    try:
        with open(script, "rb") as file:
            first = os.fsdecode(file.readline(_LONGEST_FIRST_LINE)).split()
        is_beside = os.path.samefile(os.path.dirname(os.path.realpath(script)), os.path.dirname(interpreter))
        runs = is_beside and os.access(script, os.X_OK) and first[:1] != [] and first[0].startswith("#!")
    except OSError:
        runs = False
    # A first line that names a shell, as where the path is too long for the kernel, gives no flags.
    return (script, argv[place + 1 :]) if place and runs and flags in ([], first[1:]) else ("", ())


class Trial:
    """One run of the target in a child: does it understand what it would be handed?"""

    def __init__(self, launch: Launch, handover: Handover) -> None:
        """Begin. Raises OSError."""
        self._nonce = os.urandom(8).hex()
        state = over.to_memfd(handover)
        try:
            self._output = os.memfd_create("forkserve-trial", os.MFD_CLOEXEC)
            try:
                self.pid = process.fork(lambda: self._run(launch, state), ())
            except BaseException:
                os.close(self._output)
                raise
        finally:
            os.close(state)

    def drop(self) -> None:
        """Kill it, and whatever it has started; it is reaped like a stranger."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            os.kill(self.pid, signal.SIGKILL)  # before it has a group of its own
        except ProcessLookupError:
            pass
        os.close(self._output)

    def let_go(self) -> None:
        """Close this process's copy, as a new child does."""
        os.close(self._output)

    def verdict(self, ended: process.Ended) -> ev.TargetAccepted | ev.TargetRefused:
        """Say how it ended."""
        size = os.fstat(self._output).st_size
        raw = os.pread(self._output, _LONGEST_OUTPUT, max(0, size - _LONGEST_OUTPUT))
        os.close(self._output)
        said = raw.decode("utf-8", "replace").rstrip("\n")
        # Its word counts, not its exit code: a shell script that does nothing ends with 0 as well.
        if ended == process.Ended(0, 0) and said.rpartition("\n")[2].startswith(f"{self._nonce} "):
            return ev.TargetAccepted()
        how = f"was ended by signal {ended.signal}" if ended.signal else f"exited with {ended.code}"
        why = said.rpartition("\n")[2].strip() or "without a word"
        return ev.TargetRefused(f"the new program {how}: {why}", said)

    def _run(self, launch: Launch, state: int) -> int:
        """In the child: become the target."""
        os.setsid()
        for fd in (1, 2):
            os.dup2(self._output, fd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.alarm(_ALARM_S)
        signals.restore(set())
        try:
            launch.become(over.TRY, state, self._nonce, _NOT_FOR_TRIALS)
        except OSError as error:
            os.write(2, f"{error.filename or launch.program}: {error.strerror}\n".encode())
            return 1


def answer(nonce: str) -> str:
    """Spell what a target says when it understands: the last line of its output."""
    return f"{nonce} forkserve {__version__} understands\n"


def exec_target(launch: Launch, handover: Handover) -> None:
    """Become the target; returns only by ForkserveError, and then everything is as it was. Every signal is blocked."""
    fds = list(handover.descriptors())
    here = state = -1
    try:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        state = over.to_memfd(handover)
        for fd in fds:
            os.set_inheritable(fd, True)
        launch.become(over.TAKE, state, "")
    except OSError as error:
        over.keep_close_on_exec(fds)
        if here >= 0:
            os.fchdir(here)
        where = f"{error.filename}: " if error.filename else ""
        raise ForkserveError(f"exec failed: {where}{error.strerror}") from None
    finally:
        for fd in (here, state):
            if fd >= 0:
                os.close(fd)
