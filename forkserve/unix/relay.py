"""The relay: one more accept queue, on which workers put connections for whichever of them is idle first.

A SOCK_SEQPACKET pair made by the master, which holds both ends for as long as it lives: what is queued survives the
worker that put it there. A message is a connection's descriptor (SCM_RIGHTS) and what is known of it. Nothing is waited
for: a full queue, like every other trouble, means that the connection stays where it is. Sources: unix(7), cmsg(3).
"""

import errno
import os
import socket
from array import array
from select import POLLOUT, poll

from forkserve.typed import Codec, Struct
from forkserve.unix.descriptors import one_opens

MOST_BYTES = 48 * 1024  # of what was read already; a connection with more stays
_LARGEST = 64 * 1024  # a message beyond this would arrive cut, and its connection be lost
_ONE_FD = socket.CMSG_SPACE(array("i").itemsize)
_QUEUE_BYTES = 4 << 20  # asked for; the kernel gives what net.core.wmem_max allows, which is room for some hundreds
_NOW = socket.MSG_DONTWAIT
_SPARE = 3  # descriptors kept free for what is taken: threads of the app may open a file at the same moment


class Moved(Struct, frozen=True, tag="moved"):
    """What goes with a connection."""

    door: str  # where it was accepted
    family: int
    peer: tuple[str, int] | None  # address and port; None on unix sockets
    fresh: bool  # no request yet
    left_s: float  # until its deadline
    received: bytes  # of a head that is not whole yet
    facts: dict[str, str]  # what a PROXY header said, as environ variables
    unopened: bool = False  # straight from a listener: nothing has looked at it yet


_CODEC: Codec[Moved] = Codec(Moved)


class Relay:
    """Both ends of the queue."""

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """Make the pair, or go on with the ends (to put on, to take from) of the master that we were."""
        if ends is None:
            self._out, self._in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        else:
            self._out, self._in = (socket.socket(fileno=fd) for fd in ends)
        for end in (self._out, self._in):
            end.settimeout(None)  # whatever the default is
        try:
            self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
        except OSError:
            pass
        self._reserve: list[int] = []

    @property
    def ends(self) -> tuple[int, int]:
        """What an exec hands over."""
        return self._out.fileno(), self._in.fileno()

    def fileno(self) -> int:
        """The descriptor that is readable while somebody waits here."""
        return self._in.fileno()

    def reserve(self) -> None:
        """Keep some descriptors free: a message that arrives without room for its own is a lost connection. Raises
        OSError where there are too few."""
        while len(self._reserve) < _SPARE:
            self._reserve.append(os.dup(self._in.fileno()))

    def has_room(self) -> bool:
        """Whether a message more would be taken now; others may be faster."""
        waiting = poll()
        waiting.register(self._out, POLLOUT)
        return bool(waiting.poll(0))

    def put(self, fd: int, moved: Moved) -> bool:
        """Queue a connection; False when it cannot be. The caller closes its own copy."""
        try:
            data = _CODEC.encode(moved)
            if len(data) > _LARGEST:
                return False
            self._out.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))], _NOW)
        except (OSError, UnicodeError):  # full, too many descriptors under way; the address of a door is no UTF-8
            return False
        return True

    def take(self) -> tuple[int, Moved] | None:
        """Take the connection that waits longest; None if nobody does. Raises OSError when descriptors are short."""
        while True:
            data, fds = self._receive()
            if not data:
                return None
            moved = _CODEC.decode(data)
            if moved is not None and len(fds) == 1:
                return fds[0], moved
            for fd in fds:
                os.close(fd)
            if moved is not None:  # threads of the app had the reserve: no more of them must be lost
                raise OSError(errno.EMFILE, "a connection was lost: its descriptor found no room")

    def _receive(self) -> tuple[bytes, "array[int]"]:
        """Return the next message and its descriptors; an empty one if there is none."""
        fds = array("i")
        with one_opens:
            self.reserve()
            while self._reserve:
                os.close(self._reserve.pop())
            try:
                data, ancillary, _, _ = self._in.recvmsg(_LARGEST, _ONE_FD, _NOW | socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return b"", fds
            finally:
                try:
                    self.reserve()
                except OSError:
                    pass  # the next take says so
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        return data, fds

    def close(self) -> None:
        """Close this process's copies."""
        self._out.close()
        self._in.close()
        while self._reserve:
            os.close(self._reserve.pop())
