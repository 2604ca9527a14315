"""TLS in front of a running service: who gets which certificate, who is let in, and what a port shows to a scanner."""

import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.certificates import Certificate, needs_openssl
from tests.harness import PATIENCE_S, Answer, Server, read_to_end, wait_until
from tests.process.load import Load
from tests.process.tools import answers

pytestmark = needs_openssl

APP = """
import hashlib, json, os

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/large":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (bytes([number % 256]) * 100_000 for number in range(200))
    if path == "/broken":
        return broken(start_response)
    found = {name: value for name, value in environ.items() if isinstance(value, str)}
    digest = hashlib.sha256()
    while piece := environ["wsgi.input"].read(1 << 16):
        digest.update(piece)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({**found, "pid": os.getpid(), "sha256": digest.hexdigest()}).encode()]

def broken(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"a part"
    raise LookupError("on purpose")
"""
LARGE = b"".join(bytes([number % 256]) * 100_000 for number in range(200))
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def a(folder: Path) -> Certificate:
    return Certificate(folder, "a", "DNS:a.example")


@pytest.fixture(scope="module")
def b(folder: Path) -> Certificate:
    return Certificate(folder, "b", "DNS:*.b.example")


def serving(**settings: Any) -> Server:
    """A server of APP that is yet to start."""
    server = Server(app="tls_app:app", **settings)
    server.write_app(APP, "tls_app")
    return server


@pytest.fixture(scope="module")
def server(a: Certificate, b: Certificate) -> Iterator[Server]:
    server = serving(
        certfile=f"{a.file},{b.file}", keyfile=f"{a.key},{b.key}", workers=2, handshake_timeout=1, keepalive=2
    )
    server.expect = ["app raised"]
    with server:
        yield server


def believing(*authorities: Certificate, shown: Certificate | None = None) -> ssl.SSLContext:
    """A client that verifies the name and who vouches for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for authority in authorities:
        context.load_verify_locations(authority.file)
    if shown is not None:
        context.load_cert_chain(shown.file, shown.key)
    return context


def dial(
    server: Server, context: ssl.SSLContext, name: str = "a.example", session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Connect and shake hands."""
    sock = server.connect()
    try:
        return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False, session=session)
    except BaseException:
        sock.close()
        raise


def ask(sock: ssl.SSLSocket, path: str = "/", body: bytes | None = None) -> Answer:
    """One request over a connection that stays."""
    http = HTTPConnection("a.example", timeout=PATIENCE_S)
    http.sock = sock
    http.request("GET" if body is None else "POST", path, body)
    return Answer(http.getresponse())


def get(server: Server, context: ssl.SSLContext, name: str = "a.example", path: str = "/") -> Answer:
    """One request over a connection of its own."""
    with dial(server, context, name) as sock:
        return ask(sock, path)


def refusal(server: Server, context: ssl.SSLContext) -> str:
    """What a client is told that is not let in: at the handshake or, with TLS 1.3, at the first read."""
    try:
        get(server, context)
    except OSError as error:
        return str(error)
    return ""


def test_environ_says_https_and_the_connection_is_kept(server: Server, a: Certificate) -> None:
    with dial(server, believing(a)) as sock:
        found = [ask(sock).json for _ in range(3)]
        assert len({each["pid"] for each in found}) == 1
        assert {each["wsgi.url_scheme"] for each in found} == {"https"}
        assert found[2]["HTTPS"] == "on"
        assert found[2]["SSL_PROTOCOL"] == "TLSv1.3"
        assert found[2]["SSL_TLS_SNI"] == "a.example"
        assert found[2]["SSL_CLIENT_VERIFY"] == "NONE"
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 50:
            answers += sock.recv(65536)
        while sock.recv(65536):  # until it has been idle for too long
            pass


