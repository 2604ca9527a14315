"""Listeners: bound sockets, made here or adopted. Used by the master; workers get copies by fork.

All are non-blocking (the flag lives in the open file description, so it is set once, here) and close-on-exec. A unix
path is bound under a temporary name and renamed over, after a connect has shown that nobody listens at it; it is
unlinked at the end only while it is still ours (same device and inode).
"""

import _socket
import errno
import os
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress

from forkserve.errors import BindError, InUseError
from forkserve.net.address import LONGEST_PATH_BYTES, Address, Family
from forkserve.net.places import resolve, resolved_path, sharing_port, why
from forkserve.typed import Struct, replaced

_SO_ATTACH_FILTER = 26  # socket(7); the socket module does not name it
# ip(7) IP_MINTTL, ipv6(7) IPV6_MINHOPCOUNT: what comes with less is dropped. Hosts send with 64 or 128. What the
# listener has, a connection gets whose handshake has begun before.
_SHORTEST_WAYS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))
_NOBODY_NEAR, _ANYBODY_FAR = 255, 0
_QUEUED_AT, _INFO_BYTES = 24, 104  # of struct tcp_info: of a listener, tcpi_unacked is the length of its queue
# Classic BPF on the TCP header, which such a filter sees first: (code, jump if true, jump if false, value).
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone, the first of a handshake: go on, else skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # take: a handshake that has begun ends well
)


class Owner(Struct, frozen=True):
    """Whom the file of a unix socket belongs to, and who may connect; -1: as the process has it."""

    mode: int = -1
    uid: int = -1
    gid: int = -1
    umask: int = -1

    def make(self, bind: Callable[[], None], path: str) -> None:
        """Make the file at ``path`` by ``bind``; nobody may use it before it is as it should be. Raises OSError.

        What is changed is what stands there, never what a link leads to: others may be able to write in its folder.
        """
        mask = os.umask(0o777)
        open_mask = mask if self.umask == -1 else self.umask
        try:
            bind()
        finally:
            os.umask(mask)
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise OSError(errno.EEXIST, "somebody else has put something in its place")
            if (self.uid, self.gid) != (-1, -1):
                os.chown(f"/proc/self/fd/{fd}", self.uid, self.gid)
            os.chmod(f"/proc/self/fd/{fd}", 0o777 & ~open_mask if self.mode == -1 else self.mode)
        finally:
            os.close(fd)


ANYBODY = Owner()


