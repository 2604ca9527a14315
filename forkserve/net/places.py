"""Places: where an address really leads. No two listeners have the same, whatever they are called and speak.

A place is an Address too, without names: of TCP the family, host and port that its name leads to; of unix sockets the
path with its folder resolved. It has no protocol. Here is also how listeners of ours whose places overlap are bound
beside each other. Runs in the master.
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from forkserve.net.address import Address, Family
from forkserve.typed import replaced


def places_of(address: Address) -> list[Address]:
    """Find the places that an address may mean, the best first. Raises OSError for a name that leads nowhere."""
    if address.family is Family.UNIX:
        return [Address(Family.UNIX, path=resolved_path(address.path))]
    if not address.is_tcp:
        return [replaced(address, protocol="")]
    return [
        Address(Family.IPV6 if family == socket.AF_INET6 else Family.IPV4, host, port)
        for family, (host, port) in _resolve_all(address)
    ]


def resolve(address: Address) -> tuple[int, tuple[str, int]]:
    """Find the family and place of a TCP address: IPv4 before IPv6. Raises OSError."""
    return _resolve_all(address)[0]


def _resolve_all(address: Address) -> list[tuple[int, tuple[str, int]]]:
    """Names are looked up here, while settings are read, and only here."""
    if address.family is not Family.NAME:
        return [(socket.AF_INET if address.family is Family.IPV4 else socket.AF_INET6, (address.host, address.port))]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return [(family, (str(place[0]), int(place[1]))) for family, _, _, _, place in found]


def resolved_path(path: str) -> str:
    """Spell a socket's path with its folder resolved."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


@contextmanager
def sharing_port(sock: socket.socket, beside: Sequence[socket.socket]) -> Iterator[None]:
    """Let a TCP socket be bound, or begin to listen, beside sockets of ours that it overlaps.

    The kernel lets sockets of one user overlap that have SO_REUSEPORT, and looks at that when one is bound or begins to
    listen (inet_csk_get_port), so they have it no longer than that.
    """
    sharers = [sock, *beside] if beside else []
    before = [one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for one in sharers]
    for one in sharers:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for one, was in zip(sharers, before, strict=True):
            if one.fileno() >= 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, was)
        if not all(before):
            _end_sharing(beside[0])


def _end_sharing(sock: socket.socket) -> None:
    """Have the kernel look again at who binds this port.

    It remembers that all who have the port would share it, and asks no more: a process of our own user could join. A
    socket that does not share and gets the port ends that (inet_csk_update_fastreuse); one of the other family can.
    """
    is_ipv4 = sock.family == socket.AF_INET
    family, host = (socket.AF_INET6, "::1") if is_ipv4 else (socket.AF_INET, "127.0.0.1")
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host, sock.getsockname()[1]))


def why(error: OSError) -> str:
    """Say why an address cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; stop what listens there or choose another"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 and foreign folders need privileges"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if error.errno == errno.ENOENT:
        return "the folder does not exist"
    return error.strerror or str(error)


def access_to(path: str) -> dict[str, str]:
    """Who may connect to the unix socket at ``path``, for the log: its mode and owner, and whom that leaves out."""
    try:
        there = os.lstat(path)
    except OSError:
        return {}
    mode = stat.S_IMODE(there.st_mode)
    told = {"mode": f"{mode:04o}", "owner": f"{_name(_users, there.st_uid)}:{_name(_groups, there.st_gid)}"}
    if not mode & 0o022:
        told["note"] = "its owner alone can connect; socket_mode and socket_group let others"
    return told


def _users(number: int) -> str:
    import pwd  # lazy: for unix sockets alone

    return pwd.getpwuid(number).pw_name


def _groups(number: int) -> str:
    import grp

    return grp.getgrgid(number).gr_name


def _name(find: Callable[[int], str], number: int) -> str:
    """The name of a user or group, or its number where it has none."""
    try:
        return find(number)
    except (KeyError, OverflowError):
        return str(number)
