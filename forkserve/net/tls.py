"""TLS of the service: from files and settings to one context that all workers inherit, and the certificate per name.

Runs in the master when settings are loaded: everything is read anew then, and a fault raises before anything changed.
A context made before the fork is one set of ticket keys, so a session that one worker began resumes at every other.
Whoever needs this module imports it lazily, only when ``certfile`` is set: the ssl module costs 7 ms of a start.
Sources: RFC 8446, RFC 6066 section 3 (SNI), RFC 6125 section 6.4.3 (wildcards), RFC 4514 (names as text).
"""

import _socket
import ipaddress
import os
import re
import ssl
import stat
import time
from _ssl import _test_decode_cert  # type: ignore[attr-defined]  # see read_certificate
from collections.abc import Iterable, Sequence
from typing import Any

from forkserve.errors import SettingsError
from forkserve.typed import Struct

# Forward secrecy and authenticated encryption only; those of TLS 1.3 are all of this kind and always on.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
HTTP_1_1 = "http/1.1"

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ASKED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_DAY_S = 86400.0
_SOON_S = 14 * _DAY_S
_LONGEST_FILE_BYTES = 16 << 20

# Attribute types that RFC 4514 section 3 and OpenSSL abbreviate, by the names that Python's ssl gives them.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "givenName": "GN",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "userId": "UID",
}
_SPECIAL = re.compile(r'[,+"\\<>;]|^[# ]| $')
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Certificate(Struct, frozen=True):
    """What a certificate file says of itself; moments are seconds of the epoch."""

    file: str
    subject: str
    names: tuple[str, ...]  # in lower case; a wildcard begins with "*."
    addresses: tuple[str, ...]
    begins_s: float
    expires_s: float

    def fields(self) -> dict[str, object]:
        """The pairs of its log line."""
        ends = time.strftime("%Y-%m-%d", time.gmtime(self.expires_s))
        names = " ".join((*self.names, *self.addresses))
        return {"file": self.file, "subject": self.subject, "names": names or "none", "expires": ends}

    def trouble(self, now_s: float) -> str:
        """Say what is or will soon be wrong with its time, as the end of a sentence; empty: nothing.

        Soon is two weeks, or the last third of a life that is shorter than six.
        """
        if now_s >= self.expires_s:
            return "certificate has expired"
        if now_s < self.begins_s:
            return "certificate is not valid yet"
        left_s = self.expires_s - now_s
        if left_s < min(_SOON_S, (self.expires_s - self.begins_s) / 3):
            return f"certificate expires in {int(left_s / _DAY_S)} days"
        return ""


class Session(ssl.SSLObject):
    """One connection's TLS; remembers the name that the client asked for."""

    asked: str = ""  # as it came, if it can be a host's
    sock: "_socket.socket | None" = None  # tells, by its own address, what a client without a name dialled


class Context(ssl.SSLContext):
    """The context of the service, that of the first certificate; the others are chosen from it by SNI."""

    sslobject_class = Session
    certificates: tuple[Certificate, ...] = ()


