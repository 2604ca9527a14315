"""TLS on one accepted connection: all that a connection uses of a socket, with OpenSSL in between. Never waits.

OpenSSL works in memory, the system calls are ours: 24 µs a request and 0.45 ms a handshake (ECDSA, resumption off)
where ssl.SSLSocket takes 26 µs and 0.77 ms, since it reads each record by two calls and writes each ticket by one.
Runs in a worker; knows no HTTP but how it looks on the wrong port. Imported only where TLS is spoken.
Sources: RFC 8446 section 6.1 (close_notify); names of the environ as Apache's mod_ssl has them.
"""

import _socket
import errno
import os
import ssl
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from forkserve.net.tls import Session, distinguished_name
from forkserve.wsgi.response import plain_answer

# One record, and all that TLS can add to it: RFC 8446 section 5.2.
_PIECE_BYTES = 16 * 1024
_RECORD_BYTES = _PIECE_BYTES + 256 + 5
_BURST_BYTES = 1 << 20  # of one send, however much the kernel takes: others wait for the worker too
_MOST_OWED_BYTES = 256 * 1024
_HANDSHAKE = 0x16  # ContentType of the first byte of a client: RFC 8446 section 5.1

_NOW = _socket.MSG_DONTWAIT
_SEND_NOW = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL

# A fatal alert, internal_error, in plain: RFC 8446 section 6. No peer can take it for a part of the stream.
_ALERT = b"\x15\x03\x03\x00\x02\x02\x50"

_WRONG_PORT = "400 Bad Request (this port speaks TLS: use https)"


class HandshakeFailed(Exception):
    """No TLS came about; ``str`` is the reason. What there was to say to the client is sent: linger, then close."""


