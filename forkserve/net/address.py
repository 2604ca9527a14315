"""Addresses as people write them: parse, print, compare. Pure.

An Address is a place to listen at, not a socket: host names are resolved and descriptors looked at when the
listener is bound. The spellings are Gunicorn's, plus ``unix://PATH``, ``unix:@name``, ``fd://NAME``, ``http://HOST:PORT``;
and in front of each the protocol of a gateway: ``uwsgi://HOST:PORT``, ``fastcgi://unix:PATH``, ``scgi://fd://3``.
Two spellings of one place are equal: ``[0:0::1]:80`` and ``[::1]:80``, ``unix:run//x`` and ``unix:./run/x``.
"""

import re
from enum import Enum
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from forkserve.typed import Struct, replaced

DEFAULT_PORT = 8000
HTTP = "http"
GATEWAYS = ("uwsgi", "fastcgi", "scgi")  # the protocols beside it
EVERY_INTERFACE = "0.0.0.0"

_HIGHEST_PORT = 65535
_HIGHEST_FD = 2**31 - 1
# sun_path holds 108 bytes (unix(7)): a path ends in NUL, an abstract name begins with one.
LONGEST_PATH_BYTES = 107
_LONGEST_NAME = 253  # RFC 1035 section 2.3.4, without the root's dot

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_FD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,253}")  # of those that systemd.socket(5) allows
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")
_EXPECTED = "expected HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N or fd://NAME"


class Family(Enum):
    """What kind of place an address names."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    NAME = "name"  # a host name and a port; resolved at bind
    UNIX = "unix"
    ABSTRACT = "abstract"
    FD = "fd"


class Address(Struct, frozen=True):
    """One place to listen at; the fields that its family does not use keep their defaults."""

    family: Family
    host: str = ""  # IPV4, IPV6 (without brackets), NAME
    port: int = 0  # IPV4, IPV6, NAME; 0: the kernel picks one
    path: str = ""  # UNIX: the path; ABSTRACT: the name without its @; FD: the name that its giver gave it
    fd: int = -1  # FD, unless it has a name
    protocol: str = ""  # as it was written; empty: the setting says it

    @property
    def is_tcp(self) -> bool:
        """Whether host and port say where."""
        return self.family in (Family.IPV4, Family.IPV6, Family.NAME)

    def speaking(self, protocol: str) -> "Address":
        """Return it as one that speaks its own protocol, else ``protocol``; HTTP is not spelled any more."""
        spoken = self.protocol or protocol
        return replaced(self, protocol="" if spoken == HTTP else spoken)

    def overlaps(self, other: "Address") -> bool:
        """Whether both are places of TCP, each its own, at which the same connection could arrive."""
        if self == other or self.port != other.port or self.family is not other.family:
            return False
        if self.family is Family.IPV4:
            return EVERY_INTERFACE in (self.host, other.host)
        return self.family is Family.IPV6 and "::" in (self.host, other.host)

    def named(self, place: str) -> str:
        """Put its protocol before the name of a place."""
        return f"{self.protocol}://{place}" if self.protocol else place

    def __str__(self) -> str:
        """Spell it so that parse() gives an equal address."""
        return self.named(self.place)

    @property
    def place(self) -> str:
        """Spell it without its protocol."""
        match self.family:
            case Family.UNIX:
                return f"unix:{self.path}"
            case Family.ABSTRACT:
                return f"unix:@{self.path}"
            case Family.FD:
                return f"fd://{self.path or self.fd}"
            case Family.IPV6:
                return f"[{self.host}]:{self.port}"
            case Family.IPV4 | Family.NAME:
                return f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Read one address; raise ValueError with a reason that says what was expected."""
    if not text:
        raise ValueError(f"is empty; {_EXPECTED}")
    if "\0" in text:
        raise ValueError('holds a NUL; an abstract name is written "unix:@name"')
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:").removeprefix("//"))
    if text.startswith("fd://"):
        return _parse_fd(text.removeprefix("fd://"))
    scheme, mark, rest = text.partition("://")
    if not mark:
        return _parse_tcp(text)
    match scheme:
        case "tcp":
            return _parse_tcp(rest)
        case "http" | "uwsgi" | "fastcgi" | "scgi":
            return replaced(_parse_spoken(scheme, rest), protocol=scheme)
    raise ValueError(f"{scheme}:// is not a kind of address; {_EXPECTED}")