class Listener(Struct):
    """One listening socket."""

    address: Address  # as it was asked for
    socket: socket.socket
    name: str  # where it really listens: the port that the kernel picked, the address behind an fd
    inode: tuple[int, int] | None = None  # of a unix path that we made
    path: str = ""  # where that is, its folder resolved: the folder's name may lead elsewhere by the next reload
    stands_in: bool = False  # for a listener of this address that cannot listen before this one is closed: Doors

    @property
    def place(self) -> Address:
        """Where it listens, whatever it is called and speaks."""
        if self.address.is_tcp:
            host, port = self.socket.getsockname()[:2]
            return Address(Family.IPV6 if self.socket.family == socket.AF_INET6 else Family.IPV4, host, port)
        return replaced(self.address, path=self.path or self.address.path, protocol="")

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return self.socket.fileno() >= 0

    @property
    def listens(self) -> bool:
        """Whether clients can connect."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1

    @property
    def has_lost_path(self) -> bool:
        """Whether it is a unix socket of ours whose path leads to something else by now, or nowhere."""
        if self.inode is None:
            return False
        try:
            there = os.lstat(self.place.path)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != self.inode

    def called(self, address: Address, *, stands_in: bool = False) -> "Listener":
        """Return the same socket under another address."""
        return Listener(address, self.socket, _name_of(address, self.socket), self.inode, self.path, stands_in)

    @property
    def server(self) -> tuple[str, str]:
        """SERVER_NAME and SERVER_PORT for requests that arrive here; never empty. RFC 3875 sections 4.1.14, 4.1.15."""
        place = self.socket.getsockname()
        if not isinstance(place, tuple):
            return "localhost", "80"
        host = place[0]
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return (f"[{host}]" if ":" in host else host), str(place[1])

    def shut(self) -> str:
        """Let nobody new in; who is queued can still be served. The last close would reset what came in between.

        TCP: new handshakes are dropped, so that their clients try again in a second and are refused; from who has no
        CAP_NET_ADMIN the kernel takes no filter, but it takes a shortest way that nobody comes by. ``end_if_empty`` is
        for afterwards. Returns why it could not be had, else "". unix: the path goes; an abstract name has none, but
        shut for reading it refuses who comes, and still gives who is queued (unix_stream_connect and unix_accept of
        the kernel). It reads as readable from then on, queue or not.
        A socket that was handed in stays as it is: its giver keeps it, and the queue, for the next instance.
        """
        if self.address.family is Family.UNIX:
            self._unlink()
        elif self.address.family is Family.ABSTRACT:
            try:
                self.socket.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # then the last ones are reset
        elif self.address.is_tcp:
            program = array("B", b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN))
            try:
                pointer = struct.pack("HP", len(_DROP_SYN), program.buffer_info()[0])
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
            except OSError as error:
                if not _hear_from(self.socket, _NOBODY_NEAR):
                    return error.strerror or str(error)
        return ""

    @property
    def queued(self) -> int:
        """How many wait to be accepted. TCP only."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        return int.from_bytes(info[_QUEUED_AT : _QUEUED_AT + 4], sys.byteorder)

    def end_if_empty(self) -> bool:
        """End one that was shut, if nobody waits at it; whether it has ended. TCP only."""
        try:
            if self.queued:
                return False
        except OSError:  # a kernel that does not tell: it ends with the last worker
            return True
        self.end()
        return True

    def end(self) -> None:
        """Let nobody connect any more, whoever else has a copy of it. TCP only; who is queued is reset."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def close(self, *, unlink: bool = False) -> None:
        """Close it; ``unlink``: the master is done with it, so its path goes too if it is still ours."""
        if unlink:
            self._unlink()
        self.socket.close()

    def _unlink(self) -> None:
        if self.inode is None:
            return
        try:
            there = os.lstat(self.place.path)
            if (there.st_dev, there.st_ino) == self.inode:
                os.unlink(self.place.path)
        except OSError:
            pass


NOBODY: Mapping[Address, Sequence[Listener]] = {}


def bind_all(
    addresses: Iterable[Address],
    backlog: int,
    owner: Owner = ANYBODY,
    *,
    reuse_port: bool = False,
    beside: Mapping[Address, Sequence[Listener]] = NOBODY,
    ipv4_ports: Container[int] = (),
) -> list[Listener]:
    """Bind or adopt every address, or none: BindError says which one failed and what to do.

    ``owner``: whom the files of unix sockets belong to; ``reuse_port``: others may bind the same TCP ports; ``beside``:
    listeners of ours that overlap an address. Where one of those listens, the new one is bound and does not listen yet;
    ``ipv4_ports``: which ports have a listener of ours for IPv4, so that [::] is for IPv6 alone there.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            only_ipv6 = address.host != "::" or address.port in ipv4_ports
            listeners.append(_bind(address, backlog, owner, reuse_port, beside.get(address, ()), only_ipv6))
    except BaseException:
        for listener in listeners:
            listener.close(unlink=True)
        raise
    return listeners


def _bind(
    address: Address, backlog: int, owner: Owner, reuse_port: bool, beside: Sequence[Listener], only_ipv6: bool
) -> Listener:
    try:
        match address.family:
            case Family.FD:
                return _adopt(address)
            case Family.UNIX:
                return _bind_unix(address, backlog, owner)
            case Family.ABSTRACT:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                return _listen(address, sock, "\0" + address.path, backlog)
            case _:
                family, place = resolve(address)
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6 and only_ipv6:  # else as the kernel has it, net.ipv6.bindv6only
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                with sharing_port(sock, [one.socket for one in beside]):
                    return _listen(address, sock, place, 0 if any(one.listens for one in beside) else backlog)
    except OSError as error:
        line = f"bind = {str(address)!r}: {why(error)}"
        if error.errno == errno.EADDRINUSE:
            raise InUseError(line, address.port, _path_of(address)) from None
        raise BindError(line) from None


