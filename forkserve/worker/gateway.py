"""Doors and connections behind a gateway: uwsgi, FastCGI, SCGI. Runs in a worker, driven by its loop.

A connection of this kind differs from one of HTTP in what its decoder says by itself (``replies``), in how an answer is
spelled (``take_encoder``) and in that bodies are always gathered. Who may come is decided at the door: a gateway is
believed in everything that it says of the client.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from forkserve.config.settings import Settings
from forkserve.log import log
from forkserve.net.listener import Listener
from forkserve.protocol.gateway import Decoder, Encoder
from forkserve.protocol.types import Environ, Refused
from forkserve.unix.spool import Spool
from forkserve.worker.connection import Connection
from forkserve.worker.door import Door, Trusted, protocol_of
from forkserve.worker.outlet import peer_name
from forkserve.worker.state import BODY, HEAD, IDLE, LINGERING
from forkserve.wsgi.gateway_response import GatewayResponse, refusal
from forkserve.wsgi.input import BodyMakerFor
from forkserve.wsgi.out import PeerGone

if TYPE_CHECKING:
    import ssl

_MOST_REFUSED = 100  # in a row, at one look at the door


class GatewayConnection(Connection):
    """One accepted connection that speaks a gateway's protocol.

    ``kind_of`` puts it before the connection of a threaded worker too, so what it adds to is ``super()``.
    """

    __slots__ = ()

    response_kind = GatewayResponse

    def take(self, data: bytes | memoryview) -> None:
        """Go on with bytes that have arrived."""
        super().take(data)
        self._say_what_is_left()

    def _take_rest(self, began: float) -> None:
        super()._take_rest(began)
        self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        if self.fd < 0 or not self._gateway.replies or self.state not in (IDLE, HEAD, BODY):
            return
        if self._say_replies() and self._backlog is not None:
            self._await_room(then_close=False)

    def take_encoder(self) -> Encoder:
        """Return the encoder of the request that is served."""
        encoder = self._gateway.take_encoder()
        assert encoder is not None, "there is one for each request"
        return encoder

    def close(self) -> None:
        """Close now; the app, should it run, meets PeerGone at its next byte."""
        if self.fd >= 0 and (self.state is HEAD or self.state is BODY):
            log.info("request broken off", protocol=self._protocol, peer=peer_name(self.peer))
        super().close()

    def pass_on(self) -> bool:
        """Give this connection to whichever worker is idle first; False: it stays here."""
        return self.state is IDLE and super().pass_on()

    @property
    def _gateway(self) -> Decoder:
        return cast("Decoder", self._decoder)

    @property
    def _protocol(self) -> str:
        return protocol_of(self._door.name)

    def _serve(self) -> None:
        if self._say_replies():
            super()._serve()

    def _say_replies(self) -> bool:
        """Send what the protocol answers by itself; False: the gateway has left."""
        replies = self._gateway.replies
        if replies:
            data = b"".join(replies)
            replies.clear()
            try:
                self.send(data)
            except PeerGone:
                return False
        return True

    def _await_more(self, got: int) -> None:
        """Part of a request has arrived, or the gateway has ended what can follow."""
        if self._gateway.must_close:
            if not self._say_replies():
                return
            if self._backlog is not None:
                self._await_room(then_close=True)
            else:
                self.linger()
        elif self._gateway.body_began:
            self._await_body(got)
        else:
            super()._await_more(got)

    def _refuse(self, refused: Refused) -> None:
        """Answer what cannot be served, and close."""
        log.info(
            "request refused",
            status=refused.status, reason=refused.reason, protocol=self._protocol, peer=peer_name(self.peer),
        )  # fmt: skip
        encoder = self._gateway.take_encoder()
        self.state = LINGERING  # it is told
        if encoder is None:
            self.close()
            return
        if not self._say_replies():
            return
        self._answer_refused(refused, refusal(encoder, refused.status))


class GatewayDoor(Door):
    """What the connections of one listener that a gateway speaks to have in common. Neither TLS nor PROXY is for it."""

    def __init__(
        self,
        listener: Listener,
        settings: Settings,
        context: "ssl.SSLContext | None",
        kind: type[Connection],
        *,
        generation: int,
        slot: int,
        extend_deadline: Callable[[float], None],
        spool: Spool,
    ) -> None:
        Door.__init__(
            self, listener, settings, None, kind_of(kind),
            generation=generation, slot=slot, extend_deadline=extend_deadline, spool=spool,
        )  # fmt: skip
        self.proxy_mode = ""
        self.has_opening = False
        self._accept, self.accept = self.accept, self._accept_allowed
        self._allowed = Trusted(settings.gateway_allow_ips)
        _ = self._allowed.trust  # a word that is no address fails the boot, not the first connection
        self._mount = settings.mount
        self._make_body = BodyMakerFor(settings.limit_request_body, spool)
        self._make_decoder = _maker(protocol_of(self.name), settings)

    def _accept_allowed(self) -> tuple[int, Any]:
        """Accept one connection of who is allowed; the others' are closed. Raises OSError."""
        for _ in range(_MOST_REFUSED):
            fd, peer = self._accept()
            if self.admits(peer):
                return fd, peer
            os.close(fd)
        raise BlockingIOError  # the others can wait a moment

    def admits(self, peer: object) -> bool:
        """Whether this peer, as accept gives it, may come at all."""
        is_allowed = self._allowed.believes(peer)
        if not is_allowed:
            log.info("connection refused", reason="not in gateway_allow_ips", peer=peer_name(peer), address=self.name)
        return is_allowed

    def decoder_for(self, peer: object, template: Environ) -> Decoder:  # type: ignore[override]  # the gateways' face
        """What reads the requests of one connection."""
        return self._make_decoder(template, self._limits, self._make_body, self._mount)


def kind_of(kind: type[Connection]) -> type[Connection]:
    """Return the connection of a gateway that runs its requests as ``kind`` does, which is that of the loop."""
    if kind is Connection:
        return GatewayConnection
    return cast("type[Connection]", type(f"Gateway{kind.__name__}", (GatewayConnection, kind), {"__slots__": ()}))


def _maker(protocol: str, settings: Settings) -> Callable[..., Decoder]:
    if protocol == "uwsgi":
        from forkserve.protocol import uwsgi

        return uwsgi.Decoder
    if protocol == "scgi":
        from forkserve.protocol import scgi

        return scgi.Decoder
    from functools import partial

    from forkserve.protocol import fastcgi

    return partial(fastcgi.Decoder, connections=settings.worker_connections * settings.workers)
