"""The preface of the PROXY protocol, versions 1 and 2: who the client is, said once before a connection's first byte.

Knows no socket and no app. An address is configured to want it or not; nothing here looks whether there is one, since
whoever may choose to send it may choose who he is: where it is wanted and does not come, the connection is refused.
Source: "The PROXY protocol, Versions 1 & 2" of HAProxy, whose sections the comments name.
"""

import re
from binascii import b2a_base64
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from forkserve.protocol.types import BAD_REQUEST, Environ, Refused

MODES = ("v1", "v2", "any")

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1_BEGIN = b"PROXY "
_V1_BYTES = 107  # section 2.1: the longest line, its CRLF included
_V2_HEAD_BYTES = 16
_MOST_V2_BYTES = 16 * 1024  # of addresses and TLVs: a client certificate among them fits several times

_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
_V1_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")

# Section 2.2: command, family and transport, types of TLVs.
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}
_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER, _SSL_CERTIFICATE = 0x21, 0x22, 0x23, 0x28
_CLIENT_SSL, _CLIENT_CERTIFICATE = 0x01, 0x02 | 0x04
_UNIQUE_ID_BYTES = 128

_WITHOUT_CONTROLS = re.compile(r"[^\x00-\x1f\x7f]*")

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Preface:
    """What the proxy said, and the bytes that came after it."""

    rest: bytes
    is_proxied: bool = False  # False: LOCAL and UNKNOWN, the connection's own addresses hold
    client: Endpoint | None = None  # None beside is_proxied: a unix socket
    server: Endpoint | None = None
    variables: dict[str, str] = field(default_factory=dict)  # of TLS and the rest, for the environ

    def apply(self, template: Environ) -> None:
        """Write it into a connection's template."""
        if not self.is_proxied:
            return
        template["REMOTE_ADDR"] = ""
        template.pop("REMOTE_PORT", None)
        if self.client is not None:
            template["REMOTE_ADDR"] = self.client[0]
            template["REMOTE_PORT"] = str(self.client[1])
        if self.server is not None:
            template["SERVER_PORT"] = str(self.server[1])
        template.update(self.variables)
        if "HTTPS" in self.variables:
            template["wsgi.url_scheme"] = "https"


class PrefaceReader:
    """Reads one preface; feed it what arrives until it gives a Preface."""

    def __init__(self, mode: str) -> None:
        """``mode``: "v1", "v2" or "any"."""
        assert mode in MODES
        self._begins = {"v1": (_V1_BEGIN,), "v2": (SIGNATURE,), "any": (_V1_BEGIN, SIGNATURE)}[mode]
        self._wanted = "v1 or v2" if mode == "any" else mode
        self._read = bytearray()

    @property
    def idle(self) -> bool:
        """Whether nothing has arrived."""
        return not self._read

    def feed(self, data: bytes | memoryview) -> Preface | None:
        """Read ``data``; None: more is needed. Raises Refused, after which nothing may be answered but the end."""
        read = self._read
        read += data
        for begin in self._begins:
            if read[: len(begin)] == begin[: len(read)]:
                if len(read) < len(begin):
                    return None
                return self._read_v1() if begin is _V1_BEGIN else self._read_v2()
        raise _refused(f"no PROXY {self._wanted} header, which this address wants")

    def _read_v1(self) -> Preface | None:
        end = self._read.find(b"\r\n", 0, _V1_BYTES)
        if end < 0:
            if len(self._read) >= _V1_BYTES:
                raise _refused(f"a PROXY v1 line of more than {_V1_BYTES} bytes")
            return None
        line, rest = bytes(self._read[:end]), bytes(self._read[end + 2 :])
        if _V1_UNKNOWN.fullmatch(line):
            return Preface(rest)
        match = _V1_LINE.fullmatch(line)
        if match is None:
            raise _refused("malformed PROXY v1 line")
        address = IPv4Address if match[1] == b"4" else IPv6Address
        client_port, server_port = int(match[4]), int(match[5])
        try:
            client, server = str(address(match[2].decode())), str(address(match[3].decode()))
        except AddressValueError:
            raise _refused("malformed address in a PROXY v1 line") from None
        if max(client_port, server_port) > 65535:
            raise _refused("malformed port in a PROXY v1 line")
        return Preface(rest, True, (client, client_port), (server, server_port))

    def _read_v2(self) -> Preface | None:
        if len(self._read) < _V2_HEAD_BYTES:
            return None
        length = int.from_bytes(self._read[14:16])
        if length > _MOST_V2_BYTES:
            raise _refused(f"a PROXY v2 header of {length} bytes")
        end = _V2_HEAD_BYTES + length
        if len(self._read) < end:
            return None
        header, rest = bytes(self._read[:end]), bytes(self._read[end:])
        if header[12] == _LOCAL:  # a health check of the proxy itself: all else is to be discarded
            return Preface(rest)
        if header[12] != _PROXY:
            raise _refused(f"version and command of a PROXY v2 header are {header[12]:#x}")
        return _proxied(header, rest)