def _parse_unix(path: str) -> Address:
    is_abstract = path.startswith("@")
    what = "abstract name" if is_abstract else "path"
    if is_abstract:
        path = path[1:]
    if not path:
        raise ValueError(f'the {what} after "unix:" is empty')
    if not is_abstract:
        if path.rpartition("/")[2] in ("", ".", ".."):
            raise ValueError(f'the path "{path}" names a folder; expected that of a socket')
        path = _tidy(path)
    length = len(path.encode(errors="surrogateescape"))
    if length > LONGEST_PATH_BYTES:
        raise ValueError(f"the {what} has {length} bytes; the kernel takes at most {LONGEST_PATH_BYTES}")
    return Address(Family.ABSTRACT if is_abstract else Family.UNIX, path=path)


def _tidy(path: str) -> str:
    """Drop what says nothing ("//" and "."); ".." stays, since symlinks give it a meaning."""
    root = "/" if path.startswith("/") else ""
    tidy = root + "/".join(part for part in path.split("/") if part not in ("", "."))
    return "./" + tidy if tidy.startswith("@") else tidy  # or it would read as an abstract name


def _parse_fd(text: str) -> Address:
    if _FD_NAME.fullmatch(text):
        return Address(Family.FD, path=text)
    number = _decimal(text)
    if number is None or number > _HIGHEST_FD:
        raise ValueError(
            f'"{text}" is neither the number nor the name of a file descriptor; expected fd://3 or fd://web'
        )
    return Address(Family.FD, fd=number)


def _parse_spoken(protocol: str, text: str) -> Address:
    if text.startswith(("unix:", "fd://")):
        return parse(text)
    if re.search(r":[0-9]+$", text) is None:
        # 80 to a browser, 8000 to Gunicorn's users: do not guess.
        raise ValueError(f"expected {protocol}://HOST:PORT, with the port and without a path")
    return _parse_tcp(text)


def _parse_tcp(text: str) -> Address:
    if "," in text:
        raise ValueError("is more than one address; write several as a list")
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError("the closing bracket is missing; expected [IPV6]:PORT")
        if rest and not rest.startswith(":"):
            raise ValueError(f'"{rest}" after the bracket; expected [IPV6]:PORT')
        return Address(Family.IPV6, _ipv6(inside), _port(rest[1:]) if rest else DEFAULT_PORT)
    if text.count(":") > 1:
        raise ValueError("an IPv6 address needs brackets; expected [IPV6]:PORT, such as [::1]:8000")
    host, colon, port = text.partition(":")
    if not colon and _decimal(host) is not None:
        raise ValueError(f'a port alone; write ":{host}" for every interface or "127.0.0.1:{host}" for this machine')
    if host in ("", "*"):
        host = EVERY_INTERFACE
    family, host = _host(host.lower())
    return Address(family, host, _port(port) if colon else DEFAULT_PORT)


def _host(host: str) -> tuple[Family, str]:
    if _LOOKS_LIKE_IPV4.fullmatch(host):
        try:
            return Family.IPV4, str(IPv4Address(host))
        except AddressValueError:
            raise ValueError(f'"{host}" is not an IPv4 address') from None
    if host == "unix":
        raise ValueError("the path is missing; expected unix:PATH")  # and unix:80 would be a path
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise ValueError(f'"{host}" is not a host name; {_EXPECTED}')
    return Family.NAME, host


def _ipv6(host: str) -> str:
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        raise ValueError(f'"{host}" is not an IPv6 address; expected [IPV6]:PORT, such as [::1]:8000') from None


def _port(text: str) -> int:
    number = _decimal(text)
    if number is None or number > _HIGHEST_PORT:
        raise ValueError(f'the port must be a number from 0 to {_HIGHEST_PORT}, not "{text}"')
    return number


def _decimal(text: str) -> int | None:
    """The number that up to ten ASCII digits spell; int() alone takes "+1", "1_0" and other scripts' digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
