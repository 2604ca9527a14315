"""What the master and a child say to each other: typed messages, one per datagram of their channel.

Knows no socket. Up: Ready, BootFailure, Retiring, Tired, Spent, Stuck, Dumped.
Down: Serve, Look, Leave, Hurry, Reopen.
"""

from forkserve.typed import Codec, Struct

# A datagram must fit into the channel's send buffer (about 200 KiB by default); the end of a traceback is what tells.
_TEXT_LIMIT = 32 * 1024


class Ready(Struct, frozen=True, tag="ready"):
    """Up: I am able to serve, and wait for Serve."""


class BootFailure(Struct, frozen=True, tag="boot-failure"):
    """Up: I cannot serve, and exit."""

    error: str
    traceback: str
    exit_code: int


class Retiring(Struct, frozen=True, tag="retiring"):
    """Up: I leave by myself."""

    reason: str


class Tired(Struct, frozen=True, tag="tired"):
    """Up: I should be replaced; I serve on until I am told to leave."""

    reason: str


class Spent(Struct, frozen=True, tag="spent"):
    """Up: the overdue request is answered, and its thread hangs. I take nobody new, and leave after the others."""


class Stuck(Struct, frozen=True, tag="stuck"):
    """Up: I cannot accept, and somebody waits whom only I was told of; let the others look."""


class Dumped(Struct, frozen=True, tag="dumped"):
    """Up: I have written my stacks."""


class Look(Struct, frozen=True, tag="look"):
    """Down: see whether somebody waits to be accepted."""


class Serve(Struct, frozen=True, tag="serve"):
    """Down: your Ready is noted, accept. A child that was not told so has no connection and can be killed."""


class Leave(Struct, frozen=True, tag="leave"):
    """Down: finish what was begun and exit; with ``drain`` take what is still queued first."""

    drain: bool


class Hurry(Struct, frozen=True, tag="hurry"):
    """Down: exit now; only the request that runs is finished."""


class Reopen(Struct, frozen=True, tag="reopen"):
    """Down: open the log files again."""


Up = Ready | BootFailure | Retiring | Tired | Spent | Stuck | Dumped
Down = Serve | Look | Leave | Hurry | Reopen

UP: Codec[Up] = Codec(Up)
DOWN: Codec[Down] = Codec(Down)


def boot_failure(error: str, traceback: str, exit_code: int) -> BootFailure:
    """Make a BootFailure whose texts can be sent: cut, and without lone surrogates."""
    return BootFailure(_sendable(error), _sendable(traceback), exit_code)


def _sendable(text: str) -> str:
    text = text if len(text) <= _TEXT_LIMIT else "...\n" + text[-_TEXT_LIMIT:]
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates have no msgpack form
