"""The seam between a response and its connection: where the bytes go. Runs in a worker; knows no socket."""

from typing import Any, Protocol

from forkserve.errors import ForkserveError

RESTART_S = 0.25  # how often restart_clock is called at most, while one part follows the other
_LONGEST_CHAIN = 100  # of causes; an app can make a circle of them


class PeerGone(ForkserveError):
    """The client has left: there is nobody to answer."""


class BodyBroken(OSError):
    """No more of a body that the app reads while it arrives will come: the client was told why, where it is there."""


def is_of_body(error: BaseException | None) -> bool:
    """Whether an error of the app's comes of a BodyBroken, however it was wrapped."""
    for _ in range(_LONGEST_CHAIN):
        if error is None or isinstance(error, BodyBroken):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, BodyBroken)


class Out(Protocol):
    """Where a response's bytes go. Both raise PeerGone."""

    def send(self, data: bytes, /) -> None:
        """Give ``data`` to the kernel; what it does not take now is kept and written later."""

    def send_last(self, data: bytes, /) -> None:
        """The same for all that is still to come: the connection is closed as soon as the app has returned."""

    def send_both(self, head: bytes, data: bytes, /) -> None:
        """The same for two pieces at once."""

    def send_file(self, head: bytes, fd: int, offset: int, count: int, /) -> None:
        """Give ``head`` and then a part of an open file, which may be closed as soon as this returns."""

    def guard_end(self) -> None:
        """The end of the connection will be the end of the body: until all has left, let any end look like a cut."""

    def release_end(self) -> None:
        """All has left: the end may look like one."""

    def flush_meanwhile(self) -> None:
        """The app goes on without a piece: have what is kept written meanwhile."""

    def restart_clock(self) -> None:
        """The app has given a part of its response, and goes on: its time for the next part begins."""


class _Ended:
    """Where the bytes of a response go that has ended: nowhere, since the connection may be at its next one."""

    def send(self, *given: object) -> Any:
        """Refuse them. Raises PeerGone."""
        raise PeerGone("the response has ended")

    send_last = send_both = send_file = take_encoder = send

    def guard_end(self) -> None:
        """There is none any more."""

    release_end = flush_meanwhile = restart_clock = guard_end


ENDED = _Ended()
FORKED = _Ended()  # the same in a process that the app has forked: the response is the worker's to give
