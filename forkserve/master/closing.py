"""The last moments of the TCP listeners of a service that stops: who is queued is served, who comes is refused at once.

A listener that is shut drops who comes, until nobody has it open any more, which is when the last worker ends. So the
master passes on who is queued and ends it for everybody: from then on newcomers are refused, and the port is free.
"""

from forkserve.log import log
from forkserve.net.listener import Listener, hear_again
from forkserve.unix.relay import Moved, Relay

_FOR_EVER = float("inf")
_SETTLE_S = 0.2  # so long a handshake over a network that has begun may take
_LOOK_S = 0.02


class Closing:
    """The listeners that are shut, and not ended yet."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._from = 0.0
        self._is_told = False

    def shut(self, listener: Listener, now: float) -> None:
        """Let nobody new in at this one, from now on."""
        trouble = listener.shut()
        if trouble and not self._is_told:
            self._is_told = True
            log.info("listener cannot be shut before its end; the last to come may be reset", cause=trouble)
        if listener.address.is_tcp:
            self._from = now + _SETTLE_S
            self._listeners.append(listener)

    def next_look(self, now: float) -> float | None:
        """When to call ``look``; None: not at all."""
        return max(self._from, now + _LOOK_S) if self._listeners else None

    def look(self, now: float, relay: Relay) -> None:
        """Give who is queued to the workers, as far as there is room, and end the listeners whose queues are empty."""
        if now >= self._from:
            for listener in self._listeners:
                pass_on(listener, listener.name, relay)
            self._listeners = [listener for listener in self._listeners if not listener.end_if_empty()]


def pass_on(listener: Listener, name: str, relay: Relay) -> int:
    """Give who is queued to the workers, as if they had come to the door of this name; return how many. Those for whom
    the relay has no room are reset when the listener ends."""
    count = 0
    while relay.has_room():
        try:
            connection, peer = listener.socket.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # nobody is left, or there is no descriptor for more
            break
        hear_again(connection)
        with connection:
            known = peer[:2] if isinstance(peer, tuple) else None
            moved = Moved(name, connection.family, known, True, _FOR_EVER, b"", {}, unopened=True)
            count += relay.put(connection.fileno(), moved)
    return count
