"""Where a connection stands. Every state but RUNNING has a deadline, which the loop looks at once a second."""

from enum import Enum


class State(Enum):
    """The states of a connection."""

    OPENING = "opening"  # the PROXY header or the TLS handshake is under way
    IDLE = "idle"  # nothing of a (next) request has arrived
    HEAD = "head"
    BODY = "body"
    RUNNING = "running"
    WRITING = "writing"  # the app is done; the client has not taken everything
    LINGERING = "lingering"  # all is said; waiting for the client to close


POOLED = "forkserve-"  # how the names of our threads for the app begin

# An attribute of an Enum class costs twice a global's look-up.
OPENING, IDLE, HEAD, BODY, RUNNING, WRITING, LINGERING = State
