"""What the supervisor is told: facts of the world (past tense) and wishes of the operator.

Frozen records, no behaviour. A child is named by its id, a serial that is never reused; pids stay in the hands.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of the settings that the supervisor plans by; durations in seconds, 0 = unbounded."""

    size: int  # workers wanted
    surge: int = 1  # live processes allowed above size while replacing
    boot_timeout_s: float = 60.0
    grace_s: float = 30.0
    reload_retries: int = 2
    reload_timeout_s: float = 600.0


# Facts


@dataclass(frozen=True, slots=True)
class Forked:
    """The kernel made the child; it boots now."""

    id: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The kernel refused to make the child; no process exists."""

    id: int
    error: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The child said that it serves."""

    id: int


@dataclass(frozen=True, slots=True)
class BootFailed:
    """The child said why it cannot serve; it exits next."""

    id: int
    error: str  # one line
    traceback: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class WorkerRetiring:
    """The child said that it leaves by itself: it drains and exits."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The child was reaped: ``code`` is its exit status, or ``signal`` what ended it (0: none)."""

    id: int
    code: int
    signal: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """One worker whose request has passed its deadline."""

    id: int
    age_s: float  # since the request began
    request: str  # "GET /path"


@dataclass(frozen=True, slots=True)
class Ticked:
    """The hands looked at the clock and the scoreboard; ``overslept``: this loop itself stood still."""

    overdue: tuple[Overdue, ...] = ()
    overslept: bool = False


@dataclass(frozen=True, slots=True)
class ConfigLoaded:
    """New settings were read and are good."""

    policy: Policy
    resize: bool = False  # the file's own number of workers changed: it wins over TTIN and TTOU


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """New settings could not be read or are bad; the old ones stay."""

    error: str


# Wishes


@dataclass(frozen=True, slots=True)
class Reload:
    """New settings and a new generation, rolling."""


@dataclass(frozen=True, slots=True)
class Scale:
    """More or fewer workers: ``by`` a difference, at least one stays."""

    by: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop gracefully; asked again, it is Stop."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop quickly."""


@dataclass(frozen=True, slots=True)
class ReopenLogs:
    """Open the log files anew by their paths."""


Fact = (
    Forked
    | ForkFailed
    | WorkerReady
    | BootFailed
    | WorkerRetiring
    | WorkerExited
    | Ticked
    | ConfigLoaded
    | ConfigRejected
)
Wish = Reload | Scale | Drain | Stop | ReopenLogs
Event = Fact | Wish
