"""Sockets that come from outside: from a service manager (sd_listen_fds(3)) or, after a crash, from its store.

A handed socket is matched to the entries of ``bind`` by its number (fd://3), by the name that its giver gave it
(fd://web, for all of that name), or by the address that it listens at. A stored one is a listener of our own that the
manager kept while we were dead: its name says which entry it was made for (sd_pid_notify_with_fds(3)). The variables
are taken out of the environment, so that no child believes them too.
"""

import os
import re
import socket
from collections.abc import Iterable

from forkserve.errors import BindError
from forkserve.net import address
from forkserve.net.address import Address, Family
from forkserve.net.listener import Listener, where
from forkserve.net.places import resolve, resolved_path
from forkserve.typed import Struct

_FIRST_FD = 3
_OURS = "forkserve"
_ODD = re.compile(rb"[^A-Za-z0-9/.\[\]@~_:-]")  # not to stand in the name of a stored socket, which is plain ASCII


class Handed(Struct, frozen=True):
    """One socket that was handed in; once it is adopted its number only names it."""

    fd: int
    name: str = ""
    where: str = ""  # it listens at, as an address is spelled; empty: it does not
    also_ipv4: bool = False  # listens at [::] and takes IPv4 too, as systemd's do

    @property
    def address(self) -> Address:
        """What it is called in ``bind``."""
        return Address(Family.FD, fd=self.fd)


def handed_in() -> tuple[Handed, ...]:
    """Return the sockets that were handed to this very process; () if there are none."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    found = []
    for place in range(min(int(count), 1024)):
        fd = _FIRST_FD + place
        if _was_passed(fd):
            found.append(Handed(fd, names[place] if place < len(names) else "", *_look_at(fd)))
    return tuple(found)


def choose(wanted: Iterable[Address], handed: Iterable[Handed]) -> tuple[Address, ...]:
    """Put sockets that were handed in where ``bind`` means them. Raises BindError for a name that none has."""
    chosen: list[Address] = []
    handed = tuple(handed)
    for place in wanted:
        if place.family is Family.FD and place.path:
            named = [one.address.speaking(place.protocol) for one in handed if one.name == place.path]
            if not named:
                known = ", ".join(sorted({one.name for one in handed if one.name})) or "no socket with a name"
                raise BindError(f"bind = {str(place)!r}: no socket of that name was handed in, but {known}")
            chosen += named
        else:
            found = (one.address.speaking(place.protocol) for one in handed if _is_at(one, place))
            chosen.append(next(found, place))
    return tuple(chosen)


def close_unwanted(handed: Iterable[Handed], wanted: Iterable[Address]) -> tuple[Handed, ...]:
    """Close what was handed in but is not to be listened at, where clients would wait for ever; return which."""
    kept = {address.fd for address in wanted}
    unwanted = tuple(one for one in handed if one.fd not in kept and _was_passed(one.fd))
    for one in unwanted:
        os.close(one.fd)
    return unwanted


def name_in_store(listener: Listener) -> str:
    """Spell the name under which the manager keeps this listener: the entry it was made for, its path's inode."""
    device, inode = listener.inode or (0, 0)
    spelled = _ODD.sub(lambda found: b"%%%02x" % ord(found[0]), os.fsencode(str(listener.address)))
    # The bar stands for the colon, which no name may hold; a bar itself is quoted.
    return f"{_OURS}|{device}|{inode}|{spelled.decode().replace(':', '|')}"


def from_store(handed: Iterable[Handed]) -> tuple[tuple[Handed, ...], list[Listener], list[str]]:
    """Tell apart what others handed in and what the manager kept of ours; the names of those that are of no use last.

    A unix socket whose path leads elsewhere by now has no use: nobody can reach it.
    """
    theirs: list[Handed] = []
    ours: list[Listener] = []
    useless: list[str] = []
    for one in handed:
        if not one.name.startswith(f"{_OURS}|"):
            theirs.append(one)
            continue
        listener = _restore(one)
        if listener is None or any(listener.place == other.place for other in ours):
            useless.append(one.name)
        else:
            ours.append(listener)
        os.close(one.fd)
    return tuple(theirs), ours, useless


def _restore(one: Handed) -> Listener | None:
    try:
        _, device, inode, spelled = one.name.split("|", 3)
        raw = re.sub(rb"%([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), spelled.replace("|", ":").encode())
        place = address.parse(os.fsdecode(raw))
        identity = (int(device), int(inode))
    except ValueError:
        return None
    if not one.where or place.family is Family.FD:
        return None
    if place.family is Family.UNIX:
        try:
            there = os.lstat(place.path)
        except OSError:
            return None
        if (there.st_dev, there.st_ino) != identity:
            return None
    sock = socket.socket(fileno=os.dup(one.fd))
    sock.setblocking(False)
    if place.family is Family.UNIX:
        return Listener(place, sock, str(place), identity, resolved_path(place.path))
    return Listener(place, sock, place.named(one.where))


def _is_at(one: Handed, place: Address) -> bool:
    if not one.where or place.family is Family.FD:
        return False
    if place.family is Family.NAME:
        try:
            _, (host, port) = resolve(place)
        except OSError:
            return False  # binding will say why
        spelled = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    else:
        spelled = place.place
    if one.also_ipv4 and place.is_tcp and spelled == f"0.0.0.0:{place.port}":
        spelled = f"[::]:{place.port}"
    return one.where == spelled and not (place.is_tcp and place.port == 0)


def _look_at(fd: int) -> tuple[str, bool]:
    """Return where a socket listens, and whether it takes IPv4 beside IPv6."""
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return "", False
    with sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "", False
        is_ipv6 = sock.family == socket.AF_INET6
        return where(sock), is_ipv6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _was_passed(fd: int) -> bool:
    """Whether this descriptor came through exec. LISTEN_FDS may count too many, and ours are all close-on-exec."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
