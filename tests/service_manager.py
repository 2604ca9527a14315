"""The service manager that a test plays: it listens where NOTIFY_SOCKET says. Source: sd_notify(3)."""

import queue
import socket
import threading
from pathlib import Path

_PATIENCE_S = 30.0


class NotifySocket:
    """The service manager's end of sd_notify; listens all the time, for its queue is short (max_dgram_qlen)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._heard: list[dict[str, str]] = []
        self._marks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        while datagram := self._socket.recv(65536):
            if datagram == b"mark":
                self._marks.put(datagram)
            else:
                self._heard.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))

    def _send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(datagram, str(self.path))

    def heard(self) -> list[dict[str, str]]:
        """Every datagram that was sent until now, as its fields."""
        self._send(b"mark")
        self._marks.get(timeout=_PATIENCE_S)
        return list(self._heard)

    def forget(self) -> None:
        """Begin anew."""
        self.heard()
        self._heard.clear()

    def close(self) -> None:
        """Hear no more."""
        self._send(b"")
        self._listening.join()
        self._socket.close()