class TlsTransport:
    """One connection that speaks TLS; errors are OSError, as a socket's are.

    What ``send`` has not accepted must be offered again before anything else, as is natural for a stream: part of it
    may be encrypted already.
    """

    __slots__ = (
        "_arriving", "_early", "_has_begun", "_has_more", "_is_deaf", "_is_open", "_is_whole", "_out", "_owed", "_pid",
        "_resets", "_rest", "_session", "_sock",
    )  # fmt: skip

    def __init__(self, sock: _socket.socket, context: ssl.SSLContext, early: bytes = b"") -> None:
        """Speak TLS over ``sock``, which is ours from now on; ``early``: bytes of it that were read already."""
        self._arriving, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(self._arriving, self._out, server_side=True)
        if isinstance(session, Session):
            session.sock = sock
        self._session = session
        self._sock = sock
        self._early = early
        self._rest: bytes | memoryview = b""  # encrypted, and not taken by the kernel
        self._owed = 0  # how many plain bytes of a send that was not acknowledged are in it
        self._has_more = False  # OpenSSL may hold bytes that it has not given us yet
        self._has_begun = False  # the first byte was that of a handshake
        self._is_open = False  # the handshake is done
        self._is_deaf = False  # what still comes is counted, not read
        self._resets = False  # its end shall be a reset: no end of the response may be seen
        self._is_whole = True  # nothing that was to be sent is missing
        self._pid = os.getpid()

    def handshake(self) -> Literal["done", "read", "write"]:
        """Go on with the handshake; says what to wait for. Raises HandshakeFailed.

        After "done" read at once: the first request may have come along, where epoll does not show it.
        """
        try:
            if not self._flush():
                return "write"
            if self._is_open:
                return "done"
            data = self._early or self._sock.recv(_RECORD_BYTES, _NOW)
        except BlockingIOError:
            return "read"
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None
        self._early = b""
        if not data:
            raise self._failed("the client left")
        if not self._has_begun and data[0] != _HANDSHAKE:
            raise self._wrong_port(data[0])
        self._has_begun = True
        self._arriving.write(data)
        before, sys.unraisablehook = sys.unraisablehook, _unraisable
        try:
            self._session.do_handshake()
            self._is_open = self._has_more = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise self._failed(_reason(error)) from None
        finally:
            sys.unraisablehook = before
        try:
            if not self._flush():
                return "write"
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None
        return "done" if self._is_open else "read"

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Read into ``buffer``; 0: the client said that nothing more comes.

        Raises BlockingIOError when nothing is there, and OSError, also for a stream that ends without a word: that
        could be anybody's cut. Afterwards ask ``pending``.
        """
        if self._is_deaf:
            return self._sock.recv_into(buffer, nbytes, flags)
        most = nbytes or len(buffer)
        while True:
            has_fed = not self._has_more
            if has_fed:
                got = self._sock.recv_into(buffer, min(most, _RECORD_BYTES), flags | _NOW)
                if not got:
                    raise OSError(errno.ECONNRESET, "the stream was cut: no close_notify")
                self._arriving.write(memoryview(buffer)[:got])
            try:
                got = int(self._session.read(most, buffer))  # an int, where there is a buffer
                self._has_more = bool(self._arriving.pending or self._session.pending())
                return got
            except ssl.SSLWantReadError:
                self._has_more = False
                if has_fed:
                    raise BlockingIOError(errno.EAGAIN, "no whole record has arrived") from None
            finally:
                if self._out.pending:  # an alert, or the answer to a KeyUpdate
                    self._flush()

    def recv(self, nbytes: int, flags: int = 0) -> bytes:
        """The same, of new bytes."""
        buffer = bytearray(nbytes)
        return bytes(memoryview(buffer)[: self.recv_into(buffer, nbytes, flags)])

    def pending(self) -> bool:
        """Whether another read may give bytes although epoll does not say so; false after BlockingIOError."""
        return self._has_more and not self._is_deaf

    def has_unread(self) -> bool:
        """Whether bytes of the client have come that nobody has read."""
        if self._is_deaf:
            return False
        try:
            return bool(
                self._arriving.pending or self._session.pending() or self._sock.recv(1, _NOW | _socket.MSG_PEEK)
            )
        except OSError:
            return False

    @property
    def wants_write(self) -> bool:
        """Whether something waits for room that no ``send`` will be repeated for; ``handshake`` or a send takes it."""
        return bool(self._rest) and not self._owed

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Encrypt and give to the kernel; returns how many bytes of ``data`` it has taken whole. Raises OSError.

        Also BlockingIOError: nothing was taken; offer the same again when there is room.
        """
        size = len(data)
        self._is_whole = False
        if self._rest and not self._flush():
            raise BlockingIOError(errno.EAGAIN, "no room")
        done = min(self._owed, size)  # encrypted at an earlier call, taken by now
        self._owed -= done
        end = min(size, done + _BURST_BYTES)
        view = memoryview(data) if end - done > _PIECE_BYTES or done else data
        while done < end:
            piece = view if view is data else view[done : done + _PIECE_BYTES]
            self._session.write(piece)
            ciphertext = self._out.read()
            try:
                taken = self._sock.send(ciphertext, flags | _SEND_NOW)
            except BlockingIOError:
                taken = 0
            if taken < len(ciphertext):
                self._rest, self._owed = memoryview(ciphertext)[taken:], len(piece)
                if not done:
                    raise BlockingIOError(errno.EAGAIN, "no room")
                return done
            done += len(piece)
        self._is_whole = done == size
        return done

    def sendmsg(self, buffers: Sequence[bytes], ancillary: Iterable[Any] = (), flags: int = 0) -> int:
        """The same for several pieces: small ones leave in one record."""
        if sum(map(len, buffers)) <= _PIECE_BYTES:
            return self.send(b"".join(buffers), flags)
        done = 0
        for data in buffers:
            try:
                sent = self.send(data, flags if data is buffers[-1] else flags | _socket.MSG_MORE)
            except BlockingIOError:
                if not done:
                    raise
                break
            done += sent
            if sent < len(data):
                break
        return done

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes (close_notify) and shut the socket; what arrives from now on is counted only.

        Raises BlockingIOError while there is no room to say so, and OSError: call again when there is. A response of
        which the client could not be given everything ends without it.
        """
        if not self.say_goodbye():
            raise BlockingIOError(errno.EAGAIN, "no room")
        self._is_deaf = True
        self._sock.shutdown(how)

    def say_goodbye(self) -> bool:
        """Send close_notify, if the client may take it for the end of all; whether nothing of it waits for room."""
        # A process that the app forked closes its copy of the socket, not the connection.
        if not self._is_open or not self._is_whole or self._resets or os.getpid() != self._pid:
            return True
        if not self._is_deaf:
            self._is_deaf = True
            try:
                self._session.unwrap()
            except ssl.SSLError:  # as ever: the client's own close_notify is not waited for
                pass
        try:
            return self._flush()
        except OSError:
            return True

    def close(self) -> None:
        """Close; the client is told as by ``shutdown``, if it takes that now, or by an alert if SO_LINGER asked for a
        reset."""
        if self._resets:
            self.alert()
        else:
            self.say_goodbye()
        self._sock.close()

    def alert(self) -> None:
        """Say that the stream is cut, if the client takes that now.

        There are web servers (nginx 1.22) that take a reset of TLS for its end, and half a record too.
        """
        if not self._is_open or self._is_deaf or os.getpid() != self._pid:
            return
        try:
            if self._flush() and self._sock.send(_ALERT, _SEND_NOW) == len(_ALERT):
                self._is_deaf = True
                self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, bytes(8))  # or a reset could overtake it
        except OSError:
            pass

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket."""
        if option == _socket.SO_LINGER:
            self._resets = value != bytes(8)
        self._sock.setsockopt(level, option, value)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def environ(self) -> dict[str, str]:
        """What the environ of each request says of this connection, once the handshake is done."""
        session = self._session
        name, _, bits = session.cipher() or ("", "", 0)
        found = {
            "HTTPS": "on",
            "SSL_PROTOCOL": session.version() or "",
            "SSL_CIPHER": name,
            "SSL_CIPHER_USEKEYSIZE": str(bits),
            "SSL_SESSION_RESUMED": "Resumed" if session.session_reused else "Initial",
            "SSL_CLIENT_VERIFY": "NONE",
        }
        if isinstance(session, Session) and session.asked:
            found["SSL_TLS_SNI"] = session.asked
        raw = session.getpeercert(binary_form=True)
        if raw is not None:  # it was verified: else there would be no connection
            found |= _client(session.getpeercert() or {}, raw)
        return found

    def _flush(self) -> bool:
        """Give the kernel what is encrypted and waits; whether that was all. Raises OSError."""
        rest = self._rest
        if self._out.pending:
            rest = bytes(rest) + self._out.read()
        if not rest:
            return True
        try:
            taken = self._sock.send(rest, _SEND_NOW)
        except BlockingIOError:
            taken = 0
        self._rest = memoryview(rest)[taken:]
        if len(self._rest) > _MOST_OWED_BYTES:
            raise OSError(errno.ENOBUFS, "the client asks on and on, and takes no answer")
        return not self._rest

    def _wrong_port(self, first: int) -> HandshakeFailed:
        if not chr(first).isalpha():
            return self._failed("what came is not TLS")
        try:
            self._sock.send(plain_answer(_WRONG_PORT), _SEND_NOW)
        except OSError:
            pass
        return self._failed("plain HTTP where TLS is spoken")

    def _failed(self, reason: str) -> HandshakeFailed:
        try:
            self._flush()  # the alert
        except OSError:
            pass
        self._is_deaf = True
        return HandshakeFailed(reason)


def _client(certificate: dict[str, Any], raw: bytes) -> dict[str, str]:
    """What the environ says of a client's certificate."""
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": _native(distinguished_name(certificate["subject"])),
        "SSL_CLIENT_I_DN": _native(distinguished_name(certificate["issuer"])),
        "SSL_CLIENT_M_SERIAL": certificate["serialNumber"],
        "SSL_CLIENT_V_START": certificate["notBefore"],
        "SSL_CLIENT_V_END": certificate["notAfter"],
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(raw),
    }


def _native(text: str) -> str:
    """A string of the environ: its UTF-8 bytes as Latin-1 (PEP 3333, "Unicode Issues")."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    """Swallow what CPython writes to stderr when a client asks for a name that is not ASCII; the alert says it all."""
    if told.exc_type is not UnicodeDecodeError:
        sys.__unraisablehook__(told)


def _reason(error: ssl.SSLError) -> str:
    message = getattr(error, "verify_message", "")
    if message:
        return f"the client's certificate is refused: {message}"
    return (error.reason or str(error)).replace("_", " ").lower()
