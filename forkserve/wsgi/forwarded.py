"""What a proxy that we believe says of its client, into the environ: X-Forwarded-*, and Forwarded (RFC 7239).

Pure; runs in a worker, for requests that have such fields and whose peer is believed (others lose the fields in the
decoder). What is malformed is as good as not said. Each proxy adds the address that it saw at the right: so, reading
from there, the first that is no proxy of ours is the client; what is left of it anybody may have written.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from forkserve.net.trust import Trust
from forkserve.protocol.types import HOST, Environ

_X_KEYS = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_SSL",
    "HTTP_X_FORWARDED_PROTOCOL",
)
_MOST_HOPS = 64

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# A path, not `//host`, which would make the app's links point elsewhere; no query, no controls, no backslash.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+;=:@%\x80-\xff]+)*/?")
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")

# RFC 7239 section 4.
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PAIR = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
_STOP = re.compile(r"[ \t]*(;|,(?:[ \t]*,)*)[ \t]*")  # RFC 9110 section 5.6.1: elements may be empty
_SPACE = re.compile(r"[ \t]*")
_QUOTED_PAIR = re.compile(r"\\(.)")


class _Said(NamedTuple):
    """What the believed proxies say; "" where nothing."""

    address: str = ""
    port: str = ""  # the client's
    scheme: str = ""
    host: str = ""
    server_port: str = ""
    prefix: str = ""


def apply(environ: Environ, trust: Trust) -> None:
    """Replace what the environ says of the client and its request by what the believed peer says.

    X-Forwarded-* wins over Forwarded, which is then removed: nearly every proxy writes the first and passes on the
    second as the client wrote it. A proxy that writes Forwarded has to remove the others' fields.
    """
    if any(key in environ for key in _X_KEYS):
        environ.pop("HTTP_FORWARDED", None)
        said = _read_x(environ, trust)
    else:
        elements = _parse(environ.get("HTTP_FORWARDED", ""))
        if elements is None:
            return
        said = _read_forwarded(elements, trust)
    if said.address:
        environ["REMOTE_ADDR"] = said.address
        environ.pop("REMOTE_PORT", None)
        if said.port:
            environ["REMOTE_PORT"] = said.port
    _apply_server(environ, said)


def _apply_server(environ: Environ, said: _Said) -> None:
    """Write how the client addressed us: scheme, host, port, prefix."""
    if said.scheme:
        environ["wsgi.url_scheme"] = said.scheme
        if said.scheme == "https":
            environ["HTTPS"] = "on"
        else:
            environ.pop("HTTPS", None)
    if said.host:
        environ["HTTP_HOST"] = said.host
        environ["SERVER_NAME"] = _split_host(said.host)[0]
    if said.server_port:
        environ["SERVER_PORT"] = said.server_port
    elif said.scheme or said.host:
        port = _split_host(environ.get("HTTP_HOST", ""))[1]
        environ["SERVER_PORT"] = port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")
    if said.prefix and said.prefix != environ["SCRIPT_NAME"]:
        environ["SCRIPT_NAME"] = said.prefix + environ["SCRIPT_NAME"]


def _read_x(environ: Environ, trust: Trust) -> _Said:
    hops = _list(environ.get("HTTP_X_FORWARDED_FOR", ""))
    at, address, port = _client(hops, trust)

    def said(key: str) -> str:
        # One value for each hop: the client's hop has its own. Else the right-most, the word of the peer itself.
        words = _list(environ.get(key, ""))
        if not words:
            return ""
        return words[at] if len(words) == len(hops) else words[-1]

    return _Said(
        address,
        port,
        _SCHEMES.get(said("HTTP_X_FORWARDED_PROTO").lower(), "") or _older_scheme(said),
        _host(said("HTTP_X_FORWARDED_HOST")),
        _valid_port(said("HTTP_X_FORWARDED_PORT")),
        _prefix(said("HTTP_X_FORWARDED_PREFIX")),
    )


def _older_scheme(said: Callable[[str], str]) -> str:
    """Return what older spellings say, which know of no http: `X-Forwarded-Ssl: on`, `X-Forwarded-Protocol: ssl`."""
    protocol = said("HTTP_X_FORWARDED_PROTOCOL").lower()
    return "https" if said("HTTP_X_FORWARDED_SSL").lower() == "on" or protocol in ("ssl", "https") else ""


def _read_forwarded(elements: list[dict[str, str]], trust: Trust) -> _Said:
    at, address, port = _client([element.get("for", "") for element in elements], trust)
    element = elements[at]
    return _Said(address, port, _SCHEMES.get(element.get("proto", "").lower(), ""), _host(element.get("host", "")))


def _client(hops: list[str], trust: Trust) -> tuple[int, str, str]:
    """Find the right-most hop that is no proxy of ours: its place, address and port.

    What is no address ("unknown", "_hidden", garbage) ends the search: the hop that said so is the last one known.
    Where every hop is a proxy of ours, the left-most is the client.
    """
    at, address, port = -1, "", ""
    for place in range(-1, -1 - min(len(hops), _MOST_HOPS), -1):
        node = _NODE.fullmatch(hops[place])
        known = trust.look_up((node[1] or node[2]) if node else hops[place])
        if known is None:
            break
        at, address, port = place, known[0], _valid_port(node[3] or "") if node else ""
        if not known[1]:
            break
    return at, address, port


def _list(text: str) -> list[str]:
    return [word.strip(" \t") for word in text.split(",")] if text else []


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) <= 65535


def _valid_port(text: str) -> str:
    return text if _is_port(text) else ""


def _host(text: str) -> str:
    return text if HOST.fullmatch(text) and text[:1] != ":" else ""


def _split_host(host: str) -> tuple[str, str]:
    """Part a Host into name and port; "" where there is no port, or none that can be."""
    name, colon, port = host.rpartition(":")
    return (name, _valid_port(port)) if colon and host[-1] != "]" else (host, "")


def _prefix(text: str) -> str:
    return text.rstrip("/") if _PREFIX.fullmatch(text) else ""


def _parse(text: str) -> list[dict[str, str]] | None:
    """Read a Forwarded field: for each hop its pairs, names in lower case; None where it is malformed or empty."""
    elements: list[dict[str, str]] = [{}]
    at = _skip(text, 0)
    while True:
        match = _PAIR.match(text, at)
        if match is None:
            return None
        name, value = match[1].lower(), match[2]
        if name in elements[-1]:
            return None  # section 4: each parameter once per element
        elements[-1][name] = _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        at = match.end()
        if _skip(text, at) == len(text):
            return elements
        stop = _STOP.match(text, at)
        if stop is None:
            return None
        if stop[1] != ";":
            elements.append({})
        at = stop.end()


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()
