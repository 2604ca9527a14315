"""A client of the ssl module and a worker's transport, joined by a socketpair; neither ever waits."""

import _socket
import select
import socket
import ssl
from types import TracebackType
from typing import Self

from forkserve.worker.tls import TlsTransport
from tests.certificates import Certificate

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def client_context(version: ssl.TLSVersion | None = None, shown: Certificate | None = None) -> ssl.SSLContext:
    """A client that believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if shown is not None:
        context.load_cert_chain(shown.file, shown.key)
    return context


class Pair:
    """A client and a transport, connected; both never wait."""

    def __init__(
        self,
        context: ssl.SSLContext,
        name: str | None = None,
        client: ssl.SSLContext | None = None,
        *,
        session: ssl.SSLSession | None = None,
        ends: tuple[socket.socket, socket.socket] | None = None,
        early_bytes: int = 0,
    ) -> None:
        mine, theirs = ends or socket.socketpair()
        mine.setblocking(False)
        self.raw = theirs.dup()
        self.client = (client or client_context()).wrap_socket(
            mine,
            server_hostname=name,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            session=session,
        )
        self.step()
        early = self.raw.recv(early_bytes) if early_bytes else b""
        family, fd = theirs.family, theirs.detach()
        self.server = TlsTransport(_socket.socket(family, _socket.SOCK_STREAM, 0, fd), context, early)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.server.close()
        self.client.close()
        self.raw.close()

    def step(self) -> None:
        """Let the client do what it can of its handshake."""
        try:
            self.client.do_handshake()
        except ssl.SSLWantReadError:
            pass

    def shake(self) -> Self:
        """Shake hands."""
        for _ in range(10):
            self.step()
            if self.server.handshake() == "done":
                self.step()
                return self
        raise AssertionError("the handshake does not end")

    def arrived(self) -> bytes:
        """All that the transport has now."""
        found, buffer = b"", bytearray(65536)
        while True:
            try:
                got = self.server.recv_into(buffer)
            except BlockingIOError:
                assert not self.server.pending()
                return found
            if not got:
                return found + b"(end)"
            found += buffer[:got]

    def answered(self) -> bytes:
        """All that the client has now, and how it ended if it has."""
        found = b""
        while True:
            try:
                piece = self.client.recv(65536)
            except ssl.SSLWantReadError:
                return found
            except ssl.SSLEOFError:
                return found + b"(cut)"
            except ConnectionResetError:
                return found + b"(reset)"
            if not piece:
                return found + b"(end)"
            found += piece

    def subject(self) -> str:
        """The common name of the certificate that the client got."""
        der = self.client.getpeercert(binary_form=True)
        assert der
        return next(
            name for name in ("nameless", "exact", "wild", "a") if b"\x0c" + bytes([len(name)]) + name.encode() in der
        )


def wait_done(pair: Pair) -> bool:
    """Shake hands over a network, however small."""
    while pair.server.handshake() != "done":
        pair.step()
        select.select([pair.raw], [], [], 0.01)
    return True


def drained(sock: socket.socket) -> bytes:
    """What a socket holds now."""
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""
