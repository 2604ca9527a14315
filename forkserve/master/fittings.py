"""The pidfile and the control socket: made at the start, kept over an exec, changed only by an upgrade; made again at a
reload where somebody has removed them.

Runs in the master.
"""

import os
import select
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

from forkserve.config.settings import Settings
from forkserve.errors import BindError, PidfileError
from forkserve.log import log
from forkserve.master import control
from forkserve.master.control import Control, Handler
from forkserve.master.doors import listener_of
from forkserve.master.handover import Handover
from forkserve.unix.pidfile import Pidfile


class Fittings:
    """Both, where they are wanted."""

    def __init__(self) -> None:
        self.pidfile: Pidfile | None = None
        self.control: Control | None = None

    def lock(self, settings: Settings) -> None:
        """Take the pidfile. Raises PidfileError."""
        self.pidfile = Pidfile(settings.pidfile) if settings.pidfile else None

    def listen(self, settings: Settings, epoll: select.epoll, handler: Handler) -> None:
        """Open the control socket. Raises BindError where it was given a place."""
        where = settings.control_socket
        try:
            self.control = Control(control.listen(where), epoll, handler) if where else None
        except BindError as error:
            if where != "auto":
                raise
            log.warning("no control socket; forkservectl cannot reach this master", cause=str(error))

    def resume(self, old: Handover, epoll: select.epoll, handler: Handler) -> None:
        """Go on with those of the master that we were."""
        self.pidfile = Pidfile.resume(*old.pidfile) if old.pidfile else None
        self.control = Control(listener_of(old.control), epoll, handler) if old.control else None

    def change(self, settings: Settings, epoll: select.epoll, handler: Handler, undo: ExitStack) -> Callable[[], None]:
        """Make those that these settings want and we do not have; ``undo`` drops them again, the call that is
        returned replaces the old ones. Raises PidfileError and BindError."""
        steps: list[Callable[[], None]] = []
        old_path = self.pidfile.path if self.pidfile else ""
        if old_path != (os.path.abspath(settings.pidfile) if settings.pidfile else ""):
            pidfile = Pidfile(settings.pidfile) if settings.pidfile else None
            if pidfile:
                undo.callback(pidfile.remove)
            steps.append(partial(self._replace_pidfile, pidfile))
        where = settings.control_socket
        old_place = self.control.address if self.control else None
        if old_place != (control.place_of(where) if where else None):
            listener = control.listen(where) if where else None
            if listener:
                undo.callback(partial(listener.close, unlink=True))
            if self.control and listener:
                steps.append(partial(self.control.move, listener))
            else:
                steps.append(lambda: self._replace_control(Control(listener, epoll, handler) if listener else None))
        return lambda: _do(steps)

    def mend(self) -> None:
        """Make again what somebody has removed; what cannot be had is said, and no reason to reject a reload."""
        if self.pidfile is not None and self.pidfile.is_lost:
            path = self.pidfile.path
            try:
                self._replace_pidfile(Pidfile(path))
                log.warning("pidfile was gone; made again", path=path)
            except PidfileError as error:
                log.error("pidfile is gone and cannot be made again", path=path, cause=str(error))
        if self.control is not None:
            where = str(self.control.address)
            try:
                if self.control.mend():
                    log.warning("file of the control socket was gone; made again", address=where)
            except BindError as error:
                log.error("control socket is gone and cannot be made again", address=where, cause=str(error))

    def let_go(self) -> None:
        """Close this process's copies, as a new child does."""
        if self.control is not None:
            self.control.let_go()
        if self.pidfile is not None:
            self.pidfile.close()

    def close(self) -> None:
        """Close the control socket, at the end of the service."""
        if self.control is not None:
            self.control.close()

    def unlock(self) -> None:
        """Give the pidfile up, last of all."""
        if self.pidfile is not None:
            self.pidfile.remove()

    def _replace_pidfile(self, pidfile: Pidfile | None) -> None:
        if self.pidfile is not None:
            self.pidfile.remove()
        self.pidfile = pidfile

    def _replace_control(self, new: Control | None) -> None:
        if self.control is not None:
            self.control.close()
        self.control = new


def _do(steps: Iterable[Callable[[], None]]) -> None:
    for step in steps:
        step()
