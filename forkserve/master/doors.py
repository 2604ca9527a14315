"""The listeners of the service, as a set that changes like a transaction. Runs in the master.

A reload first binds what is new, all or nothing; the new generation is born with its own set, and only when the reload
has ended does the master close what the generation that serves does not use. A listener is known by its place: where
that stays, the socket and its accept queue live on, whatever its address is called and speaks by now; each generation
has it as its own settings say. The service manager keeps a copy of what we have bound, so that a crash of the master
closes no door.
"""

import socket
from collections.abc import Callable, Iterable
from typing import Protocol

from forkserve.errors import BindError, SettingsError
from forkserve.log import log
from forkserve.master import handover as over
from forkserve.master.closing import Closing, pass_on
from forkserve.net import address
from forkserve.net.address import Address, Family
from forkserve.net.inherit import name_in_store
from forkserve.net.listener import ANYBODY, Listener, Owner, bind_all, refuse_foreign
from forkserve.net.places import access_to, places_of, resolved_path, sharing_port, why
from forkserve.unix.notify import Notifier
from forkserve.unix.relay import Relay


class Workers(Protocol):
    """What is needed of them here."""

    relay: Relay

    def tell_all_to_look(self) -> None:
        """Have them look whether their listeners listen by now."""


class Doors:
    """Every listener that is open, by its place."""

    def __init__(self) -> None:
        self._open: dict[Address, list[Listener]] = {}  # as each generation that may live calls it, the newest last
        self.closing = Closing()
        self._cut_off: list[list[Listener]] = []  # whose file was gone and was made again, until the reload has ended
        self._stored: dict[Address, str] = {}  # the names of the copies that the service manager has
        self._notifier: Notifier | None = None
        self._backlog = 1

    def restore(
        self, kept: Iterable[Listener], useless: Iterable[str], wanted: Iterable[Address], notifier: Notifier
    ) -> None:
        """Take what the service manager has kept for us and is wanted; it drops what is of no use any more, and keeps
        what is bound from now on. Raises BindError and SettingsError."""
        self._notifier = notifier
        for name in useless:
            notifier.unstore(name)
        for listener in kept:
            self._open[listener.place] = [listener]
            self._stored[listener.place] = name_in_store(listener)
        used = self._find(wanted).values()
        for place in [place for place in self._open if place not in used]:
            self._unstore(place)
            self._open.pop(place)[0].close(unlink=True)
        for listener in self.all:
            log.info("listening", address=listener.name, restored="from the service manager")

    def prepare(
        self, wanted: Iterable[Address], backlog: int, owner: Owner = ANYBODY, *, reuse_port: bool = False
    ) -> tuple[Listener, ...]:
        """Return the listeners for these addresses, binding those whose places are not open yet. Raises BindError and
        SettingsError; then nothing has changed.

        A place that overlaps one which goes (0.0.0.0:80 and 127.0.0.1:80) is bound beside it and does not listen before
        the reload has ended; until then the old listener stands in for it, so that nobody waits at one that no worker
        looks at. A unix socket whose file is gone is bound again, and the old one stays until then too.
        """
        places = self._find(wanted)
        if not reuse_port:
            _refuse_overlaps({one: place for one, place in places.items() if place not in self._open}, places)
        fresh = [one for one, place in places.items() if place not in self._open or self._is_cut_off(place)]
        beside = {one: self._beside(places[one]) for one in fresh}
        ipv4 = {place.port for place in (*places.values(), *self._open) if place.family is Family.IPV4}
        bound = bind_all(fresh, backlog, owner, reuse_port=reuse_port, beside=beside, ipv4_ports=ipv4)
        for listener in bound:
            places[listener.address] = listener.place
            old = self._open.get(listener.place)
            if old:
                self._cut_off.append(old)
                self._unstore(listener.place)
                log.warning("file of a unix socket was gone; made again", address=listener.name)
            self._open[listener.place] = [listener]
            if listener.listens:
                log.info(
                    "listening", address=listener.name, **(access_to(listener.place.path) if listener.inode else {})
                )
                self._store(listener)
        self._backlog = backlog
        for place in places.values():
            if self._open[place][-1].listens:
                self._open[place][-1].socket.listen(backlog)  # also tells the kernel a new backlog
        return (*(self._call(one, place) for one, place in places.items()), *self._stand_ins(places))

    def settle(self, used: Iterable[Listener], workers: Workers) -> None:
        """Close every listener that is not among these, and let those listen for which another stood in.

        Who is queued at one that stood in is passed on to the workers.
        """
        used = tuple(used)
        self._settle_cut_off({id(one.socket) for one in used})
        kept = {one.place: one for one in used if not one.stands_in and one.is_open}
        heirs = {one.place: one.name for one in used if one.stands_in and one.is_open}
        began = [self._begin(place, one) for place, one in kept.items() if not one.listens]
        if not all(began):  # then who stands in does so until the next reload
            kept |= {place: self._open[place][-1] for place in heirs}
        for place in [place for place in self._open if place not in kept]:
            self._close(place, heirs.get(place, ""), workers.relay)
        for place, one in kept.items():
            self._agree(place, one)
        if began:
            workers.tell_all_to_look()

    def _settle_cut_off(self, used: set[int]) -> None:
        """Close who was cut off, or, where the generation that serves has it still, what was bound in its place."""
        for called in self._cut_off:
            place = called[0].place
            if id(called[0].socket) in used:
                self._close(place, "", None)
                self._open[place] = called
            else:
                called[0].close(unlink=True)
        self._cut_off = []

    def shut(self, now: float) -> None:
        """Let nobody new in; what is queued stays to be answered."""
        for place, (listener, *_) in self._open.items():
            self._unstore(place)  # or its copy would let in who is never answered
            self.closing.shut(listener, now)

    def close(self) -> None:
        """Close all, at the end of the service."""
        for place, (listener, *_) in self._open.items():
            self._unstore(place)
            listener.close(unlink=True)
        for listener, *_ in self._cut_off:
            listener.close(unlink=True)

    @property
    def all(self) -> tuple[Listener, ...]:
        """Every open listener, by each name that it has for a generation that may live."""
        return tuple(one for called in (*self._open.values(), *self._cut_off) for one in called)

    def others(self, listeners: Iterable[Listener]) -> list[Callable[[], None]]:
        """Say what a child closes that is born with these."""
        sockets = {id(one.socket) for one in listeners}
        return [one.close for one in self.all if id(one.socket) not in sockets]

    def have(self, listeners: Iterable[Listener]) -> bool:
        """Whether all of these are open."""
        sockets = {id(one.socket) for one in self.all}
        return sockets.issuperset(id(one.socket) for one in listeners)

    def hand_over(self) -> list[over.Door]:
        """Write down what is open."""
        return [
            over.Door(str(one.address), one.name, one.socket.fileno(), one.inode, place in self._stored, one.path)
            for place, (*_, one) in self._open.items()
        ]

    def resume(self, doors: Iterable[over.Door], notifier: Notifier) -> None:
        """Take what the master that we were had open."""
        self._notifier = notifier
        for door in doors:
            listener = listener_of(door)
            self._open[listener.place] = [listener]
            if door.stored:
                self._stored[listener.place] = name_in_store(listener)

    def named(self, addresses: Iterable[str]) -> tuple[Listener, ...]:
        """The open ones of these addresses, as these call them."""
        found = []
        for one in map(address.parse, addresses):
            try:
                place = self._place_of(one, ())
            except BindError:
                continue
            if place in self._open:
                found.append(self._as(one, place))
        return tuple(found)

    # what is where

    def _find(self, wanted: Iterable[Address]) -> dict[Address, Address]:
        """Find the place of each address. Raises BindError for a name that leads nowhere, SettingsError where two of
        them lead to the same."""
        found: dict[Address, Address] = {}
        taken: dict[Address, Address] = {}
        for one in dict.fromkeys(wanted):
            place = found[one] = self._place_of(one, taken)
            if place in taken:
                raise SettingsError(
                    f"bind = {str(one)!r}: is the same place as {str(taken[place])!r}, which can have one name and one"
                    " protocol; leave one of them out"
                )
            taken[place] = one
        return found

    def _place_of(self, wanted: Address, taken: Iterable[Address]) -> Address:
        """Find the place of an address; what is open under this very name stays where the name may mean it still."""
        known = [
            place for place, called in self._open.items() if any(one.address.place == wanted.place for one in called)
        ]
        if wanted.is_tcp and wanted.port == 0:  # each of these is a place of its own
            exact = [place for place in known if any(one.address == wanted for one in self._open[place])]
            return next((place for place in [*exact, *known] if place not in taken), wanted)
        try:
            places = places_of(wanted)
        except OSError as error:
            if known and wanted.family is Family.NAME:
                return known[-1]
            raise BindError(f"bind = {str(wanted)!r}: {why(error)}") from None
        return next((place for place in places if place in known), places[0])

    def _is_cut_off(self, place: Address) -> bool:
        """Whether nobody can connect at this unix path any more, and it is free to be bound again."""
        listener = self._open[place][-1]
        if not listener.has_lost_path:
            return False
        try:
            refuse_foreign(place.path)
        except OSError as error:
            log.warning("path of a unix socket was taken", address=listener.name, by=why(error))
            return False
        return True

    def _beside(self, place: Address) -> list[Listener]:
        """List what is open and overlaps this place."""
        return [called[-1] for other, called in self._open.items() if place.overlaps(other)]

    def _as(self, wanted: Address, place: Address) -> Listener:
        """Return what is open at this place as this address calls it."""
        called = self._open[place]
        return next((one for one in called if one.address == wanted), None) or called[-1].called(wanted)

    def _call(self, wanted: Address, place: Address) -> Listener:
        """Call what is open at this place so from now on, for a new generation."""
        named, called = self._as(wanted, place), self._open[place]
        if named.address != called[-1].address:
            log.info("listening", address=named.name, was=called[-1].name)
            self._open[place] = [*(one for one in called if one is not named), named]
        return named

    def _stand_ins(self, places: dict[Address, Address]) -> list[Listener]:
        """List what listens, goes with this reload and is overlapped by what comes, each under the new one's address:
        one that speaks as it did, if there is any."""
        found = []
        for place, called in self._open.items():
            old = called[-1]
            heirs = [one for one, new in places.items() if new.overlaps(place)]
            if heirs and place not in places.values() and old.listens:
                heirs.sort(key=lambda one: one.protocol != old.address.protocol)
                heir = self._as(heirs[0], places[heirs[0]])
                stand_in = old.called(heir.address, stands_in=True)
                stand_in.name = heir.name  # connections move by this name
                found.append(stand_in)
        return found

    # the end of a reload

    def _begin(self, place: Address, listener: Listener) -> bool:
        """Let one listen that was only bound; False: it cannot."""
        beside = self._beside(place)
        try:
            with sharing_port(listener.socket, [one.socket for one in beside]):
                listener.socket.listen(self._backlog)
        except OSError as error:
            log.error("cannot listen", address=listener.name, cause=error.strerror)
            return False
        was = {"was": " ".join(one.name for one in beside)} if beside else {}
        log.info("listening", address=listener.name, **was)
        self._store(listener)
        return True

    def _close(self, place: Address, heir: str, relay: Relay | None) -> None:
        """Close one; ``heir``: the name at whose door who is queued shall go on, if there is one."""
        self._unstore(place)
        old, *_ = self._open.pop(place)
        was_open = old.listens
        moved = {}
        if heir and relay is not None:
            old.shut()
            moved = {"passed_on": pass_on(old, heir, relay)}
            old.end()  # the workers have copies
        old.close(unlink=True)
        if was_open:
            log.info("no longer listening", address=old.name, **moved)

    def _agree(self, place: Address, listener: Listener) -> None:
        """Know a place by what the generation that serves calls it, and by nothing else."""
        newest = self._open[place][-1]
        self._open[place] = [listener]
        if newest.address != listener.address:  # the reload has failed
            log.info("listening", address=listener.name, was=newest.name)
        if self._stored.get(place, "") not in ("", name_in_store(listener)):
            self._unstore(place)  # first: it keeps no socket twice
            self._store(listener)

    def _store(self, listener: Listener) -> None:
        # What was handed in stays with its giver anyway.
        if self._notifier is not None and self._notifier.enabled and listener.address.family is not Family.FD:
            name = self._stored[listener.place] = name_in_store(listener)
            self._notifier.store(name, listener.socket.fileno())

    def _unstore(self, place: Address) -> None:
        name = self._stored.pop(place, "")
        if name and self._notifier is not None:
            self._notifier.unstore(name)


def listener_of(door: over.Door) -> Listener:
    """Make the listener again that was written down."""
    sock = socket.socket(fileno=door.fd)
    sock.setblocking(False)
    asked = address.parse(door.address)
    path = door.path or (resolved_path(asked.path) if asked.family is Family.UNIX else "")
    return Listener(asked, sock, door.name, door.inode, path)


def _refuse_overlaps(fresh: dict[Address, Address], places: dict[Address, Address]) -> None:
    """Raise SettingsError where a place that is not open yet overlaps another one that is wanted."""
    for one, place in fresh.items():
        for other, known in places.items():
            if place.overlaps(known):
                raise SettingsError(
                    f"bind = {str(one)!r}: overlaps {str(other)!r}, and a connection could be meant for either; leave"
                    " one of them out"
                )