def make_contexts(
    certfile: Sequence[str],
    keyfile: Sequence[str],
    ca_certs: str = "",
    cert_reqs: str = "none",
    ciphers: str = "",
    tls_min_version: str = "1.2",
) -> Context:
    """Read all files and make the context; raise SettingsError with one line that names the file and the remedy."""
    check(certfile, keyfile, ca_certs, cert_reqs)
    keys = keyfile or certfile
    chooser = _Chooser()
    for file, key in zip(certfile, keys, strict=True):
        context = Context(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[tls_min_version]
        # No compression (CRIME), no renegotiation: a client could make the server sign again and again.
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols([HTTP_1_1])
        _set_ciphers(context, ciphers)
        certificate = _load_chain(context, file, key)
        _ask_clients(context, ca_certs, cert_reqs)
        chooser.add(context, certificate)
    default = chooser.default
    default.certificates = tuple(chooser.certificates)
    default.sni_callback = chooser.choose
    return default


def check(certfile: Sequence[str], keyfile: Sequence[str], ca_certs: str, cert_reqs: str) -> None:
    """Raise SettingsError where these settings do not go together, with or without certificates."""
    if not certfile:
        for name, value in (("keyfile", list(keyfile)), ("ca_certs", ca_certs)):
            if value:
                raise SettingsError(f"{name} = {value!r}: without certfile nothing speaks TLS; set certfile too")
        if cert_reqs != "none":
            raise SettingsError(f"cert_reqs = {cert_reqs!r}: without certfile nothing speaks TLS; set certfile too")
        return
    if keyfile and len(keyfile) != len(certfile):
        raise SettingsError(
            f"keyfile = {list(keyfile)!r}: {len(keyfile)} for {len(certfile)} of certfile; give one for each, or none"
            " and put each key into the file of its certificate"
        )
    if cert_reqs != "none" and not ca_certs:
        raise SettingsError(f"cert_reqs = {cert_reqs!r}: nobody vouches for clients; set ca_certs")
    if cert_reqs == "none" and ca_certs:
        # Who wrote this believes that clients are checked: rather no service than an open one.
        raise SettingsError(
            f"ca_certs = {ca_certs!r}: no client is asked for a certificate; set cert_reqs to optional or required"
        )


def read_certificate(file: str) -> Certificate:
    """Read the first certificate of a PEM file, which is the server's own; SettingsError says what is wrong with it.

    By a private function of CPython, the one that its own tests use: the same from 3.11 to 3.14, and the only one in
    the standard library that tells the names of a certificate which nobody has vouched for. (get_ca_certs shows
    certificate authorities only, getpeercert those of a verified peer.) test_tls.py would notice its end.
    """
    try:
        told: dict[str, Any] = _test_decode_cert(file)
    except ssl.SSLError:
        raise SettingsError(f"certfile = {file!r}: its first certificate is damaged; write it anew") from None
    except OSError as error:
        raise SettingsError(f"certfile = {file!r}: cannot be read: {error.strerror}") from None
    alternatives = told.get("subjectAltName", ())
    names = tuple(dict.fromkeys(_plain_name(text) for kind, text in alternatives if kind == "DNS"))
    addresses = tuple(dict.fromkeys(_plain_address(text) for kind, text in alternatives if kind == "IP Address"))
    if not names and not addresses:  # of an old kind: RFC 6125 section 6.4.4
        names = tuple(_plain_name(text) for rdn in told["subject"] for kind, text in rdn if kind == "commonName")
    return Certificate(
        file,
        distinguished_name(told["subject"]),
        names,
        addresses,
        ssl.cert_time_to_seconds(told["notBefore"]),
        ssl.cert_time_to_seconds(told["notAfter"]),
    )


def distinguished_name(rdns: Iterable[Iterable[tuple[str, str]]]) -> str:
    """Spell a name as RFC 4514 says, the last part first: ``CN=alice,O=Shop``."""
    parts = ["+".join(f"{_SHORT.get(kind, kind)}={_escaped(text)}" for kind, text in rdn) for rdn in rdns]
    return ",".join(reversed(parts))


class _Chooser:
    """The contexts by name. The first certificate that names something has it; the first of all has the rest."""

    def __init__(self) -> None:
        self.certificates: list[Certificate] = []
        self._contexts: list[Context] = []
        self._by_name: dict[str, Context] = {}
        self._by_parent: dict[str, Context] = {}  # of wildcards: what is right of their first dot

    @property
    def default(self) -> Context:
        return self._contexts[0]

    def add(self, context: Context, certificate: Certificate) -> None:
        """Put a context under every name of its certificate."""
        self.certificates.append(certificate)
        self._contexts.append(context)
        for name in (*certificate.names, *certificate.addresses):
            if name.startswith("*."):
                self._by_parent.setdefault(name[2:], context)
            else:
                self._by_name.setdefault(name, context)

    def find(self, name: str) -> Context:
        """Return the context for a name: an exact one before a wildcard, which stands for one whole label."""
        found = self._by_name.get(name) or self._by_parent.get(name.partition(".")[2])
        return found or self.default

    def choose(self, session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """What OpenSSL calls in each handshake, resumed ones too; ``name`` is plain ASCII, or None: not given."""
        assert isinstance(session, Session)
        if name is not None:
            session.asked = name if _HOST.match(name) else ""
            found = self.find(_plain_name(name))
        elif len(self._contexts) > 1 and session.sock is not None:
            found = self.find(_own_address(session.sock))  # RFC 6066: who dials an address cannot say so by SNI
        else:
            return
        if found is not context:
            session.context = found


def _own_address(sock: _socket.socket) -> str:
    place = sock.getsockname()
    return str(place[0]).removeprefix("::ffff:") if isinstance(place, tuple) else ""


def _set_ciphers(context: Context, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers or CIPHERS)
    except ssl.SSLError:
        raise SettingsError(
            f"ciphers = {ciphers!r}: OpenSSL finds none of that name; `openssl ciphers -v` lists what it knows"
        ) from None


def _load_chain(context: Context, file: str, key: str) -> Certificate:
    if b"-----BEGIN CERTIFICATE-----" not in _content("certfile", file):
        raise SettingsError(f"certfile = {file!r}: holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    certificate = read_certificate(file)
    # The key may have to be put into the file of the certificate, or be named.
    what, remedy = ("certfile", "; add it or set keyfile") if key == file else ("keyfile", "")
    if b"PRIVATE KEY-----" not in _content(what, key):
        raise SettingsError(f"{what} = {key!r}: holds no private key in PEM (-----BEGIN PRIVATE KEY-----){remedy}")
    try:
        context.load_cert_chain(file, key, password=_nobody_types)
    except _Encrypted:
        raise SettingsError(
            f"{what} = {key!r}: the private key is encrypted, and nobody types its password at a reload; store it"
            f" without: openssl pkey -in {key} -out PLAIN.pem"
        ) from None
    except ssl.SSLError as error:
        raise SettingsError(_why(error, file, what, key)) from None
    except OSError as error:
        raise SettingsError(f"certfile = {file!r}: cannot be read: {error.strerror}") from None
    return certificate


class _Encrypted(Exception):
    """OpenSSL wants a password."""


def _nobody_types() -> str:
    raise _Encrypted


def _why(error: ssl.SSLError, file: str, what: str, key: str) -> str:
    reason = error.reason or ""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return (
            f"{what} = {key!r}: the private key does not belong to the first certificate of {file!r}; give its own,"
            " and put the server's certificate before those that vouch for it"
        )
    if not reason:
        return f"{what} = {key!r}: the private key or the chain in {file!r} is damaged; write them anew"
    return f"certfile = {file!r}: OpenSSL refuses it: {reason.replace('_', ' ').lower()}"


def _ask_clients(context: Context, ca_certs: str, cert_reqs: str) -> None:
    context.verify_mode = _ASKED[cert_reqs]
    if cert_reqs == "none":
        return
    _content("ca_certs", ca_certs)
    # So that an authority below a root can be trusted alone.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(ca_certs)
    except ssl.SSLError:
        raise SettingsError(f"ca_certs = {ca_certs!r}: holds no certificate in PEM, or a damaged one") from None


def _content(name: str, path: str) -> bytes:
    """Read a file whole: OpenSSL would not say which one it cannot read. SettingsError names the setting."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would hold up the master
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SettingsError(f"{name} = {path!r}: is not a file; give the path of a file in PEM")
            return os.read(fd, _LONGEST_FILE_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise SettingsError(f"{name} = {path!r}: cannot be read: {error.strerror}") from None


def _plain_name(name: str) -> str:
    return name.lower().rstrip(".")


def _plain_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\{ord(match.group()):02X}", _SPECIAL.sub(r"\\\g<0>", text))
