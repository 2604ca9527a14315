"""What the master and a child say to each other: typed messages, one per datagram of their channel.

The door of msgspec. Knows no socket. Up: Ready, BootFailure, Retiring. Down: Leave, Hurry, Reopen.
"""

import msgspec

# A datagram must fit into the channel's send buffer (about 200 KiB by default); the end of a traceback is what tells.
_TEXT_LIMIT = 32 * 1024


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Up: I serve."""


class BootFailure(msgspec.Struct, frozen=True, tag="boot-failure"):
    """Up: I cannot serve, and exit."""

    error: str
    traceback: str
    exit_code: int


class Retiring(msgspec.Struct, frozen=True, tag="retiring"):
    """Up: I leave by myself."""

    reason: str


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Down: finish what was begun and exit; with ``drain`` take what is still queued first."""

    drain: bool


class Hurry(msgspec.Struct, frozen=True, tag="hurry"):
    """Down: exit now; only the request that runs is finished."""


class Reopen(msgspec.Struct, frozen=True, tag="reopen"):
    """Down: open the log files again."""


Up = Ready | BootFailure | Retiring
Down = Leave | Hurry | Reopen

_encoder = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)


def encode(message: Up | Down) -> bytes:
    """Spell one message."""
    if isinstance(message, BootFailure):
        message = BootFailure(_sendable(message.error), _sendable(message.traceback), message.exit_code)
    return _encoder.encode(message)


def _sendable(text: str) -> str:
    text = text if len(text) <= _TEXT_LIMIT else "...\n" + text[-_TEXT_LIMIT:]
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates have no msgpack form


def decode_up(raw: bytes) -> Up | None:
    """Read a child's message; None if it is none of ours (a child's memory may be anything)."""
    try:
        return _up.decode(raw)
    except msgspec.MsgspecError:
        return None


def decode_down(raw: bytes) -> Down | None:
    """Read the master's message; None if it is none we know."""
    try:
        return _down.decode(raw)
    except msgspec.MsgspecError:
        return None
