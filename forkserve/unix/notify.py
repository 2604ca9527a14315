"""sd_notify: what the service manager is told, one datagram per fact. Only the master notifies.

The variable NOTIFY_SOCKET is taken out of the environment at start, so that no child can speak in our name.
Nothing here waits or raises: a manager that does not listen is no reason to stop serving. What a busy one does not
take yet is kept: a lost READY=1 would end us. Source: sd_notify(3).
"""

import os
import socket
import time
from collections import deque

_MOST_KEPT = 64  # the last ones are those that count


class Notifier:
    """The way to the service manager; without one, every call does nothing."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._kept: deque[bytes] = deque(maxlen=_MOST_KEPT)
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> "Notifier":
        """Take NOTIFY_SOCKET out of the environment and use it."""
        return cls(os.environ.pop("NOTIFY_SOCKET", ""))

    def send(self, *, status: str, ready: bool = False, reloading: bool = False, stopping: bool = False) -> None:
        """Send one datagram with the fields that are set, after those that are still kept."""
        if self._socket is None:
            return
        lines = ["STATUS=" + " ".join(status.splitlines())]  # an app's words must not become fields
        if reloading:
            # In one datagram, or a newer manager waits for ever: systemd.service(5), Type=notify-reload.
            lines = ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", *lines]
        if ready:
            lines = ["READY=1", *lines]
        if stopping:
            lines = ["STOPPING=1", *lines]
        self._kept.append("\n".join(lines).encode("utf-8", "backslashreplace"))
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something is kept that ``flush`` should try to send again, soon."""
        return bool(self._kept)

    def flush(self) -> None:
        """Send what is kept, as far as the manager's queue has room (net.unix.max_dgram_qlen: 10 by default)."""
        while self._kept and self._socket is not None:
            try:
                self._socket.sendto(self._kept[0], self._address)
            except BlockingIOError:
                return
            except OSError:
                pass  # nobody listens there
            self._kept.popleft()

    def close(self) -> None:
        """Close the socket, as a new child does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._kept.clear()
