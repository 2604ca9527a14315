"""What a master hands to the program that it becomes by exec: what it knows, and the numbers of what is open.

Written to a memfd by one version of this program and read by another, so the rules of memory.py hold here too: one
version may add fields that have defaults, nothing else, and each understands the version before and after its own.
Runs in the master, and in the child that tries a target.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forkserve import __version__
from forkserve.config import values
from forkserve.config.settings import Settings, declared
from forkserve.errors import ForkserveError
from forkserve.master.memory import Memory
from forkserve.typed import Struct, from_msgpack, to_msgpack
from forkserve.unix import scoreboard

VERSION = 1
VARIABLE = "_FORKSERVE_HANDOVER"  # WORD:FD:NONCE, to the target only
TAKE, TRY = "take", "try"
_MOST_BYTES = 64 << 20


class Door(Struct):
    """A listener."""

    address: str
    name: str
    fd: int
    inode: tuple[int, int] | None = None
    stored: bool = False  # the service manager has a copy
    path: str = ""  # of a unix socket, its folder resolved


class OldOutfit(Struct):
    """What a generation is born with; its listeners by their addresses."""

    settings: dict[str, Any]
    listeners: list[str]
    folder: str = ""


class OldChild(Struct):
    """A child and the master's end of its channel, -1 if it has hung up."""

    id: int
    slot: int
    pid: int
    channel: int
    stacks: int = -1
    bell: int = -1


class OldHanded(Struct):
    """A socket that a service manager handed in, whether it is listened at or not."""

    fd: int
    name: str
    where: str
    also_ipv4: bool = False


class OldClient(Struct):
    """A connection to the control socket."""

    fd: int
    request: bytes = b""
    asked: bool = False
    owed: bytes = b""
    ended: bool = False
    reload: int = 0  # the number of the reload whose end it waits for


class Handover(Struct, kw_only=True):
    """All of it."""

    version: int = VERSION
    layout: int = scoreboard.LAYOUT
    program: str = __version__
    memory: Memory
    settings: dict[str, Any]
    origins: dict[str, str]
    outfits: dict[int, OldOutfit]
    doors: list[Door]
    handed: list[OldHanded]
    children: list[OldChild]
    board: int
    lifeline: tuple[int, int]
    relay: tuple[int, int]
    call: int = -1  # the bell that workers ring to be watched
    pidfile: tuple[str, int] | None = None
    control: Door | None = None
    clients: tuple[OldClient, ...] = ()
    began_at: float = 0.0

    def descriptors(self) -> Iterator[int]:
        """Every descriptor that must live through the exec."""
        yield self.board
        yield from (*self.lifeline, *self.relay)
        yield from (door.fd for door in self.doors)
        yield from (fd for child in self.children for fd in (child.channel, child.stacks, child.bell) if fd >= 0)
        if self.call >= 0:
            yield self.call
        yield from (client.fd for client in self.clients)
        if self.pidfile is not None:
            yield self.pidfile[1]
        if self.control is not None:
            yield self.control.fd


class HandoverError(ForkserveError):
    """What was handed over cannot be understood."""


def to_memfd(handover: Handover) -> int:
    """Write it where an exec keeps it; returns the descriptor, close-on-exec. Raises OSError."""
    try:
        rest = to_msgpack(handover)
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "a path or text in the settings is no Unicode; restart instead") from None
    fd = os.memfd_create("forkserve-handover", os.MFD_CLOEXEC)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def from_memfd(fd: int) -> Handover:
    """Read it and close the descriptor. Raises HandoverError."""
    try:
        raw = os.pread(fd, _MOST_BYTES, 0)
        os.close(fd)
    except OSError as error:
        raise HandoverError(f"what was handed over cannot be read: {error.strerror}") from None
    return understand(raw)


def understand(raw: bytes) -> Handover:
    """Read what another version wrote. Raises HandoverError with the reason."""
    said = from_msgpack(raw, _Versions)
    if said is None:
        raise HandoverError("what was handed over is no state of forkserve")
    if abs(said.version - VERSION) > 1 or said.layout != scoreboard.LAYOUT:
        raise HandoverError(
            f"the running forkserve {said.program} hands over version {said.version}.{said.layout} of its state;"
            f" forkserve {__version__} understands {VERSION}.{scoreboard.LAYOUT}, one step back and forward: restart"
        )
    handover = from_msgpack(raw, Handover)
    if handover is None:
        raise HandoverError(f"the state of forkserve {said.program} cannot be read; restart instead")
    return handover


def settings_to_plain(settings: Settings) -> dict[str, Any]:
    """Spell settings as a file of settings has them."""
    return {name: values.write(setting, getattr(settings, name)) for name, setting in declared().items()}


def settings_from_plain(plain: Mapping[str, Any]) -> Settings:
    """Read them; what this version does not know, or no longer takes, is left out."""
    known: dict[str, Any] = {}
    for name, setting in declared().items():
        if name in plain:
            try:
                known[name] = values.read(setting, plain[name], is_text=False)
            except ValueError:
                pass
    return Settings(**known)


def keep_close_on_exec(fds: Iterable[int]) -> None:
    """Undo what let them through the exec."""
    for fd in fds:
        os.set_inheritable(fd, False)


class _Versions(Struct):
    version: int
    layout: int = 0
    program: str = "?"