def test_each_name_gets_its_certificate(server: Server, a: Certificate, b: Certificate) -> None:
    assert get(server, believing(a), "a.example").json["SSL_TLS_SNI"] == "a.example"
    assert get(server, believing(b), "x.b.example").json["SSL_TLS_SNI"] == "x.b.example"
    for authority, name in ((b, "a.example"), (a, "x.b.example"), (b, "y.x.b.example"), (a, "other.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            get(server, believing(authority), name)
    wait_until(lambda: server.lines("unknown ca"), "the alert of a client")


@pytest.mark.parametrize("version", [V12, V13])
def test_session_of_one_worker_resumes_at_the_other(server: Server, a: Certificate, version: ssl.TLSVersion) -> None:
    client = believing(a)
    client.minimum_version = client.maximum_version = version
    with dial(server, client) as sock:
        first = ask(sock).json
        session = sock.session
    assert first["SSL_SESSION_RESUMED"] == "Initial"

    def again() -> dict[str, str]:
        with dial(server, client, session=session) as sock:
            return ask(sock).json  # type: ignore[no-any-return]

    found: list[dict[str, str]] = []
    while not any(each["pid"] != first["pid"] for each in found):
        found.append(again())
        assert len(found) < 200, "only one worker answers"
    assert {each["SSL_SESSION_RESUMED"] for each in found} == {"Resumed"}


def test_large_bodies_pass_both_ways(server: Server, a: Certificate) -> None:
    with dial(server, believing(a)) as sock:
        assert ask(sock, "/", LARGE).json["sha256"] == hashlib.sha256(LARGE).hexdigest()
        assert ask(sock, "/large").body == LARGE
        assert ask(sock).status == 200


def test_end_of_the_connection_ends_a_whole_response_and_no_other(server: Server, a: Certificate) -> None:
    with dial(server, believing(a)) as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        assert read_to_end(sock).partition(b"\r\n\r\n")[2] == LARGE
    with dial(server, believing(a)) as sock:
        sock.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
        with pytest.raises(OSError):
            read_to_end(sock)


def test_plain_http_is_told_that_this_port_speaks_tls(server: Server) -> None:
    workers = server.workers()
    answer = server.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"speaks TLS" in answer.partition(b"\r\n\r\n")[2]
    assert b"HTTP" not in server.exchange(b"\0\1\2\3" * 100)
    assert server.workers() == workers


def test_refusal_is_one_line_however_the_rest_arrives(server: Server) -> None:
    def is_held() -> bool:
        held = [each for pid in server.workers() for each in psutil.Process(pid).net_connections("tcp")]
        return any(each.raddr and each.raddr[1] == port for each in held)

    with server.connect() as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"GET / HT")
        assert read_to_end(sock).count(b"400 Bad Request") == 2, "in the head and in the body"
        sock.sendall(b"TP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: not is_held(), "the end of the connection")
        assert len(server.lines(f":{port}")) == 1


def test_who_is_slow_with_the_handshake_is_closed_and_delays_nobody(server: Server, a: Certificate) -> None:
    hello = ssl.MemoryBIO()
    session = believing(a).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    half = hello.read()[:100]
    slow = [server.connect() for _ in range(60)]
    try:
        for sock in slow[::2]:
            sock.sendall(half)
        assert get(server, believing(a)).status == 200
        for sock in slow:
            assert sock.recv(100) == b""
    finally:
        for sock in slow:
            sock.close()


# client certificates


def test_client_certificates_are_asked_for_as_set(folder: Path, a: Certificate) -> None:
    authority = Certificate(folder, "authority")
    client, stranger = Certificate(folder, "client", issuer=authority), Certificate(folder, "stranger")
    config = f"certfile = ['{a.file}']\nkeyfile = ['{a.key}']\n"
    asking = config + f"ca_certs = '{authority.file}'\n"
    with serving(config=asking + "cert_reqs = 'required'\n") as s:
        found = get(s, believing(a, shown=client)).json
        assert (found["SSL_CLIENT_VERIFY"], found["SSL_CLIENT_S_DN"]) == ("SUCCESS", "CN=client,O=Shop")
        assert found["SSL_CLIENT_I_DN"] == "CN=authority,O=Shop"
        assert ssl.PEM_cert_to_DER_cert(found["SSL_CLIENT_CERT"])
        assert "CERTIFICATE_REQUIRED" in refusal(s, believing(a))
        assert "ALERT_UNKNOWN_CA" in refusal(s, believing(a, shown=stranger))
        s.config.write_text(asking + "cert_reqs = 'optional'\n")
        s.signal(signal.SIGHUP)
        s.wait_line("reload done")
        assert get(s, believing(a, shown=client)).json["SSL_CLIENT_VERIFY"] == "SUCCESS"
        assert get(s, believing(a)).json["SSL_CLIENT_VERIFY"] == "NONE"
        assert "ALERT_UNKNOWN_CA" in refusal(s, believing(a, shown=stranger))


# reloads


def test_new_certificate_in_the_same_file_serves_after_hup_and_a_broken_one_never(folder: Path, a: Certificate) -> None:
    file, key = folder / "live.crt", folder / "live.key"

    def install(certificate: Certificate) -> None:
        shutil.copy(certificate.file, file)
        shutil.copy(certificate.key, key)

    newer = Certificate(folder, "newer", "DNS:a.example")
    install(a)
    with serving(certfile=str(file), keyfile=str(key)) as s:
        s.expect = ["reload rejected"]
        assert get(s, believing(a)).status == 200
        install(newer)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=2")
        assert get(s, believing(newer)).status == 200
        shutil.copy(a.file, file)  # and not its key
        s.signal(signal.SIGHUP)
        assert "the private key does not belong to" in s.wait_line("reload rejected")
        file.write_text("hello\n")
        s.signal(signal.SIGHUP)
        assert f"certfile = '{file}': holds no certificate" in s.wait_line("reload rejected", count=2)
        assert get(s, believing(newer)).status == 200
        install(a)
        s.signal(signal.SIGHUP)
        s.wait_line("reload done gen=3")
        assert get(s, believing(a)).status == 200


def test_start_without_a_good_certificate_is_refused() -> None:
    s = serving(certfile="no.pem", await_ready=False)
    with s:
        assert s.wait_exit() == 2
        assert "certfile = 'no.pem': cannot be read: No such file or directory" in s.said() + s.log()


# what a scanner sees


def weak() -> ssl.SSLContext:
    """A client that speaks everything that its OpenSSL still can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


def test_only_ciphers_with_forward_secrecy_and_authenticated_encryption_are_spoken(server: Server) -> None:
    client = weak()
    client.maximum_version = V12
    left = [cipher["name"] for cipher in client.get_ciphers() if not cipher["name"].startswith("TLS_")]
    assert {"AES128-SHA", "ECDHE-ECDSA-AES128-SHA"} <= set(left), "or this proves little"
    spoken = []
    while True:  # offer all but those that were chosen, until none is
        client.set_ciphers(":".join(left) + ":@SECLEVEL=0")
        try:
            with dial(server, client) as sock:
                chosen = sock.cipher()
                assert chosen and sock.compression() is None
        except ssl.SSLError:
            break
        spoken.append(chosen[0])
        left.remove(chosen[0])
    assert spoken, "nothing was spoken"
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in spoken)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_not_spoken(server: Server, version: ssl.TLSVersion) -> None:
    client = weak()
    client.minimum_version = client.maximum_version = version
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        dial(server, client)


def test_ssl_3_is_not_spoken(server: Server) -> None:
    hello = b"\x03\x00" + bytes(32) + b"\0" + b"\0\x04\x00\x2f\x00\x35" + b"\x01\0"
    handshake = b"\x01" + len(hello).to_bytes(3) + hello
    answer = server.exchange(b"\x16\x03\x00" + len(handshake).to_bytes(2) + handshake)
    assert answer[:1] == b"\x15" and answer[5] == 2, "a fatal alert"


@pytest.mark.parametrize(
    ("version", "letter", "said"), [("-tls1_2", "R", b"no renegotiation"), ("-tls1_3", "K", b"200 OK")]
)
def test_renegotiation_is_refused_and_new_keys_are_taken(
    server: Server, version: str, letter: str, said: bytes
) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", version, "-servername", "a.example"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None and client.stdout is not None
        heard = b""
        # A letter alone at the beginning of what it reads is an order to s_client: wait for it to be met.
        for sent, sign in (
            (b"", b"Verify return code"),
            (letter.encode(), b"ING\n" if letter == "R" else b"KEYUPDATE"),
        ):
            client.stdin.write(sent + b"\n" if sent else b"")
            client.stdin.flush()
            while sign not in heard:
                piece = os.read(client.stdout.fileno(), 65536)
                assert piece, heard
                heard += piece
        try:
            client.stdin.write(b"GET / HTTP/1.0\r\n\r\n")
            client.stdin.flush()
        except BrokenPipeError:
            pass
        heard += client.stdout.read()  # it leaves when the server closes
    assert said in heard


def test_curl_trusts_it(server: Server, a: Certificate) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    ran = subprocess.run(
        [
            "curl", "-sS", "--cacert", a.file, "--resolve", f"a.example:{server.port}:127.0.0.1", "--http1.1",
            "--data-binary", "hello", f"https://a.example:{server.port}/?q",
        ],
        capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert hashlib.sha256(b"hello").hexdigest().encode() in ran.stdout


def test_promise_01_reloads_lose_no_request_over_tls(a: Certificate) -> None:
    s = Server(app="fresh_app:app", workers=2, certfile=str(a.file), keyfile=str(a.key), reload_settle=0)
    s.write_app(answers("code-0"))
    context = believing(a)
    with s, Load(s, wrap=lambda sock: context.wrap_socket(sock, server_hostname="a.example")) as load:
        for number in range(1, 6):
            s.write_app(answers(f"code-{number}"))
            s.signal(signal.SIGHUP)
            s.wait_line("reload done", count=number)
            seen = load.total
            wait_until(lambda n=seen: load.total > n + 40, "answers of the new code")  # type: ignore[misc]
        assert get(s, context).text == "code-5 6 0"
    assert load.failures == []
    assert {"_close", "_keep_alive", "_pipeline", "_post"} <= set(load.by_way)
