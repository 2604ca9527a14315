"""What the supervisor is told: facts of the world (past tense) and wishes of the operator.

Frozen records, no behaviour. A child is named by its id, a serial that is never reused; pids stay in the hands.
"""

from forkserve.typed import Struct


class Policy(Struct, frozen=True):
    """The part of the settings that the supervisor plans by; durations in seconds, 0 = unbounded."""

    size: int  # workers wanted
    surge: int = 1  # live processes allowed above size while replacing
    surge_percent: int = 0  # or this part of the size, rounded up, if that is more
    retiring: int = 0  # live processes that only finish, beside those
    retiring_percent: int = 100  # or this part of the size, rounded up, if that is more
    boot_timeout_s: float = 60.0
    grace_s: float = 30.0
    reload_retries: int = 2
    reload_timeout_s: float = 600.0
    reload_settle_s: float = 1.0  # how long the first of a new generation has served before an old one leaves
    timeout_s: float = 30.0  # how long a worker may be stopped (SIGSTOP) before it is replaced
    drain_delay_s: float = 0.0  # how long a graceful stop goes on accepting


# Facts


class Forked(Struct, frozen=True):
    """The kernel made the child; it boots now."""

    id: int


class ForkFailed(Struct, frozen=True):
    """The kernel refused to make the child; no process exists."""

    id: int
    error: str


class WorkerReady(Struct, frozen=True):
    """The child said that it serves."""

    id: int


class BootFailed(Struct, frozen=True):
    """The child said why it cannot serve; it exits next."""

    id: int
    error: str  # one line
    traceback: str
    exit_code: int


class WorkerRetiring(Struct, frozen=True):
    """The child said that it leaves by itself: it drains and exits; ``told``: because somebody else told it to."""

    id: int
    reason: str
    told: bool = False


class WorkerTired(Struct, frozen=True):
    """The child said that it should be replaced (requests, age, memory); it serves on until it is."""

    id: int
    reason: str


class WorkerSpent(Struct, frozen=True):
    """The child, found overdue, has answered that request and cannot end its thread: it takes nobody new, lets its
    other requests end and exits."""

    id: int


class WorkerTooBig(Struct, frozen=True):
    """The child uses more memory than any worker may."""

    id: int
    rss_bytes: int
    limit_bytes: int


class WorkerStopped(Struct, frozen=True):
    """Somebody stopped the child (SIGSTOP)."""

    id: int


class WorkerContinued(Struct, frozen=True):
    """The child runs again (SIGCONT)."""

    id: int


class WorkerExited(Struct, frozen=True):
    """The child was reaped: ``code`` is its exit status, or ``signal`` what ended it (0: none)."""

    id: int
    code: int
    signal: int
    began: bool = False  # it had begun a request
    served: bool = False  # it, or one of its generation that lives, has ended one


class Overdue(Struct, frozen=True):
    """One worker whose request has passed its deadline."""

    id: int
    age_s: float  # since the request began
    request: str  # "GET /path"
    deadline: float = 0.0  # as its row has it


class Ticked(Struct, frozen=True):
    """The hands looked at the clock and the scoreboard; ``overslept``: this loop itself stood still, and heard nobody
    for ``deaf_s``, or a little less."""

    overdue: tuple[Overdue, ...] = ()
    overslept: bool = False
    deaf_s: float = 0.0


class ConfigLoaded(Struct, frozen=True):
    """New settings were read and are good."""

    policy: Policy
    resize: bool = False  # the file's own number of workers changed: it wins over TTIN and TTOU


class ConfigRejected(Struct, frozen=True):
    """New settings could not be read or are bad; the old ones stay."""

    error: str


class TargetAccepted(Struct, frozen=True):
    """The program that an upgrade would become understands what it would be handed."""


class TargetRefused(Struct, frozen=True):
    """It does not, or cannot be run at all."""

    error: str  # one line
    output: str = ""  # what it wrote


class ExecFailed(Struct, frozen=True):
    """The kernel refused the exec, or what leads to it failed; this process goes on as it was."""

    error: str


class Resumed(Struct, frozen=True):
    """This process has become another program: what an earlier mind knew was handed over."""


# Wishes


class Reload(Struct, frozen=True):
    """New settings and a new generation, rolling."""


class Upgrade(Struct, frozen=True):
    """Become what is installed now, under the same PID, and reload."""


class Scale(Struct, frozen=True):
    """More or fewer workers: ``by`` a difference, or ``to`` a number; at least one stays."""

    by: int = 0
    to: int = 0


class Drain(Struct, frozen=True):
    """Stop gracefully; asked again, it is Stop."""


class Stop(Struct, frozen=True):
    """Stop quickly."""


class ReopenLogs(Struct, frozen=True):
    """Open the log files anew by their paths."""


Fact = (
    Forked
    | ForkFailed
    | WorkerReady
    | BootFailed
    | WorkerRetiring
    | WorkerTired
    | WorkerSpent
    | WorkerTooBig
    | WorkerStopped
    | WorkerContinued
    | WorkerExited
    | Ticked
    | ConfigLoaded
    | ConfigRejected
    | TargetAccepted
    | TargetRefused
    | ExecFailed
    | Resumed
)
Wish = Reload | Upgrade | Scale | Drain | Stop | ReopenLogs
Event = Fact | Wish
