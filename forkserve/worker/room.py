"""A worker's room for what clients have not taken or not sent yet; says in the log where there is none."""

from time import monotonic
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.unix.spool import Spool

if TYPE_CHECKING:
    from forkserve.worker.inlet import Inlet

_SAY_AGAIN_S = 60.0


class Room(Spool):
    """A spool that can say why it has no room."""

    _say_at = 0.0

    def __init__(self, limit: str = "100%", cell: memoryview | None = None, cells: memoryview | None = None) -> None:
        """See Spool."""
        Spool.__init__(self, limit, cell, cells)
        self.paused: set[Inlet] = set()  # nothing is read of them, since there is no room for their bodies

    def look(self) -> None:
        """Let those go on that find room by now. Called by the loop once a second."""
        for connection in list(self.paused):
            connection.go_on_reading()

    def complain(self, trouble: str = "") -> None:
        """Log why somebody waits; at most once a minute, and only where there is something to mend."""
        trouble = trouble or self.trouble
        now = monotonic()
        if trouble and now >= self._say_at:
            self._say_at = now + _SAY_AGAIN_S
            log.warning("no room for what clients have not taken or sent; app or clients wait", cause=trouble)