def _path_of(address: Address) -> str:
    return f"@{address.path}" if address.family is Family.ABSTRACT else address.path


def _listen(address: Address, sock: socket.socket, place: object, backlog: int) -> Listener:
    """``backlog``: 0 leaves it bound only."""
    try:
        sock.setblocking(False)
        sock.bind(place)  # type: ignore[arg-type]  # each family has its own kind of place
        if backlog:
            sock.listen(backlog)
        return Listener(address, sock, _name_of(address, sock))
    except BaseException:
        sock.close()
        raise


def _bind_unix(address: Address, backlog: int, owner: Owner) -> Listener:
    path = address.path
    refuse_foreign(path)
    folder, name = os.path.split(path)
    # Clients find either the old socket or the new one that already listens, never a gap.
    temporary = os.path.join(folder, f".{name[:60]}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        owner.make(lambda: _bind_path(sock, temporary), temporary)
        sock.listen(backlog)
        status = os.lstat(temporary)
        inode = (status.st_dev, status.st_ino)
        listener = Listener(address, sock, _name_of(address, sock), inode, resolved_path(path))
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
    return listener


def _bind_path(sock: socket.socket, path: str) -> None:
    """Bind a path, also one that is a few bytes longer than the kernel takes: then by its folder's descriptor."""
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        sock.bind(path)
        return
    folder, name = os.path.split(path)
    fd = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        sock.bind(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def refuse_foreign(path: str) -> None:
    """Raise OSError if something is at ``path`` that must not be replaced: a listening socket, or no socket at all."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is no socket stands there; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # stale: nobody listens
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise OSError(errno.EADDRINUSE, "")


def _adopt(address: Address) -> Listener:
    """Take over a listening socket that was handed in as a file descriptor."""
    try:
        mode = os.fstat(address.fd).st_mode
    except OSError:
        raise OSError(errno.EBADF, "no such descriptor is open; hand in a listening socket") from None
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket; hand in a listening socket")
    sock = socket.socket(fileno=os.dup(address.fd))
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError(errno.EINVAL, "the socket does not listen; hand in a listening socket")
    if not os.get_inheritable(address.fd):  # what comes by exec is; this one is ours, and the number was used again
        sock.close()
        raise OSError(errno.EBADF, "no such descriptor was handed in; hand in a listening socket")
    if address.fd > 2:
        os.close(address.fd)  # the copy is close-on-exec, the original need not be
    sock.setblocking(False)
    return Listener(address, sock, _name_of(address, sock))


def _name_of(address: Address, sock: socket.socket) -> str:
    """Spell where a socket really listens; a unix path as it was asked for, since it was bound under another."""
    return str(address) if address.family is Family.UNIX else address.named(where(sock))


def where(sock: socket.socket) -> str:
    """Spell where a socket listens."""
    place = sock.getsockname()
    if isinstance(place, tuple):
        return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"
    if isinstance(place, bytes):
        return "unix:@" + place[1:].decode("utf-8", "backslashreplace")
    return f"unix:{place}"


def hear_again(sock: _socket.socket) -> None:
    """Let a connection that a shut listener gave hear its client, whenever the handshake of that began."""
    _hear_from(sock, _ANYBODY_FAR)


def _hear_from(sock: _socket.socket, hops: int) -> bool:
    """Drop what comes with fewer hops left; whether the kernel does so."""
    for level, option in _SHORTEST_WAYS:
        try:
            if level == socket.IPPROTO_IP or sock.family == socket.AF_INET6:
                sock.setsockopt(level, option, hops)
        except OSError:
            return False
    return True
