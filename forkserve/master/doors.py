"""The listeners of the service, as a set that changes like a transaction. Runs in the master.

A reload first binds what is new, all or nothing; the new generation is born with its own set, and only when the reload
has ended does the master close what the generation that serves does not use. What stays is never touched: its accept
queue lives on.
"""

from collections.abc import Iterable

from forkserve.log import log
from forkserve.net.address import Address
from forkserve.net.listener import Listener, bind_all


class Doors:
    """Every listener that is open, by its address."""

    def __init__(self) -> None:
        self._open: dict[Address, Listener] = {}

    def prepare(self, wanted: Iterable[Address], backlog: int) -> tuple[Listener, ...]:
        """Return the listeners for these addresses, binding those that are not open yet. Raises BindError; then
        nothing has changed."""
        places = list(dict.fromkeys(wanted))
        fresh = bind_all([place for place in places if place not in self._open], backlog)
        for listener in fresh:
            self._open[listener.address] = listener
            log.info("listening", address=listener.name)
        for place in places:
            self._open[place].socket.listen(backlog)  # also tells the kernel a new backlog
        return tuple(self._open[place] for place in places)

    def settle(self, used: Iterable[Listener]) -> None:
        """Close every listener that is not among these."""
        kept = {listener.address for listener in used}
        for place in [place for place in self._open if place not in kept]:
            listener = self._open.pop(place)
            log.info("no longer listening", address=listener.name)
            listener.close(unlink=True)

    def shut(self) -> None:
        """Let nobody new in; what is queued stays to be answered."""
        for listener in self._open.values():
            listener.shut()

    def close(self) -> None:
        """Close all, at the end of the service."""
        for listener in self._open.values():
            listener.close(unlink=True)

    @property
    def all(self) -> tuple[Listener, ...]:
        """Every open listener."""
        return tuple(self._open.values())
