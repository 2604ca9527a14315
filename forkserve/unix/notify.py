"""sd_notify: what the service manager is told, one datagram per fact. Only the master notifies.

The variable NOTIFY_SOCKET is taken out of the environment at start, so that no child can speak in our name.
Nothing here waits or raises: a manager that does not listen is no reason to stop serving. Source: sd_notify(3).
"""

import os
import socket
import time


class Notifier:
    """The way to the service manager; without one, every call does nothing."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> "Notifier":
        """Take NOTIFY_SOCKET out of the environment and use it."""
        return cls(os.environ.pop("NOTIFY_SOCKET", ""))

    def send(self, *, status: str, ready: bool = False, reloading: bool = False, stopping: bool = False) -> None:
        """Send one datagram with the fields that are set."""
        if self._socket is None:
            return
        lines = [f"STATUS={status}"]
        if reloading:
            # In one datagram, or a newer manager waits for ever: systemd.service(5), Type=notify-reload.
            lines = ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", *lines]
        if ready:
            lines = ["READY=1", *lines]
        if stopping:
            lines = ["STOPPING=1", *lines]
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError:
            pass

    def close(self) -> None:
        """Close the socket, as a new child does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
