"""Every error that forkserve raises on purpose, and the exit codes they end in.

An error here carries the whole sentence for the operator: the thing, its value and the remedy. Importable by
every module; imports none of ours. Exit codes 3 and 4 mean what they mean to users of Gunicorn.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a forkserve process ends; documented in docs/operations.md."""

    OK = 0
    FAILURE = 1  # could not bind, lock the pidfile, or another fault of the machine
    USAGE = 2  # settings or command line are wrong
    APP_IMPORT = 3  # the app raised while it was imported, or a worker could not boot
    APP_NOT_FOUND = 4  # the module has no such attribute, or it is not callable


class ForkserveError(Exception):
    """Base of our own errors: ``str(error)`` is one line that an operator can act on."""

    exit_code = ExitCode.FAILURE


class SettingsError(ForkserveError):
    """A setting is unknown, malformed or out of range; the line names its origin."""

    exit_code = ExitCode.USAGE


class BindError(ForkserveError):
    """An address could not be bound or a file descriptor could not be adopted."""


class InUseError(BindError):
    """Somebody else has the address: port or path, the other is empty. He may be leaving."""

    def __init__(self, line: str, port: int, path: str) -> None:
        """``path`` of a unix socket; with @ before it where it is an abstract name."""
        super().__init__(line)
        self.port = port
        self.path = path


class PidfileError(ForkserveError):
    """The pidfile is held by a living process or cannot be written."""


class PidfileLeftError(PidfileError):
    """The pidfile is held by what a process has left that is dead."""


class AppImportError(ForkserveError):
    """Importing the app raised; ``__cause__`` is what it raised."""

    exit_code = ExitCode.APP_IMPORT


class AppNotFoundError(ForkserveError):
    """The app's module was imported but holds no such callable."""

    exit_code = ExitCode.APP_NOT_FOUND


class UsageError(ForkserveError):
    """The command line cannot be read."""

    exit_code = ExitCode.USAGE


class AnsweredError(Exception):
    """The command line asked for no more than a text, such as --version: str() of this, where it is not yet written."""
