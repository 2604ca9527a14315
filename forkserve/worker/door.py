"""One listener as a worker sees it: the template of its requests, and what comes before the first of them.

Here are the doors of plain HTTP; those of other protocols stand in worker/gateway.py, which is loaded for them.
"""

import _socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.net.address import GATEWAYS, HTTP
from forkserve.net.listener import Listener, hear_again
from forkserve.protocol.http import Decoder
from forkserve.protocol.types import FORWARDED, UNBELIEVED, BodyMaker, Environ, Limits
from forkserve.unix.spool import Spool
from forkserve.worker.outlet import peer_name
from forkserve.wsgi.environ import connection_template, listener_template
from forkserve.wsgi.input import BodyMakerFor

if TYPE_CHECKING:
    import ssl

    from forkserve.net.trust import Trust
    from forkserve.worker.connection import Connection


def protocol_of(name: str) -> str:
    """Tell what is spoken at a listener of this name."""
    protocol, mark, _ = name.partition("://")
    return protocol if mark and protocol in GATEWAYS else HTTP


def kind_of_door(listener: Listener) -> "type[Door]":
    """Return the kind of door that speaks the listener's protocol."""
    if protocol_of(listener.name) == HTTP:
        return Door
    from forkserve.worker.gateway import GatewayDoor  # lazy: most services speak HTTP alone

    return GatewayDoor


_MOST_BYTES = 1 << 20  # of a request line or a field, where the settings say 0


class Trusted:
    """A list of peers as the settings have it; its library is loaded only for a peer that is not spelled out in it."""

    has_told = False  # in this process, of somebody who is not on it

    def __init__(self, text: str) -> None:
        self._text = text
        words = [word.strip() for word in text.split(",")]
        self.spelled = {word for word in words if word not in ("", "*", "unix", "none") and "/" not in word}
        # Nobody beside those who are spelled out could be meant, in whatever spelling.
        self._is_exact = all(word in self.spelled or word in ("", "unix") for word in words) and not any(
            ":" in word and word != "::1" for word in self.spelled
        )
        self._trust: Trust | None = None

    @property
    def trust(self) -> "Trust":
        """The whole list."""
        if self._trust is None:
            from forkserve.net.trust import Trust  # lazy: ipaddress is 3 ms of a start

            self._trust = Trust(self._text)
        return self._trust

    def believes(self, peer: object) -> bool:
        """Whether this peer, as accept gives it, is on the list."""
        if isinstance(peer, tuple):
            if peer[0] in self.spelled:
                return True
            if self._is_exact and "::ffff:" not in peer[0]:
                return False
        return self.trust.believes(peer)


HAS_WORDS = FORWARDED | UNBELIEVED  # flags of a request


def hear_words(environ: Environ, flags: int, forwarders: Trusted, peer: object) -> None:
    """Let a believed proxy's words replace what the connection says of the client. Anybody else's stay what they are:
    fields, for the app to make of them what it likes. That is said once, as it may be a proxy that nobody has named."""
    if flags & FORWARDED:
        from forkserve.wsgi.forwarded import apply  # lazy: ipaddress is 3 ms of a start

        apply(environ, forwarders.trust)
    elif not Trusted.has_told:
        Trusted.has_told = True
        log.info("proxy is not believed before forwarded_allow_ips names it", peer=peer_name(peer))


class Door:
    """What every connection that was accepted at one listener has in common."""

    def __init__(
        self,
        listener: Listener,
        settings: Settings,
        context: "ssl.SSLContext | None",
        kind: "type[Connection]",
        *,
        generation: int,
        slot: int,
        extend_deadline: Callable[[float], None],
        spool: Spool,
    ) -> None:
        self.listener = listener
        self.kind = kind  # of its connections
        self.name = listener.name
        self.family = listener.socket.family
        self.context = context
        # Where the end of a connection can be that of a body, and a unix socket would know no other end.
        self.holds = self.family == _socket.AF_UNIX
        self.socket: type[_socket.socket] = _holding() if self.holds else _socket.socket
        self.is_plain = context is None  # else its connections cannot move: the state of TLS is in memory
        self.proxy_mode = "" if settings.proxy_protocol == "off" else settings.proxy_protocol
        self.has_opening = bool(context is not None or self.proxy_mode)
        self.proxies = Trusted(settings.proxy_allow_ips)
        self.forwarders = Trusted(settings.forwarded_allow_ips)
        self.template = listener_template(
            *listener.server, generation=generation, slot=slot, extend_deadline=extend_deadline
        )
        # Both are called for each connection, and are no methods for that: a frame of Python costs 0.1 us.
        self.accept: Callable[[], tuple[int, Any]] = listener.socket._accept  # type: ignore[attr-defined]  # no wrapper
        self.template_for: Callable[[object], Environ] = partial(connection_template, self.template)
        self.template["wsgi.multithread"] = settings.threads > 1
        for name, value in settings.env:  # the deployer's pairs; none may look like a part of the request
            if not name.startswith(("HTTP_", "CONTENT_")):
                self.template.setdefault(name, value)
        self._header_map = settings.header_map
        self._limits = Limits(
            settings.limit_request_line or _MOST_BYTES,
            settings.limit_request_fields,
            settings.limit_request_field_size or _MOST_BYTES,
        )
        self._make_body = _body_maker(settings, spool)

    def accept_late(self) -> None:
        """Accept as one must where the listener is shut: a client may have been on its way. See Listener.shut."""
        if self.family == _socket.AF_UNIX:
            return
        accept = self.accept

        def accept_and_hear() -> tuple[int, Any]:
            fd, peer = accept()
            sock = _socket.socket(self.family, _socket.SOCK_STREAM, 0, fd)
            hear_again(sock)
            sock.detach()
            return fd, peer

        self.accept = accept_and_hear

    def admits(self, peer: object) -> bool:
        """Whether this peer, as accept gives it, may come at all."""
        return True

    def fileno(self) -> int:
        """The listener's descriptor, for epoll."""
        return self.listener.socket.fileno()

    def decoder_for(self, peer: object, template: Environ) -> Decoder:
        """What reads the requests of one connection."""
        # Who is spelled out in the list is the most usual case: a call less. By position: names cost 0.1 us.
        believed = (isinstance(peer, tuple) and peer[0] in self.forwarders.spelled) or self.forwarders.believes(peer)
        return Decoder(template, self._limits, self._make_body, believed, self._header_map)


def _holding() -> type[_socket.socket]:
    from forkserve.worker.holding import HoldingSocket  # lazy: for unix sockets alone

    return HoldingSocket


def _body_maker(settings: Settings, spool: Spool) -> BodyMaker:
    if not settings.stream_request_body:
        return BodyMakerFor(settings.limit_request_body, spool)
    from forkserve.wsgi.streaming import StreamMakerFor  # lazy: it is an option

    return StreamMakerFor(settings.limit_request_body)
