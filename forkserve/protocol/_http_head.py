"""What a request's head may say: names of fields, Host, targets, sizes. RFC 9110 section 5, RFC 9112 section 3.

The half of protocol/http.py that knows no parser and no state; called for what a plain request does not have, and
where a table has no answer yet.
"""

import re

from forkserve.protocol.types import (
    BAD_REQUEST,
    FORWARDED,
    HOST,
    HTTP11,
    KEEP_ALIVE,
    TOO_LARGE,
    Environ,
    Limits,
    Refused,
    unescaped,
)

FRAMED = 1 << 16  # a mark beside the flags of a request: it has a body, or expects something

# Field names as they are written -> environ keys; None: unusual, a body's framing or not for every app to see.
# Filled as names are met, up to a bound that no honest set of clients reaches, so that a hostile one cannot grow it.
NAMES: dict[bytes, str | None] = {}
UNUSUAL: dict[bytes, tuple[str, int]] = {}  # of the unusual names the key and the mark; key "": dropped
HOSTS: set[str] = set()  # that were found well-formed
_NAMES_LIMIT = 1024

_FRAMING = {
    b"content-length": "CONTENT_LENGTH",
    b"transfer-encoding": "HTTP_TRANSFER_ENCODING",
    b"expect": "HTTP_EXPECT",
}
_PROXY_WORD = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip")  # what a proxy says of its client
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)


def environ_key(name: bytes) -> str | None:
    """Return what NAMES has, or would have, for a field name."""
    lower = name.lower()
    key: str | None = None
    # `X_A` and `X-A` would be one key, so a proxy's word could be forged; Proxy would be HTTP_PROXY (httpoxy).
    if not (b"_" in name or lower == b"proxy" or lower in _FRAMING or _PROXY_WORD.fullmatch(lower)):
        key = "CONTENT_TYPE" if lower == b"content-type" else _spelled(name)
    if len(NAMES) < _NAMES_LIMIT and len(name) <= 64:
        NAMES[name] = key
    return key


def unusual_key(name: bytes) -> tuple[str, int]:
    """Return what UNUSUAL has, or would have, for a field name that has no key in NAMES."""
    lower = name.lower()
    if lower in _FRAMING:
        entry = (_FRAMING[lower], FRAMED)
    elif b"_" not in name and _PROXY_WORD.fullmatch(lower):
        entry = (_spelled(name), FORWARDED)
    else:
        entry = ("", 0)
    if len(UNUSUAL) < _NAMES_LIMIT and len(name) <= 64:
        UNUSUAL[name] = entry
    return entry


def _spelled(name: bytes) -> str:
    return "HTTP_" + name.decode("ascii").upper().replace("-", "_")


def header_name(key: str) -> str:
    """Spell an environ key as the field that it was, short enough for a line of the log."""
    return key.removeprefix("HTTP_").replace("_", "-").title()[:64]


def check_host(host: str) -> None:
    """Raise Refused for a Host that is none."""
    if not HOST.fullmatch(host):
        raise Refused(BAD_REQUEST, "malformed Host")
    if len(HOSTS) < _NAMES_LIMIT and len(host) <= 128:
        HOSTS.add(host)


def read_flags(version: str, stays: bool, environ: Environ) -> int:
    """Return the flags of a request that says something about its connection (``stays``), or is not HTTP/1.1."""
    flags = KEEP_ALIVE if stays else 0
    if version == "1.1":
        return flags | HTTP11
    if version != "1.0":
        raise Refused("505 HTTP Version Not Supported", f"HTTP/{version}")
    environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    if "HTTP_TRANSFER_ENCODING" in environ:
        raise Refused(BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
    return flags


def read_target(environ: Environ, target: str) -> None:
    """Read a target that is encoded, absolute, `*` or an authority: RFC 9112 section 3.2."""
    environ["RAW_URI"] = environ["REQUEST_URI"] = target
    if "#" in target:
        raise Refused(BAD_REQUEST, "a fragment in the target")
    path = target
    if target == "*":
        if environ["REQUEST_METHOD"] != "OPTIONS":
            raise Refused(BAD_REQUEST, "* is for OPTIONS only")
    elif target[0] != "/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1]:
            raise Refused(BAD_REQUEST, "malformed target")
        check_host(absolute[1])
        environ["HTTP_HOST"] = absolute[1]  # section 3.2.2: the target's authority replaces Host
        path = absolute[2]
        if path[:1] != "/":
            path = "/" + path
    path, _, environ["QUERY_STRING"] = path.partition("?")
    if "%" in path:
        path = unescaped(path)
    environ["PATH_INFO"] = path


def measure(environ: Environ, template: Environ, line: bytes, limits: Limits) -> None:
    """Raise Refused for a request line or a field that is too long."""
    if len(line) + len(" HTTP/1.1") > limits.line_bytes:
        raise Refused("414 URI Too Long", f"the request line has more than {limits.line_bytes} bytes")
    for key, text in environ.items():
        if key not in template and len(key.removeprefix("HTTP_")) + 2 + len(text) > limits.field_bytes:
            raise Refused(TOO_LARGE, f"{header_name(key)} has more than {limits.field_bytes} bytes")


_LENGTH_DIGITS = 20  # of the largest number that llhttp takes


def body_length(environ: Environ, flags: int) -> int:
    """Return a body's length in bytes, -1 for one in chunks: RFC 9112 section 6; llhttp has refused the rest."""
    expect = environ.get("HTTP_EXPECT")
    if expect is not None and flags & HTTP11 and expect.lower() != "100-continue":
        raise Refused("417 Expectation Failed", "an expectation other than 100-continue")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is None:
        length = environ.get("CONTENT_LENGTH", "0")
        if len(length) > _LENGTH_DIGITS:  # llhttp takes any number of zeros in front, int() 4,300 digits
            raise Refused(BAD_REQUEST, f"a Content-Length of {len(length)} digits")
        return int(length)
    if coding.lower() != "chunked":
        raise Refused("501 Not Implemented", "a transfer coding other than chunked")
    return -1


def begun(environ: Environ, method: bytes, target: bytes, version: str) -> Environ:
    """Return what is known of a request whose head is not whole; ``version`` as llhttp has it, "0.0" for none yet."""
    line = {"REQUEST_METHOD": method.decode("ascii"), "RAW_URI": target.decode("latin-1")}
    return environ | line | {"SERVER_PROTOCOL": f"HTTP/{version}" if version != "0.0" else ""}
