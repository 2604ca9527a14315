"""forkserve/protocol/proxy.py: the preface of the PROXY protocol, and the refusal of a connection without one."""

import ssl

import pytest

from forkserve.protocol.proxy import SIGNATURE, Preface, PrefaceReader, crc32c
from forkserve.protocol.types import Environ, Refused
from tests.unit.gateways import TEMPLATE

REQUEST = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
STEPS = pytest.mark.parametrize("step", [0, 1])
MAX6 = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

TCP4 = bytes((192, 0, 2, 1, 198, 51, 100, 2, 0xC3, 0x50, 1, 0xBB))
TCP6 = b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01" + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x02" + b"\xff\xff\0\x50"
UNIX = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")


def v2(block: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(block).to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def tls(client: int = 1, verify: int = 0, *parts: bytes) -> bytes:
    return tlv(0x20, bytes((client,)) + verify.to_bytes(4, "big") + b"".join(parts))


def read(data: bytes, mode: str = "any", step: int = 0) -> Preface:
    """What comes of ``data``, in pieces of ``step`` bytes; the rest includes what was not fed yet."""
    reader = PrefaceReader(mode)
    for at in range(0, len(data), step or len(data)):
        fed = at + (step or len(data))
        preface = reader.feed(memoryview(data)[at:fed])
        if preface is not None:
            assert preface.rest + data[fed:] == REQUEST
            return preface
    raise AssertionError("not complete")


def applied(preface: Preface) -> Environ:
    template = TEMPLATE.copy()
    preface.apply(template)
    return template


def changed(preface: Preface) -> Environ:
    template = applied(preface)
    return {
        key: template.get(key) for key in template.keys() | TEMPLATE.keys() if template.get(key) != TEMPLATE.get(key)
    }


@STEPS
@pytest.mark.parametrize("mode", ["v1", "any"])
def test_example_of_version_1_is_read(mode: str, step: int) -> None:
    preface = read(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n" + REQUEST, mode, step)
    assert (preface.client, preface.server) == (("192.168.0.1", 56324), ("192.168.0.11", 443))
    assert changed(preface) == {"REMOTE_ADDR": "192.168.0.1", "REMOTE_PORT": "56324", "SERVER_PORT": "443"}


@STEPS
def test_longest_lines_of_version_1_are_read(step: int) -> None:
    longest = b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (MAX6, MAX6)
    assert len(longest) == 107
    assert not read(longest + REQUEST, "v1", step).is_proxied
    preface = read(b"PROXY TCP6 %b %b 65535 0\r\n" % (MAX6, MAX6) + REQUEST, "v1", step)
    assert preface.client == (MAX6.decode(), 65535)


@pytest.mark.parametrize(
    "line",
    [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN \r\n", b"PROXY UNKNOWN any thing \n\0 at all\r\n"],
)
def test_unknown_keeps_the_connections_own_addresses(line: bytes) -> None:
    assert changed(read(line + REQUEST, "v1")) == {}


@STEPS
@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP6 ::1%lo ::1 1 1\r\n",
        b"PROXY TCP6 :::1 ::1 1 1\r\n",
        b"PROXY TCP5 ::1 ::1 1 1\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n" + b"x" * 107,
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    ],
)
def test_malformed_lines_are_refused(line: bytes, step: int) -> None:
    with pytest.raises(Refused):
        read(line + REQUEST, "v1", step)


@STEPS
@pytest.mark.parametrize("mode", ["v1", "v2", "any"])
@pytest.mark.parametrize("data", [REQUEST, b"\x16\x03\x01\x02\0", b"P" + REQUEST, b"\r\n\r\nGET", b"PROXX", b"\0"])
def test_connection_without_a_preface_is_refused(data: bytes, mode: str, step: int) -> None:
    with pytest.raises(Refused, match="no PROXY"):
        read(data, mode, step)


def test_the_other_version_is_refused() -> None:
    with pytest.raises(Refused, match="no PROXY v2"):
        read(b"PROXY UNKNOWN\r\n" + REQUEST, "v2")
    with pytest.raises(Refused, match="no PROXY v1"):
        read(v2(TCP4) + REQUEST, "v1")


def test_first_wrong_byte_is_refused_at_once() -> None:
    reader = PrefaceReader("any")
    assert reader.idle
    assert reader.feed(b"PRO") is None
    assert not reader.idle
    with pytest.raises(Refused):
        reader.feed(b"D")


@STEPS
@pytest.mark.parametrize("mode", ["v2", "any"])
def test_addresses_of_version_2_are_read(mode: str, step: int) -> None:
    preface = read(v2(TCP4) + REQUEST, mode, step)
    assert (preface.client, preface.server) == (("192.0.2.1", 50000), ("198.51.100.2", 443))
    assert changed(preface) == {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "50000", "SERVER_PORT": "443"}
    preface = read(v2(TCP6, family=0x21) + REQUEST, mode, step)
    assert (preface.client, preface.server) == (("2001:db8::1", 65535), ("2001:db8::2", 80))
    preface = read(v2(UNIX, family=0x31) + REQUEST, mode, step)
    assert changed(preface) == {"REMOTE_ADDR": "", "REMOTE_PORT": None}


@STEPS
@pytest.mark.parametrize("block", [b"", TCP4, b"garbage" * 9])
def test_local_and_unspecified_keep_the_connections_own_addresses(block: bytes, step: int) -> None:
    for family in (0x00, 0x11, 0x21, 0xFF):
        assert changed(read(v2(block, command=0x20, family=family) + REQUEST, "v2", step)) == {}
    assert changed(read(v2(b"", family=0x00) + REQUEST, "v2", step)) == {}
    assert changed(read(v2(tls(), family=0x00) + REQUEST, "v2", step)) == {}


@STEPS
@pytest.mark.parametrize(
    ("command", "family", "block"),
    [
        (0x21, 0x11, b""),  # of length 0, though it needs addresses
        (0x21, 0x11, TCP4[:-1]),
        (0x21, 0x21, TCP4),
        (0x21, 0x31, UNIX[:-1]),
        (0x22, 0x11, TCP4),
        (0x11, 0x11, TCP4),
        (0x01, 0x11, TCP4),
        (0x21, 0x12, TCP4),
        (0x21, 0x41, TCP4),
        (0x21, 0x13, TCP4),
        (0x21, 0x11, TCP4 + b"\x04"),
        (0x21, 0x11, TCP4 + b"\x04\0"),
        (0x21, 0x11, TCP4 + b"\x04\0\x01"),
        (0x21, 0x11, TCP4 + b"\x04\xff\xff1"),
        (0x21, 0x11, TCP4 + tlv(0x20, b"\x01\0\0\0")),
        (0x21, 0x11, TCP4 + tls(1, 0, b"\x21\0\xff")),
        (0x21, 0x11, TCP4 + tlv(0x05, b"x" * 129)),
        (0x21, 0x11, TCP4 + tlv(0x03, b"\0\0\0\0")),
        (0x21, 0x11, TCP4 + tlv(0x03, b"\0\0\0")),
        (0x21, 0x00, b"\x04"),
    ],
)
def test_malformed_headers_are_refused(command: int, family: int, block: bytes, step: int) -> None:
    with pytest.raises(Refused):
        read(v2(block, command=command, family=family) + REQUEST, "v2", step)


def test_header_that_is_too_long_is_refused_before_it_has_come() -> None:
    with pytest.raises(Refused, match="65535 bytes"):
        PrefaceReader("any").feed(SIGNATURE + b"\x21\x11\xff\xff")


def test_checksum_is_the_one_of_the_standards() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("before", [b"", tlv(0x04, b"padding")])
def test_checksum_is_verified(before: bytes) -> None:
    blank = v2(TCP4 + before + tlv(0x03, bytes(4)) + tlv(0xE0, b"x"))
    at = len(blank) - 8
    good = blank[:at] + crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]
    assert read(good + REQUEST).client == ("192.0.2.1", 50000)
    with pytest.raises(Refused, match="checksum"):
        read(good.replace(TCP4, TCP4[::-1]) + REQUEST)


