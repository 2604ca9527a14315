"""What the supervisor decides: each action is done once by the hands, and its result is the next event.

Frozen records, no behaviour.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a child is for."""

    WORKER = "worker"
    LOADER = "loader"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a child; answered by Forked or ForkFailed, once."""

    id: int
    kind: Kind
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask a child to finish and exit; with ``drain`` it takes the connections still queued first."""

    id: int
    drain: bool


@dataclass(frozen=True, slots=True)
class Hurry:
    """Ask a child to leave now: it ends what waits, idle or half-read, and starts nothing."""

    id: int


@dataclass(frozen=True, slots=True)
class Dump:
    """Make a child write every thread's stack and, if it still can, answer its client with 504 and exit."""

    id: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL a child."""

    id: int


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """Read the settings again; answered by ConfigLoaded or ConfigRejected."""


@dataclass(frozen=True, slots=True)
class ReopenLogFiles:
    """Reopen the logs here and ask every child to do so."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the service manager; the fields become lines of one sd_notify datagram."""

    status: str
    ready: bool = False
    reloading: bool = False
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """One line of the error log: a sentence, then key=value; ``id`` lets the hands add the pid."""

    level: str  # debug, info, warning, error, critical
    sentence: str
    fields: tuple[tuple[str, object], ...] = ()
    id: int = 0
    detail: str = ""  # lines that follow, such as a traceback


@dataclass(frozen=True, slots=True)
class Exit:
    """Leave the loop: nothing lives any more."""

    code: int


Action = Spawn | Retire | Hurry | Dump | Kill | LoadConfig | ReopenLogFiles | Notify | Say | Exit
