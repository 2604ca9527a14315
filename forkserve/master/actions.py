"""What the supervisor decides: each action is done once by the hands, and its result is the next event.

Frozen records, no behaviour.
"""

from enum import Enum

from forkserve.typed import Struct


class Kind(Enum):
    """What a child is for."""

    WORKER = "worker"
    LOADER = "loader"


class Spawn(Struct, frozen=True):
    """Fork a child; answered by Forked or ForkFailed, once."""

    id: int
    kind: Kind
    slot: int
    generation: int


class Retire(Struct, frozen=True):
    """Ask a child to finish and exit; with ``drain`` it takes the connections still queued first."""

    id: int
    drain: bool


class Hurry(Struct, frozen=True):
    """Ask a child to leave now: it ends what waits, idle or half-read, and starts nothing."""

    id: int


class Dump(Struct, frozen=True):
    """Make a child write every thread's stack and, if it still can, answer its client with 504 and exit."""

    id: int
    deadline: float = 0.0  # of the request that is overdue; 0: it is about the child itself


class Cancel(Struct, frozen=True):
    """Make a child that boots end: what its import has started ends with it."""

    id: int


class Kill(Struct, frozen=True):
    """SIGKILL a child."""

    id: int


class LoadConfig(Struct, frozen=True):
    """Read the settings again; answered by ConfigLoaded or ConfigRejected."""


class ReopenLogFiles(Struct, frozen=True):
    """Reopen the logs here and ask every child to do so."""


class Notify(Struct, frozen=True):
    """Tell the service manager; the fields become lines of one sd_notify datagram."""

    status: str
    ready: bool = False
    reloading: bool = False
    stopping: bool = False


class ReloadEnded(Struct, frozen=True):
    """Answer whoever waits for a reload: the wishes above number ``after`` and up to ``upto`` have ended like this."""

    after: int
    upto: int
    generation: int  # that is wanted now
    error: str = ""  # one line; empty: it succeeded
    traceback: str = ""


class TryTarget(Struct, frozen=True):
    """Run the program that an upgrade would become, to hear whether it understands what it would be handed; answered
    by TargetAccepted or TargetRefused, once, unless DropTarget comes first."""


class DropTarget(Struct, frozen=True):
    """Kill what TryTarget runs; nobody waits for its answer."""


class Exec(Struct, frozen=True):
    """Become that program, by exec of ourselves. There the mind resumes; where it fails, ExecFailed says so."""


class UpgradeEnded(Struct, frozen=True):
    """Answer whoever waits for an upgrade: it failed; ``refused``: it was never begun, and one that is goes on."""

    error: str  # one line
    detail: str = ""
    refused: bool = False


class ShutDoors(Struct, frozen=True):
    """Let no new connection queue up: the service stops."""


class Settle(Struct, frozen=True):
    """A reload has ended: close every listener that this generation does not use."""

    generation: int


class Say(Struct, frozen=True):
    """One line of the error log: a sentence, then key=value; ``id`` lets the hands add the pid."""

    level: str  # debug, info, warning, error, critical
    sentence: str
    fields: tuple[tuple[str, object], ...] = ()
    id: int = 0
    detail: str = ""  # lines that follow, such as a traceback


class Exit(Struct, frozen=True):
    """Leave the loop: nothing lives any more."""

    code: int


Action = (
    Spawn
    | Retire
    | Hurry
    | Dump
    | Cancel
    | Kill
    | LoadConfig
    | ReopenLogFiles
    | Notify
    | ReloadEnded
    | Settle
    | TryTarget
    | DropTarget
    | Exec
    | UpgradeEnded
    | ShutDoors
    | Say
    | Exit
)
