"""TLS over a socketpair: what a connection sees of handshakes, bytes and ends. Servers: process/test_tls.py."""

import _socket
import os
import random
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.net.tls import Context, Session, make_contexts
from forkserve.worker.tls import HandshakeFailed, TlsTransport
from tests import certificates
from tests.certificates import needs_openssl
from tests.unit.tls_pair import V12, V13, Pair, client_context, drained

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, certificates.Certificate]:
    """Certificates by name."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = certificates.Certificate(folder, "authority")
    return {
        "authority": authority,
        "a": certificates.Certificate(folder, "a", "DNS:a.example"),
        "client": certificates.Certificate(folder, "Zoë, client", issuer=authority),
        "stranger": certificates.Certificate(folder, "stranger"),
    }


@pytest.fixture(scope="module")
def context(made: dict[str, certificates.Certificate]) -> Context:
    return make_contexts([made["a"].file], [made["a"].key])


@pytest.fixture
def pair(context: Context) -> Iterator[Pair]:
    with Pair(context) as pair:
        yield pair.shake()


# the handshake


def test_handshake_agrees_on_http_1_1_and_a_cipher_with_forward_secrecy(context: Context) -> None:
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert names
    assert all(
        name.startswith("TLS_") or (name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name))
        for name in names
    )
    for version in (V12, V13):
        with Pair(context, client=client_context(version)) as pair:
            pair.shake()
            assert pair.client.selected_alpn_protocol() == "http/1.1"
            found = pair.server.environ()
            assert found["HTTPS"] == "on"
            assert found["SSL_PROTOCOL"] == pair.client.version()
            assert found["SSL_CIPHER"] == pair.client.cipher()[0]  # type: ignore[index]
            assert found["SSL_CLIENT_VERIFY"] == "NONE"
            assert found["SSL_SESSION_RESUMED"] == "Initial"


def test_handshake_that_arrives_byte_by_byte_is_done(context: Context) -> None:
    end, ours = socket.socketpair()
    end.setblocking(False)
    server = TlsTransport(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, ours.detach()), context)
    with end, Pair(context) as pair:
        pair.raw.setblocking(False)
        state = ""
        while state != "done":
            pair.step()
            for number in drained(pair.raw):
                end.send(bytes([number]))
                state = server.handshake()
            pair.raw.send(drained(end))
        pair.step()
        assert pair.client.version() == "TLSv1.3"
    server.close()


def test_bytes_that_were_read_before_the_handshake_count(context: Context) -> None:
    with Pair(context, early_bytes=100) as pair:
        pair.shake()


def test_first_request_may_come_along_with_the_end_of_the_handshake(context: Context) -> None:
    with Pair(context, client=client_context(V13)) as pair:
        pair.step()
        assert pair.server.handshake() == "read"
        pair.step()
        pair.client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert pair.server.handshake() == "done"
        assert pair.server.pending(), "epoll would not show it"
        assert pair.arrived() == b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("version", [V12, V13])
def test_session_of_one_connection_resumes_at_another(context: Context, version: ssl.TLSVersion) -> None:
    client = client_context(version)
    with Pair(context, "z.b.example", client) as first:
        first.shake().server.send(b"x")
        first.answered()  # tickets come with the data
        session = first.client.session
    with Pair(context, "z.b.example", client, session=session) as second:
        second.shake()
        assert second.client.session_reused
        assert second.server.environ()["SSL_SESSION_RESUMED"] == "Resumed"


@pytest.mark.parametrize(
    ("version", "least", "reason"),
    [(ssl.TLSVersion.TLSv1_1, "1.2", "unsupported protocol"), (V12, "1.3", "unsupported protocol")],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_version_is_refused_with_an_alert(
    made: dict[str, certificates.Certificate], version: ssl.TLSVersion, least: str, reason: str
) -> None:
    context = make_contexts([made["a"].file], [made["a"].key], tls_min_version=least)
    client = client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1, version
    with Pair(context, client=client) as pair:
        with pytest.raises(HandshakeFailed, match=reason):
            pair.server.handshake()
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            pair.client.do_handshake()


def test_plain_http_is_told_that_this_port_speaks_tls(context: Context) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        server = TlsTransport(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, theirs.detach()), context)
        assert server.handshake() == "read"
        mine.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(HandshakeFailed, match="plain HTTP"):
            server.handshake()
        mine.send(b"and more")
        assert server.recv_into(bytearray(100)) == len(b"and more"), "what still comes is counted"
        server.shutdown(_socket.SHUT_WR)
        answer = b"".join(iter(lambda: mine.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert b"speaks TLS" in answer.partition(b"\r\n\r\n")[2]
        server.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x80\x2e\x01\x00\x02", "not TLS"), (b"\x16\x03\x01\x00\x05AAAAA", "message|length|type|version"),
        (b"\0", "not TLS"),
        (b"", "the client left"),
    ],
)  # fmt: skip
def test_what_is_no_tls_is_refused_without_a_word_of_http(context: Context, sent: bytes, reason: str) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        server = TlsTransport(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, theirs.detach()), context)
        mine.sendall(sent)
        mine.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeFailed, match=reason):
            server.handshake()
        server.close()
        assert b"HTTP" not in drained(mine)


@pytest.mark.parametrize(("name", "reason"), [(b"\xff.example", "callback failed"), (b"a\0example", "bad extension")])
def test_name_that_is_none_is_refused_without_a_traceback(
    context: Context, name: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    end, ours = socket.socketpair()
    server = TlsTransport(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, ours.detach()), context)
    with end, Pair(context, "a.example") as pair:
        end.sendall(pair.raw.recv(65536).replace(b"a.example", name))
        with pytest.raises(HandshakeFailed, match=reason):
            server.handshake()
    server.close()
    assert capfd.readouterr().err == ""


def test_name_that_could_forge_a_line_is_not_told(context: Context) -> None:
    session = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    choose = context.sni_callback
    assert choose is not None and isinstance(session, Session)
    for name, told in (("a.exam\nle", ""), ("a b", ""), ("A.example", "A.example")):
        choose(session, name, context)
        assert session.asked == told


# client certificates


def asking(made: dict[str, certificates.Certificate], how: str) -> Context:
    return make_contexts([made["a"].file], [made["a"].key], made["authority"].file, how)


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("how", ["optional", "required"])
def test_client_certificate_is_told_as_mod_ssl_names_it(
    made: dict[str, certificates.Certificate], how: str, version: ssl.TLSVersion
) -> None:
    with Pair(asking(made, how), client=client_context(version, made["client"])) as pair:
        found = pair.shake().server.environ()
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert found["SSL_CLIENT_S_DN"].encode("latin-1").decode() == r"CN=Zoë\, client,O=Shop"
    assert found["SSL_CLIENT_I_DN"] == "CN=authority,O=Shop"
    assert found["SSL_CLIENT_V_END"].endswith(" GMT")
    assert int(found["SSL_CLIENT_M_SERIAL"], 16) > 0
    assert ssl.PEM_cert_to_DER_cert(found["SSL_CLIENT_CERT"]) == ssl.PEM_cert_to_DER_cert(
        Path(made["client"].file).read_text()
    )


@pytest.mark.parametrize(
    ("how", "shown", "reason"),
    [
        ("none", "", None), ("none", "stranger", None), ("optional", "", None),
        ("optional", "stranger", "certificate is refused"), ("required", "stranger", "certificate is refused"),
        ("required", "", "did not return a certificate"),
    ],
)  # fmt: skip
def test_who_is_let_in_without_a_good_certificate(
    made: dict[str, certificates.Certificate], context: Context, how: str, shown: str, reason: str | None
) -> None:
    server = context if how == "none" else asking(made, how)
    with Pair(server, client=client_context(shown=made.get(shown))) as pair:
        if reason is None:
            assert pair.shake().server.environ()["SSL_CLIENT_VERIFY"] == "NONE"
        else:
            with pytest.raises(HandshakeFailed, match=reason):
                pair.shake()


# bytes


def test_many_records_are_read_until_none_is_left(pair: Pair) -> None:
    sent = b"".join(bytes([number]) * (number * 700) for number in range(50))
    left = memoryview(sent)
    found = b""
    while left or len(found) < len(sent):
        for _ in range(5):
            try:
                left = left[pair.client.send(left[:20_000]) :] if left else left
            except ssl.SSLWantWriteError:
                break
        found += pair.arrived()
    assert found == sent


def test_half_a_record_is_nothing_yet(pair: Pair) -> None:
    wire = recorded(pair, b"hello")
    os.write(pair.client.fileno(), wire[:7])
    assert pair.arrived() == b""
    os.write(pair.client.fileno(), wire[7:])
    assert pair.arrived() == b"hello"


def recorded(pair: Pair, data: bytes) -> bytes:
    """What a client would write for ``data``, taken off the wire."""
    pair.client.send(data)
    return pair.raw.recv(65536)


@pytest.mark.parametrize("seed", range(5))
def test_slow_client_gets_every_byte_once_however_it_is_offered(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    stream = chance.randbytes(3_000_000)
    left, blocked, found = memoryview(stream), 0, b""
    while left:
        size = min(len(left), chance.choice((1, 100, 16_384, 70_000, 2_000_000)))
        try:
            if chance.random() < 0.3:
                sent = pair.server.sendmsg((bytes(left[: size // 2]), bytes(left[size // 2 : size])))
            else:
                sent = pair.server.send(left[:size])
            assert 0 < sent <= size
            left = left[sent:]
        except BlockingIOError:
            blocked += 1
            found += pair.client.recv(chance.choice((100, 16_384)))
    assert blocked > 10
    while True:
        try:
            pair.server.shutdown(_socket.SHUT_WR)
            break
        except BlockingIOError:  # the end needs room too
            found += pair.client.recv(16_384)
    found += pair.answered()
    assert found == stream + b"(end)"


def test_one_send_is_bounded_however_much_is_taken(context: Context) -> None:
    with Pair(context) as pair:
        pair.shake()
        pid = os.fork()
        if not pid:
            try:
                os.close(pair.server.fileno())
                pair.raw.close()
                pair.client.setblocking(True)
                while pair.client.recv(65536):
                    pass
            finally:
                os._exit(0)
        try:
            poll = select.poll()
            poll.register(pair.server.fileno(), select.POLLOUT)
            left = memoryview(bytes(8 << 20))
            while left:
                try:
                    sent = pair.server.send(left)
                    assert sent <= (1 << 20) + 16_384
                    left = left[sent:]
                except BlockingIOError:
                    poll.poll()
        finally:
            pair.server.close()
            pair.raw.close()
            os.waitpid(pid, 0)


# the end


def test_end_of_the_client_is_the_end_only_when_it_says_so(context: Context) -> None:
    with Pair(context) as pair:
        pair.shake().client.send(b"all")
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.unwrap()
        assert pair.arrived() == b"all(end)"
    with Pair(context) as pair:
        pair.shake().client.send(b"a part")
        pair.client.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match="no close_notify"):
            pair.arrived()


def test_record_that_was_tampered_with_is_an_error(pair: Pair) -> None:
    wire = bytearray(recorded(pair, b"hello"))
    wire[-1] ^= 1
    os.write(pair.client.fileno(), wire)
    with pytest.raises(OSError):
        pair.arrived()
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        pair.client.recv(10)


def test_client_is_told_the_end_of_a_whole_response(context: Context) -> None:
    for end in ("close", "shutdown"):
        with Pair(context) as pair:
            pair.shake().server.send(b"all")
            pair.server.close() if end == "close" else pair.server.shutdown(_socket.SHUT_WR)
            pair.raw.close()
            assert pair.answered() == b"all(end)"


def test_response_that_is_cut_does_not_look_whole(context: Context) -> None:
    with Pair(context) as pair:
        pair.shake()
        with pytest.raises(BlockingIOError):
            while True:
                assert pair.server.send(bytes(1 << 20)) > 0
        assert pair.answered(), "and now there is room for an end"
        pair.raw.close()
        pair.server.close()
        assert pair.answered() == b"(cut)"


def test_reset_is_no_end(context: Context) -> None:
    with Pair(context) as pair:
        pair.shake().server.send(b"a part")
        pair.server.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        pair.raw.close()
        pair.server.close()
        with pytest.raises(ssl.SSLError):  # an alert that is no record of the stream
            pair.answered()


def test_child_that_closes_its_copy_says_nothing(pair: Pair) -> None:
    pid = os.fork()
    if not pid:
        pair.server.close()
        os._exit(0)
    os.waitpid(pid, 0)
    pair.server.send(b"still here")
    assert pair.answered() == b"still here"