def _refused(reason: str) -> Refused:
    return Refused(BAD_REQUEST, reason)


def _proxied(header: bytes, rest: bytes) -> Preface:
    """Read the addresses and TLVs of a v2 header with the command PROXY."""
    family = header[13]
    size = _ADDRESS_BYTES.get(family)
    if size is None:
        raise _refused(f"family and transport of a PROXY v2 header are {family:#x}")
    at = _V2_HEAD_BYTES + size
    if at > len(header):
        raise _refused("a PROXY v2 header too short for its addresses")
    variables = _variables(header, at)
    if family == _UNSPEC:  # the connection's own addresses hold
        return Preface(rest)
    if family == _UNIX:
        return Preface(rest, True, variables=variables)
    address, width = (IPv4Address, 4) if family == _TCP4 else (IPv6Address, 16)
    block = header[_V2_HEAD_BYTES:at]
    client = str(address(block[:width])), int.from_bytes(block[2 * width : 2 * width + 2])
    server = str(address(block[width : 2 * width])), int.from_bytes(block[2 * width + 2 :])
    return Preface(rest, True, client, server, variables)


def _tlvs(block: bytes, at: int) -> dict[int, tuple[int, bytes]]:
    """Read TLVs from ``at`` to the end of ``block``: for each type where its value begins, and the value."""
    found = {}
    while at < len(block):
        value_at = at + 3
        end = value_at + int.from_bytes(block[at + 1 : value_at])
        if value_at > len(block) or end > len(block):
            raise _refused("a part of a PROXY v2 header reaches beyond its end")
        found[block[at]] = (value_at, block[value_at:end])
        at = end
    return found


def _variables(header: bytes, at: int) -> dict[str, str]:
    """Give the variables that the TLVs are worth."""
    found = _tlvs(header, at)
    variables: dict[str, str] = {}
    if _CRC32C in found:
        value_at, checksum = found[_CRC32C]
        if len(checksum) != 4 or crc32c(header[:value_at] + bytes(4) + header[value_at + 4 :]) != int.from_bytes(
            checksum
        ):
            raise _refused("the checksum of a PROXY v2 header is wrong")
    if _UNIQUE_ID in found:
        value = found[_UNIQUE_ID][1]
        if len(value) > _UNIQUE_ID_BYTES:
            raise _refused(f"a unique id of {len(value)} bytes in a PROXY v2 header")
        variables["UNIQUE_ID"] = value.decode("ascii") if value.isascii() and _is_text(value) else value.hex()
    if _SSL in found:
        variables |= _tls_variables(found[_SSL][1])
    if _AUTHORITY in found and "HTTPS" in variables:
        _put(variables, "SSL_TLS_SNI", found[_AUTHORITY][1])
    return variables


def _tls_variables(block: bytes) -> dict[str, str]:
    """Give the variables of the TLV of TLS (section 2.2.6), named as Apache's mod_ssl names them."""
    if len(block) < 5:
        raise _refused("a TLS part of a PROXY v2 header too short")
    if not block[0] & _CLIENT_SSL:
        return {}
    found = {kind: value for kind, (_, value) in _tlvs(block, 5).items()}
    variables = {"HTTPS": "on", "SSL_CLIENT_VERIFY": "NONE"}
    _put(variables, "SSL_PROTOCOL", found.get(_SSL_VERSION, b""))
    _put(variables, "SSL_CIPHER", found.get(_SSL_CIPHER, b""))
    if block[0] & _CLIENT_CERTIFICATE:
        verdict = int.from_bytes(block[1:5])
        variables["SSL_CLIENT_VERIFY"] = f"FAILED:{verdict}" if verdict else "SUCCESS"
        if not verdict:  # an app that forgets to look at the verdict must not find a name
            _put(variables, "SSL_CLIENT_S_DN_CN", found.get(_SSL_CN, b""))
            if _SSL_CERTIFICATE in found:
                variables["SSL_CLIENT_CERT"] = _pem(found[_SSL_CERTIFICATE])
    return variables


def _put(variables: dict[str, str], key: str, value: bytes) -> None:
    """Set a variable that has a value, unless there are control characters in it."""
    if value and _is_text(value):
        variables[key] = value.decode("latin-1")


def _is_text(value: bytes) -> bool:
    return _WITHOUT_CONTROLS.fullmatch(value.decode("latin-1")) is not None


def _pem(der: bytes) -> str:
    lines = [b2a_base64(der[at : at + 48]).decode("ascii") for at in range(0, len(der), 48)]
    return f"-----BEGIN CERTIFICATE-----\n{''.join(lines)}-----END CERTIFICATE-----\n"


_crc_table: list[int] = []


def crc32c(data: bytes) -> int:
    """The checksum of section 2.2.3: CRC-32 with Castagnoli's polynomial, reflected (RFC 9260, appendix A)."""
    if not _crc_table:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
            _crc_table.append(byte)
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ _crc_table[(checksum ^ byte) & 0xFF]
    return checksum ^ 0xFFFFFFFF