def test_tls_is_known_from_its_own_part_only() -> None:
    assert applied(read(v2(TCP4) + REQUEST))["wsgi.url_scheme"] == "http"
    assert applied(read(v2(TCP4 + tlv(0x02, b"example.org")) + REQUEST)).get("SSL_TLS_SNI") is None
    assert "HTTPS" not in applied(read(v2(TCP4 + tls(0)) + REQUEST))
    parts = tls(1, 0, tlv(0x21, b"TLSv1.3"), tlv(0x23, b"ECDHE-X"), tlv(0x99, b"?")) + tlv(0x02, b"example.org")
    assert {key: value for key, value in changed(read(v2(TCP4 + parts) + REQUEST)).items() if "_ADDR" not in key} == {
        "REMOTE_PORT": "50000",
        "SERVER_PORT": "443",
        "HTTPS": "on",
        "wsgi.url_scheme": "https",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "ECDHE-X",
        "SSL_CLIENT_VERIFY": "NONE",
        "SSL_TLS_SNI": "example.org",
    }


@pytest.mark.parametrize("client", [3, 5, 7])
def test_client_certificate_has_a_name_only_if_it_was_verified(client: int) -> None:
    certificate = b"\x30\x82" + bytes(range(100))
    parts = tlv(0x22, "Zoë".encode()), tlv(0x28, certificate)
    good = applied(read(v2(TCP4 + tls(client, 0, *parts)) + REQUEST))
    assert (good["SSL_CLIENT_VERIFY"], good["SSL_CLIENT_S_DN_CN"]) == ("SUCCESS", "Zo\xc3\xab")
    assert ssl.PEM_cert_to_DER_cert(good["SSL_CLIENT_CERT"]) == certificate
    bad = applied(read(v2(TCP4 + tls(client, 18, *parts)) + REQUEST))
    assert bad["SSL_CLIENT_VERIFY"] == "FAILED:18"
    assert "SSL_CLIENT_S_DN_CN" not in bad and "SSL_CLIENT_CERT" not in bad
    assert "SSL_CLIENT_S_DN_CN" not in applied(read(v2(TCP4 + tls(1, 0, *parts)) + REQUEST))


def test_control_characters_do_not_reach_the_environ() -> None:
    parts = tls(3, 0, tlv(0x22, b"a\r\nb"), tlv(0x21, b"\0")) + tlv(0x02, b"a\nb")
    template = applied(read(v2(TCP4 + parts) + REQUEST))
    assert set(template) & {"SSL_CLIENT_S_DN_CN", "SSL_PROTOCOL", "SSL_TLS_SNI"} == set()
    assert applied(read(v2(TCP4 + tlv(0x05, b"id-7")) + REQUEST))["UNIQUE_ID"] == "id-7"
    assert applied(read(v2(TCP4 + tlv(0x05, b"\0\xff")) + REQUEST))["UNIQUE_ID"] == "00ff"
