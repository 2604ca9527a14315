"""Raw clients for benchmarks/ends.py: requests as bytes in each protocol, and a client that notes how its answer ends.

A client either reads as fast as it can, or takes a first few bytes and waits until it is told to go on. Every wait is
bounded.
"""

import socket
import ssl
import threading
from struct import Struct

from benchmarks.end_cases import Protocol
from benchmarks.end_judge import End

_CONNECT_S = 20.0
_BUFFER_BYTES = 32 << 10  # of a client that waits: the rest stays with the server
_FIRST_BYTES = 1024
_LENGTHS = Struct("<H")
_RECORD = Struct(">BBHHBx")
_BEGIN, _PARAMS, _STDIN, _RESPONDER = 1, 4, 5, 1


def request(protocol: Protocol, query: str) -> bytes:
    """Spell `GET /?query`, asking for the connection to be closed afterwards."""
    if protocol.family == "http":
        close = "Connection: close\r\n" if protocol.version == "1.1" else ""
        return f"GET /?{query} HTTP/{protocol.version}\r\nHost: ended\r\n{close}\r\n".encode()
    variables = {
        "REQUEST_METHOD": "GET", "REQUEST_URI": f"/?{query}", "PATH_INFO": "/", "SCRIPT_NAME": "",
        "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "ended", "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "ended",
    }  # fmt: skip
    pairs = [(name.encode(), value.encode()) for name, value in variables.items()]
    match protocol.family:
        case "uwsgi":
            block = b"".join(_LENGTHS.pack(len(word)) + word for pair in pairs for word in pair)
            return b"\0" + _LENGTHS.pack(len(block)) + b"\0" + block
        case "scgi":
            block = b"".join(
                word + b"\0" for pair in [(b"CONTENT_LENGTH", b"0"), (b"SCGI", b"1"), *pairs] for word in pair
            )
            return b"%d:%b," % (len(block), block)
        case _:
            params = b"".join(bytes((len(name), len(value))) + name + value for name, value in pairs)
            begin = _record(_BEGIN, bytes((0, _RESPONDER, 0, 0, 0, 0, 0, 0)))
            return begin + _record(_PARAMS, params) + _record(_PARAMS, b"") + _record(_STDIN, b"")


def _record(kind: int, content: bytes) -> bytes:
    return _RECORD.pack(1, kind, 1, len(content), 0) + content


class Client:
    """One request in a thread of its own. `data` and `end` are what came of it, once `finish` has returned."""

    def __init__(
        self, place: str, sent: bytes, *, tls: bool = False, reads: bool = True, patience_s: float = 15.0
    ) -> None:
        self.data = b""
        self.end = End.OPEN
        self.begun = threading.Event()  # the answer has begun, or never will
        self._place = place
        self._sent = sent
        self._tls = tls
        self._patience_s = patience_s  # with an answer that does not go on
        self._may_read = threading.Event()
        self._reads = reads
        if reads:
            self._may_read.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Read to the end."""
        self._may_read.set()

    def finish(self, bound_s: float = 60.0) -> None:
        """Wait for the end."""
        self.go_on()
        self._thread.join(bound_s)

    def _run(self) -> None:
        pieces: list[bytes] = []
        try:
            with _connected(self._place, tls=self._tls, small=not self._reads) as sock:
                sock.sendall(self._sent)
                sock.settimeout(_CONNECT_S)
                pieces.append(sock.recv(_FIRST_BYTES))
                self.begun.set()
                self._may_read.wait(60.0)
                sock.settimeout(self._patience_s)
                while pieces[-1]:
                    pieces.append(sock.recv(1 << 18))
                self.end = End.CLOSED
        except TimeoutError:
            self.end = End.OPEN
        except ssl.SSLEOFError:
            self.end = End.RAGGED
        except OSError:
            self.end = End.RESET
        finally:
            self.data = b"".join(pieces)
            self.begun.set()


def _connected(place: str, *, tls: bool, small: bool) -> socket.socket:
    """Connect to HOST:PORT or a path."""
    host, colon, port = place.rpartition(":")
    sock = socket.socket(socket.AF_INET if colon else socket.AF_UNIX)
    try:
        sock.settimeout(_CONNECT_S)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        sock.connect((host, int(port)) if colon else place)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context.wrap_socket(sock, suppress_ragged_eofs=False)
    except BaseException:
        sock.close()
        raise
    return sock
