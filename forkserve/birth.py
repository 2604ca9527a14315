"""What a child is born with: all that the master hands to the code of a worker, which the master does not know."""

from collections.abc import Callable
from typing import Any

from forkserve.config.settings import Settings
from forkserve.net.listener import Listener
from forkserve.typed import Struct
from forkserve.unix.bell import Bell
from forkserve.unix.channel import Channel
from forkserve.unix.orphan import Lifeline
from forkserve.unix.relay import Relay
from forkserve.unix.scoreboard import Row, Siblings


class Birth(Struct, frozen=True):
    """One child's inheritance; the settings are those of its generation."""

    slot: int
    generation: int
    settings: Settings
    listeners: tuple[Listener, ...]
    channel: Channel
    row: Row
    siblings: Siblings
    lifeline: Lifeline
    relay: Relay | None
    stacks: int  # the descriptor that they are written to when the master asks
    bell: Bell | None  # rung by the master when somebody else could serve who waits here
    call: Bell  # rung to ask for that
    spooled: memoryview  # a cell of 8 bytes for each slot: how much its worker's spools hold
    context: Any  # an ssl.SSLContext, or None: without TLS that module is not loaded


# Becomes the child: called in it once, with every signal blocked; what it returns is the exit code.
ChildMain = Callable[[Birth], int]
