"""How many descriptors a worker may need, and its limit, RLIMIT_NOFILE. The master reckons, a worker raises its own.

Most systems give a soft limit of 1024 for the sake of select(2), and a hard one that is far above it, for programs that
know what they need. Source: setrlimit(2).
"""

import resource
from _thread import RLock

_PER_CONNECTION = 2  # its socket; and the file that it is sent, or that its body or response waits in
_OURS = 18  # the standard ones, log, access log, channel, epoll, signals, lifeline, relay and its reserves
_APPS = 64  # databases, files, programs that it runs
_UNLIMITED = resource.RLIM_INFINITY

# Held by what of ours opens a file at its leisure, and by who takes a connection of the relay: where descriptors are
# short, the one that was kept free for it must not go to another thread. The handler of an overdue request may come
# amid what holds it.
one_opens = RLock()


def needed(connections: int, threads: int, listeners: int) -> int:
    """Reckon how many descriptors one worker has open at most, as far as that can be known."""
    return _PER_CONNECTION * connections + threads + listeners + _OURS + _APPS


def hard_limit() -> int | None:
    """Return the most that this process and its children may allow themselves; None: there is no limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == _UNLIMITED else hard


def allow(count: int) -> None:
    """Raise this process's own limit to ``count``, or as far as it may; it is never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == _UNLIMITED else min(count, hard)
    if soft != _UNLIMITED and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # the machine's own limit (fs.nr_open) was lowered below it
