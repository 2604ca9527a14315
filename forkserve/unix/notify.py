"""sd_notify: what the service manager is told, one datagram per fact. Only the master notifies.

Its variables are taken out of the environment at start, so that no child can speak in our name. Nothing here waits or
raises: a manager that does not listen is no reason to stop serving. What a busy one does not take yet is kept: a lost
READY=1 would end us. Sources: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

import os
import socket
import time
from array import array
from collections import deque

_MOST_KEPT = 64  # the last ones are those that count
_EXTEND_S = 30.0  # how much longer a manager is asked to wait for something that takes its time
_EXTEND_EVERY_S = 5.0
_LONGEST_NAME = 255  # of a stored descriptor


class Notifier:
    """The way to the service manager; without one, every call does nothing."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._kept: deque[tuple[bytes, int]] = deque(maxlen=_MOST_KEPT)  # with a descriptor of ours to store, or -1
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> "Notifier":
        """Take NOTIFY_SOCKET out of the environment and use it."""
        os.environ.pop("FDSTORE", None)
        return cls(os.environ.pop("NOTIFY_SOCKET", ""))

    def send(self, *, status: str, ready: bool = False, reloading: bool = False, stopping: bool = False) -> None:
        """Send one datagram with the fields that are set, after those that are still kept."""
        lines = ["STATUS=" + " ".join(status.splitlines())]  # an app's words must not become fields
        if reloading:
            # In one datagram, or a newer manager waits for ever: systemd.service(5), Type=notify-reload.
            lines = ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", *lines]
        if ready:
            lines = ["READY=1", *lines]
        if stopping:
            lines = ["STOPPING=1", *lines]
        self._send(lines)

    def store(self, name: str, fd: int) -> None:
        """Have the manager keep a copy of a descriptor, which our successor gets if we crash."""
        if self._socket is not None and len(name) <= _LONGEST_NAME:
            try:
                copy = os.dup(fd)  # what is kept may be closed here before it can be sent
            except OSError:
                return  # none is left: serving without a copy is better than not at all
            self._send(["FDSTORE=1", f"FDNAME={name}"], copy)

    def unstore(self, name: str) -> None:
        """Have it closed there."""
        self._send(["FDSTOREREMOVE=1", f"FDNAME={name}"])

    def extend(self) -> None:
        """Ask for more time to start, reload or stop in."""
        self._send([f"EXTEND_TIMEOUT_USEC={round(_EXTEND_S * 1e6)}"])

    def live(self) -> None:
        """Show that the loop runs."""
        self._send(["WATCHDOG=1"])

    @property
    def enabled(self) -> bool:
        """Whether there is a manager."""
        return self._socket is not None

    @property
    def waiting(self) -> bool:
        """Whether something is kept that ``flush`` should try to send again, soon."""
        return bool(self._kept)

    def flush(self) -> None:
        """Send what is kept, as far as the manager's queue has room (net.unix.max_dgram_qlen: 10 by default)."""
        while self._kept and self._socket is not None:
            datagram, fd = self._kept[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))] if fd >= 0 else []
            try:
                self._socket.sendmsg([datagram], rights, 0, self._address)
            except BlockingIOError:
                return
            except OSError:
                pass  # nobody listens there
            self._drop()

    def close(self) -> None:
        """Close the socket, as a new child does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            while self._kept:
                self._drop()

    def _send(self, lines: list[str], fd: int = -1) -> None:
        if self._socket is not None:
            if len(self._kept) == _MOST_KEPT:
                self._drop()
            self._kept.append(("\n".join(lines).encode("utf-8", "backslashreplace"), fd))
            self.flush()

    def _drop(self) -> None:
        _, fd = self._kept.popleft()
        if fd >= 0:
            os.close(fd)


class Pulse:
    """What is said again and again: that the loop runs (WATCHDOG=1), and that something takes its time."""

    def __init__(self, notifier: Notifier) -> None:
        """Take WATCHDOG_USEC and WATCHDOG_PID out of the environment."""
        interval, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        ours = interval.isdecimal() and pid in ("", str(os.getpid()))
        self._every_s = int(interval) / 2e6 if ours else 0.0
        self._notifier = notifier
        self._live_at = 0.0
        self._extend_at = 0.0

    def due(self, busy: bool) -> float | None:
        """Return the moment of the next beat; ``busy``: starting, reloading or stopping."""
        moments = [self._live_at] if self._every_s else []
        moments += [self._extend_at] if busy and self._notifier.enabled else []
        return min(moments, default=None)

    def beat(self, now: float, busy: bool, sane: bool) -> None:
        """Say what is due. A loop that overslept is not ``sane``: it must first make a round in time."""
        if self._every_s and sane and now >= self._live_at:
            self._live_at = now + self._every_s
            self._notifier.live()
        if not busy:
            self._extend_at = 0.0  # the next thing that takes its time says so at once
        elif now >= self._extend_at:
            self._extend_at = now + _EXTEND_EVERY_S
            self._notifier.extend()
