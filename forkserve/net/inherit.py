"""Sockets that a service manager hands in: LISTEN_FDS and LISTEN_PID, as sd_listen_fds(3) says.

The variables are taken out of the environment, so that no child believes them too.
"""

import os
from collections.abc import Iterable

from forkserve.net.address import Address, Family

_FIRST_FD = 3


def handed_in() -> tuple[Address, ...]:
    """Return the descriptors that were handed to this very process, as addresses; () if there are none."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    return tuple(Address(Family.FD, fd=fd) for fd in range(_FIRST_FD, _FIRST_FD + min(int(count), 1024)))


def close_unwanted(handed: Iterable[Address], wanted: Iterable[Address]) -> tuple[Address, ...]:
    """Close what was handed in but is not to be listened at, where clients would wait for ever; return which."""
    kept = {address.fd for address in wanted}
    unwanted = tuple(address for address in handed if address.fd not in kept and _was_passed(address.fd))
    for address in unwanted:
        os.close(address.fd)
    return unwanted


def _was_passed(fd: int) -> bool:
    """Whether this descriptor came through exec. LISTEN_FDS may count too many, and ours are all close-on-exec."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
