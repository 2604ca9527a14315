"""Whether workers that become another user may read what they run on. Runs in the master, and in a child of it.

A worker imports parts of Python, and of forkserve, when it first needs them: below a folder that is closed to its user
it would end without a word, as it cannot even print a traceback.
"""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import forkserve
from forkserve.errors import ExitCode, SettingsError
from forkserve.master import process
from forkserve.typed import Struct
from forkserve.unix.identity import Identity

_KEPT = (-1, 0)  # who stays root reads all
_MOST_BYTES = 65536


class Needed(Struct, frozen=True):
    """A file or a folder that a worker needs."""

    what: str
    path: str
    is_program: bool = False


def check(user: str, who: Identity) -> None:
    """Refuse a user that cannot read what every worker needs. Raises SettingsError."""
    if who.uid not in _KEPT:
        trouble = _ask(who)
        if trouble:
            raise SettingsError(f"user = {user!r}: {trouble}")


def _needed() -> Iterator[Needed]:
    """What every worker needs, or programs that its app starts."""
    yield Needed("Python's library", os.__file__)
    yield from (Needed("Python's library", path) for path in sys.path if os.path.basename(path) == "lib-dynload")
    yield Needed("forkserve", forkserve.__file__)
    for name in ("msgspec", "httptools"):
        spec = find_spec(name)
        if spec is not None and spec.origin:
            yield Needed(name, spec.origin)
    if sys.executable:
        yield Needed("Python", sys.executable, is_program=True)


def _ask(who: Identity) -> str:
    """Return the trouble that this identity has with what is needed; empty: none, or it cannot be known.

    Asked of a child that becomes it for good. Only the kernel knows all that decides (modes, lists, labels), and a
    master that took other ids for a moment would not be dumpable any more: root in a container could not look at it.
    """
    needed = tuple(_needed())
    try:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    except OSError:
        return ""  # none is left: whoever forks a worker will say so
    try:
        pid = process.fork(lambda: _answer(who, needed, write_fd), ())
    except OSError:
        os.close(write_fd)
        os.close(read_fd)
        return ""
    os.close(write_fd)
    with open(read_fd, "rb") as told:
        answer = told.read()
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # --check-config, started with CHLD ignored
    return os.fsdecode(answer)


def _answer(who: Identity, needed: tuple[Needed, ...], fd: int) -> int:
    """In the child: become somebody else, and write down the first trouble."""
    try:
        who.take()
    except OSError:
        return ExitCode.OK  # the worker's own boot tells
    trouble = next(filter(None, map(_trouble_with, needed)), "")
    os.write(fd, os.fsencode(trouble)[:_MOST_BYTES])
    return ExitCode.OK


def _trouble_with(one: Needed) -> str:
    """Say why this process cannot use it; empty: it can, or there is no such file."""
    try:
        if one.is_program:
            is_good = os.access(one.path, os.X_OK)
        else:
            os.close(os.open(one.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            is_good = True
    except (FileNotFoundError, NotADirectoryError):  # the latter: in an archive
        is_good = True
    except OSError:
        is_good = False
    if is_good:
        return ""
    closed = _closed_folder(one.path) or _closed_folder(os.path.realpath(one.path))
    if closed:
        return (
            f"may not enter {closed} (mode {_mode(closed)}), which holds {one.what} ({one.path}); install it elsewhere,"
            f" below /opt for example, or let that user pass: chmod a+x {closed}"
        )
    if not os.path.exists(one.path):
        return ""
    verb = "run" if one.is_program else "read"
    return (
        f"may not {verb} {one.path} (mode {_mode(one.path)}), which belongs to {one.what}; let everybody {verb} it:"
        f" chmod -R a+rX {os.path.dirname(one.path)}"
    )


def _closed_folder(path: str) -> str:
    """Name the first folder on the way that this process may not pass; empty: there is none."""
    parts = os.path.abspath(path).split(os.sep)[:-1]
    folders = [os.sep.join(parts[: count + 1]) or os.sep for count in range(len(parts))]
    return next((folder for folder in folders if not os.access(folder, os.X_OK)), "")


def _mode(path: str) -> str:
    try:
        return f"{os.stat(path).st_mode & 0o7777:04o}"
    except OSError:
        return "unknown"
