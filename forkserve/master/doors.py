"""The listeners of the service, as a set that changes like a transaction. Runs in the master.

A reload first binds what is new, all or nothing; the new generation is born with its own set, and only when the reload
has ended does the master close what the generation that serves does not use. What stays is never touched: its accept
queue lives on. The service manager keeps a copy of what we have bound, so that a crash of the master closes no door.
"""

import socket
from collections.abc import Iterable

from forkserve.log import log
from forkserve.master import handover as over
from forkserve.net import address
from forkserve.net.address import Address, Family
from forkserve.net.inherit import name_in_store
from forkserve.net.listener import ANYBODY, Listener, Owner, bind_all
from forkserve.unix.notify import Notifier


class Doors:
    """Every listener that is open, by its address."""

    def __init__(self) -> None:
        self._open: dict[Address, Listener] = {}
        self._stored: dict[Address, str] = {}  # the names of the copies that the service manager has
        self._notifier: Notifier | None = None

    def restore(
        self, kept: Iterable[Listener], useless: Iterable[str], wanted: Iterable[Address], notifier: Notifier
    ) -> None:
        """Take what the service manager has kept for us and is wanted; it drops what is of no use any more, and keeps
        what is bound from now on."""
        self._notifier = notifier
        for name in useless:
            notifier.unstore(name)
        places = set(wanted)
        for listener in kept:
            if listener.address not in places:
                notifier.unstore(name_in_store(listener))
                listener.close(unlink=True)
                continue
            self._open[listener.address] = listener
            self._stored[listener.address] = name_in_store(listener)
            log.info("listening", address=listener.name, restored="from the service manager")

    def prepare(
        self, wanted: Iterable[Address], backlog: int, owner: Owner = ANYBODY, *, reuse_port: bool = False
    ) -> tuple[Listener, ...]:
        """Return the listeners for these addresses, binding those that are not open yet. Raises BindError; then
        nothing has changed."""
        places = list(dict.fromkeys(wanted))
        fresh = bind_all([place for place in places if place not in self._open], backlog, owner, reuse_port=reuse_port)
        for listener in fresh:
            self._open[listener.address] = listener
            log.info("listening", address=listener.name)
            self._store(listener)
        for place in places:
            self._open[place].socket.listen(backlog)  # also tells the kernel a new backlog
        return tuple(self._open[place] for place in places)

    def settle(self, used: Iterable[Listener]) -> None:
        """Close every listener that is not among these."""
        kept = {listener.address for listener in used}
        for place in [place for place in self._open if place not in kept]:
            listener = self._open.pop(place)
            self._unstore(place)
            listener.close(unlink=True)
            log.info("no longer listening", address=listener.name)

    def shut(self) -> None:
        """Let nobody new in; what is queued stays to be answered."""
        for listener in self._open.values():
            self._unstore(listener.address)  # or its copy would let in who is never answered
            listener.shut()

    def close(self) -> None:
        """Close all, at the end of the service."""
        for listener in self._open.values():
            self._unstore(listener.address)
            listener.close(unlink=True)

    @property
    def all(self) -> tuple[Listener, ...]:
        """Every open listener."""
        return tuple(self._open.values())

    def hand_over(self) -> list[over.Door]:
        """Write down what is open."""
        return [
            over.Door(str(one.address), one.name, one.socket.fileno(), one.inode, one.address in self._stored)
            for one in self._open.values()
        ]

    def resume(self, doors: Iterable[over.Door], notifier: Notifier) -> None:
        """Take what the master that we were had open."""
        self._notifier = notifier
        for door in doors:
            listener = listener_of(door)
            self._open[listener.address] = listener
            if door.stored:
                self._stored[listener.address] = name_in_store(listener)

    def named(self, addresses: Iterable[str]) -> tuple[Listener, ...]:
        """The open ones of these addresses."""
        places = [address.parse(text) for text in addresses]
        return tuple(self._open[place] for place in places if place in self._open)

    def _store(self, listener: Listener) -> None:
        # What was handed in stays with its giver anyway.
        if self._notifier is not None and self._notifier.enabled and listener.address.family is not Family.FD:
            name = self._stored[listener.address] = name_in_store(listener)
            self._notifier.store(name, listener.socket.fileno())

    def _unstore(self, place: Address) -> None:
        name = self._stored.pop(place, "")
        if name and self._notifier is not None:
            self._notifier.unstore(name)


def listener_of(door: over.Door) -> Listener:
    """Make the listener again that was written down."""
    sock = socket.socket(fileno=door.fd)
    sock.setblocking(False)
    return Listener(address.parse(door.address), sock, door.name, door.inode)
