"""What comes before the first request: the PROXY header, then the TLS handshake. Runs in a worker, driven by its loop.

An address is configured to want them; a connection that begins otherwise is closed. Only when both are through does the
connection begin to read requests.
"""

import _socket
from select import EPOLLIN, EPOLLOUT
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.log import log
from forkserve.protocol.types import Environ, Refused
from forkserve.worker.outlet import NOW, peer_name
from forkserve.worker.state import OPENING

if TYPE_CHECKING:
    from forkserve.protocol.proxy import PrefaceReader
    from forkserve.worker.connection import Connection
    from forkserve.worker.door import Door
    from forkserve.worker.loop import Loop
    from forkserve.worker.tls import TlsTransport

_PREFACE_BYTES = 4096


def _reader(mode: str) -> "PrefaceReader":
    from forkserve.protocol.proxy import PrefaceReader  # lazy: few services stand behind such a proxy

    return PrefaceReader(mode)


class Opening:
    """The opening of one connection."""

    def __init__(self, connection: "Connection", door: "Door", loop: "Loop", template: Environ) -> None:
        self._connection = connection
        self._door = door
        self._loop = loop
        self._template = template
        self._reader = None if not door.proxy_mode else _reader(door.proxy_mode)
        self._transport: TlsTransport | None = None
        self._rest = b""  # of what came with the PROXY header
        self._waits_for = EPOLLIN
        self._has_port = door.family != _socket.AF_UNIX
        connection.state = OPENING
        connection.deadline = monotonic() + loop.handshake_timeout_s

    def on_ready(self) -> None:
        """Go on: something has arrived, or there is room."""
        try:
            if self._reader is not None and not self._read_preface(self._reader):
                return
            if self._door.context is not None and not self._shake_hands():
                return
        except BlockingIOError:
            return
        except (Refused, OSError) as error:
            self._give_up(str(error))
            return
        self._connection.begin(self._template, self._transport)
        if self._rest:
            self._connection.take(self._rest)
        elif self._transport is not None:
            self._connection.on_readable_tls()  # it may have come along with the handshake, where epoll shows nothing

    def _read_preface(self, reader: "PrefaceReader") -> bool:
        connection = self._connection
        if not self._door.proxies.believes(connection.peer):
            raise Refused("403 Forbidden", "a PROXY header from a peer that is not in proxy_allow_ips")
        data = connection.sock.recv(_PREFACE_BYTES, NOW)
        if not data:
            raise Refused("400 Bad Request", "the connection ended before its PROXY header")
        preface = reader.feed(data)
        if preface is None:
            return False
        preface.apply(self._template)
        self._has_port = self._has_port or preface.server is not None
        self._spell_port()
        before = self._door.template
        connection.facts = {
            key: value for key, value in self._template.items() if isinstance(value, str) and before.get(key) != value
        }
        if preface.is_proxied:
            connection.peer = preface.client or ""
        self._rest = preface.rest
        self._reader = None
        return True

    def _shake_hands(self) -> bool:
        from forkserve.worker.tls import HandshakeFailed, TlsTransport

        connection = self._connection
        transport = self._transport
        if transport is None:
            assert self._door.context is not None
            assert isinstance(connection.sock, _socket.socket)
            transport = self._transport = TlsTransport(connection.sock, self._door.context, self._rest)
            connection.sock = transport
            self._rest = b""
        try:
            step = transport.handshake()
        except HandshakeFailed as error:
            log.info("no TLS", reason=str(error), peer=peer_name(connection.peer))
            self._wait_for(EPOLLIN)
            connection.begin(self._template, transport)  # to nothing but its end
            connection.linger()
            return False
        if step == "done":
            self._template |= transport.environ()
            self._template["wsgi.url_scheme"] = "https"
            self._spell_port()
            self._wait_for(EPOLLIN)
            return True
        self._wait_for(EPOLLIN if step == "read" else EPOLLOUT)
        return False

    def _spell_port(self) -> None:
        """A unix socket has no port: say that of the scheme, as its URLs leave it out."""
        if not self._has_port and self._template["wsgi.url_scheme"] == "https":
            self._template["SERVER_PORT"] = "443"

    def _wait_for(self, events: int) -> None:
        if events != self._waits_for:
            self._waits_for = events
            self._loop.epoll.modify(self._connection.fd, events)

    def _give_up(self, reason: str) -> None:
        log.info("connection refused", reason=reason, peer=peer_name(self._connection.peer))
        self._connection.close()
