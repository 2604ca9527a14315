"""CGI variables, the coin that uwsgi, SCGI and FastCGI carry: to an environ, and a response back to the gateway.

Knows no socket, no app, and not how a protocol writes its pairs down. The gateway is believed about the client: that
is what it is for, so who may connect must be decided before. It is not believed about the server: no variable reaches
the keys of wsgi or forkserve, none makes code run. RFC 3875 section 4; PEP 3333, "environ Variables".
"""

import re
from collections.abc import Iterable

from forkserve.protocol.types import BAD_REQUEST, HOST, TOO_LARGE, Environ, Limits, Refused, unescaped

MOST_VARIABLES = 1000  # nginx sends 25 and the fields, Apache with all its TLS variables 100 and the fields

# Names as they come -> environ keys; None: dropped. Bounded, so that a hostile peer cannot grow it.
_NAMES: dict[bytes, str | None] = {}
_NAMES_LIMIT = 1024
_NAME = re.compile(rb"[A-Z][A-Z0-9_]*")
_FORBIDDEN = re.compile(rb"(?i:wsgi|forkserve)\..*", re.DOTALL)
_DROPPED = {
    b"HTTP_PROXY",  # httpoxy
    b"HTTP_CONTENT_LENGTH",  # the client's words; CONTENT_LENGTH and CONTENT_TYPE are the gateway's
    b"HTTP_CONTENT_TYPE",
}
# Of these a second one is ambiguous, whoever sent it.
_SINGLE = {"HTTP_HOST", "HTTP_TRANSFER_ENCODING"}
# Paths are decoded, so that any byte may be in them; certificates have lines.
_ANY_BYTES = {"PATH_INFO", "SCRIPT_NAME", "DOCUMENT_URI", "PATH_TRANSLATED", "SCRIPT_FILENAME"}
# Gateways send every variable of their configuration, with an empty value where there is none (nginx). An empty one of
# these says something, an empty other one says nothing.
_MAY_BE_EMPTY = {"QUERY_STRING", "SCRIPT_NAME", "PATH_INFO"}

_CONTROL = re.compile(r"[\x00\r\n]")
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(r"[0-9]{1,18}")
_PORT = re.compile(r"[0-9]{1,5}")
_TO_ESCAPE = re.compile(rb"[^!$&'()*+,\-./0-9:;=@A-Z_a-z~]")
_AUTHORITY = re.compile(r"(?i:https?)://[^/?#]*")
_YES = {"on", "1", "yes", "true", "https"}


class CgiEncoder:
    """A CGI response, its status in a field: RFC 3875 section 6. SCGI's, and what FastCGI's records carry."""

    ends_body = False
    plain_body = True

    def head(self, status_line: bytes, lines: Iterable[bytes]) -> bytes:
        """Spell the head; a Status field of the app, which would contradict, is left out."""
        kept = [line for line in lines if line[:1] not in b"Ss" or line[:7].lower() != b"status:"]
        return b"".join((b"Status: ", status_line.removeprefix(b"HTTP/1.1 "), *kept, b"\r\n"))

    def wrap(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class Variables:
    """The variables of one request, checked as they are read."""

    __slots__ = ("_count", "_found", "_last_wins")

    def __init__(self, *, last_wins: bool = False) -> None:
        self._found: dict[str, str] = {}
        self._count = 0
        self._last_wins = last_wins

    def add(self, name: bytes, value: bytes) -> None:
        """Take a pair. Raises Refused for what no gateway sends."""
        self.take(((name, value),))

    def take(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Take pairs; two dozen of them are most of what a request costs. Raises Refused as ``add`` does."""
        found = self._found
        count = self._count
        for name, value in pairs:
            count += 1
            if count > MOST_VARIABLES:
                raise Refused(TOO_LARGE, f"more than {MOST_VARIABLES} variables")
            try:
                key = _NAMES[name]
            except KeyError:
                key = _environ_key(name)
            if key is None:
                continue
            text = value.decode("latin-1")
            if not text.isprintable() and _CONTROL.search(text) and key not in _ANY_BYTES and key[:4] != "SSL_":
                raise Refused(BAD_REQUEST, f"a control character in {key[:64]}")
            if key in found:
                self._repeated(key, text)
            else:
                found[key] = text
        self._count = count

    def _repeated(self, key: str, text: str) -> None:
        """Join a field that the client sent twice: nginx before 1.23 passes each by itself."""
        is_field = key[:5] == "HTTP_"
        if is_field and key not in _SINGLE:
            self._found[key] += ("; " if key == "HTTP_COOKIE" else ",") + text
        elif self._last_wins and not is_field:
            self._found[key] = text
        else:
            raise Refused(BAD_REQUEST, f"several {key[:64]} variables")

    def request(self, template: Environ, mount: str, *, cut_script: bool = False) -> tuple[Environ, bytes]:
        """Return the environ and the request's line (method, target) once all variables are there."""
        found = self._found
        for key in [key for key, text in found.items() if not text and key not in _MAY_BE_EMPTY and key[:5] != "HTTP_"]:
            del found[key]
        method = found.get("REQUEST_METHOD", "")
        if not _METHOD.fullmatch(method):
            raise Refused(BAD_REQUEST, f"REQUEST_METHOD is {method[:32]!r}")
        if not HOST.fullmatch(found.get("HTTP_HOST", "")):
            raise Refused(BAD_REQUEST, "malformed Host")
        if not _PORT.fullmatch(found.get("SERVER_PORT", "0")):
            raise Refused(BAD_REQUEST, "malformed SERVER_PORT")
        found["SCRIPT_NAME"], found["PATH_INFO"] = script, path = _paths(found, mount, cut_script)
        if "REQUEST_URI" not in found:
            query = found.get("QUERY_STRING")
            found["REQUEST_URI"] = _escape(script + path) + (f"?{query}" if query else "")
        target = found["RAW_URI"] = found["REQUEST_URI"]
        environ = template.copy()
        # The template's peer is the gateway. Where that does not tell the client's address nobody knows it, and an app
        # that trusts 127.0.0.1 must not take every client for it.
        environ["REMOTE_ADDR"] = ""
        environ.pop("REMOTE_PORT", None)
        environ.update(found)
        _set_scheme(environ, found)
        return environ, f"{method} {target}".encode("latin-1")

    def measure(self, limits: Limits, size: int) -> None:
        """Raise Refused where a part of a head of ``size`` bytes is beyond the limits that HTTP has."""
        found = self._found
        if size <= limits.small_bytes and len(found) <= limits.fields:
            return
        line = len(found.get("REQUEST_METHOD", "")) + 1 + len(found.get("REQUEST_URI", "")) + len(" HTTP/1.1")
        if line > limits.line_bytes:
            raise Refused("414 URI Too Long", f"the request line has more than {limits.line_bytes} bytes")
        fields = [key for key in found if key[:5] == "HTTP_"]
        if len(fields) > limits.fields:
            raise Refused(TOO_LARGE, f"more than {limits.fields} fields")
        for key in fields:
            if len(key) - 5 + 2 + len(found[key]) > limits.field_bytes:
                name = key[5:69].replace("_", "-").title()
                raise Refused(TOO_LARGE, f"{name} has more than {limits.field_bytes} bytes")

    def body_length(self) -> int:
        """Return CONTENT_LENGTH; -1 where there is none. Raises Refused for what is no number."""
        text = self._found.get("CONTENT_LENGTH", "")
        if not text:
            return -1
        if not _DIGITS.fullmatch(text):
            raise Refused(BAD_REQUEST, f"CONTENT_LENGTH is {text[:32]!r}")
        return int(text)

    def whole_length(self) -> int:
        """Return the length of a body that CONTENT_LENGTH alone frames. Raises Refused where that is missing."""
        has_coding = self.take_coding()
        length = self.body_length()
        if length < 0 and has_coding:
            # Only the gateway knows where this body ends. To take it for none would make a part look whole.
            raise Refused("411 Length Required", "a chunked request without CONTENT_LENGTH: the gateway must buffer it")
        return max(0, length)

    def take_coding(self) -> bool:
        """Tell whether the client used a transfer coding, which ended at the gateway, and forget it."""
        return bool(self._found.pop("HTTP_TRANSFER_ENCODING", ""))

    def get(self, key: str) -> str | None:
        return self._found.get(key)


def _environ_key(name: bytes) -> str | None:
    """Return a variable's environ key; None: it must not reach the app. Raises Refused for names that are an attack.

    Names of another kind are dropped and not refused: Apache passes what SetEnv and BrowserMatch set for itself, such
    as `proxy-nokeepalive`.
    """
    if not name or b"\0" in name or _FORBIDDEN.fullmatch(name):
        raise Refused(BAD_REQUEST, f"a variable called {name[:32].decode('latin-1')!r}")
    # UWSGI_SCRIPT, UWSGI_FILE and their like make uWSGI load code.
    drop = not _NAME.fullmatch(name) or name in _DROPPED or name.startswith(b"UWSGI_")
    key = None if drop else name.decode("ascii")
    if len(_NAMES) < _NAMES_LIMIT and len(name) <= 64:
        _NAMES[name] = key
    return key


def _paths(found: dict[str, str], mount: str, cut_script: bool) -> tuple[str, str]:
    """Decide SCRIPT_NAME and PATH_INFO from what the gateways really send.

    nginx's uwsgi_params: PATH_INFO is the whole path, no SCRIPT_NAME. Its scgi_params: DOCUMENT_URI alone. Its
    fastcgi_params, Apache's mod_proxy_fcgi and HAProxy: SCRIPT_NAME is the whole path. Apache's mod_proxy_uwsgi: both,
    parted, but SCRIPT_NAME "/app/" and PATH_INFO "/" for a mount's own page. Its mod_proxy_scgi: see _parted_anew. An
    empty PATH_INFO is as good as none: nginx sends it so when a pattern does not match.
    """
    path, script = found.get("PATH_INFO", ""), found.get("SCRIPT_NAME", "")
    if "%" in path:
        script, path = _parted_anew(script, path, _path_of(found.get("REQUEST_URI", "")))
    if not path:
        path = found.get("DOCUMENT_URI") or script or _path_of(found.get("REQUEST_URI", ""))
        script = ""
    elif cut_script and script and (path + "/").startswith(script.rstrip("/") + "/"):
        path = path[len(script.rstrip("/")) :]
    if script[-1:] == "/":
        script = script.rstrip("/")
        if path[:1] != "/":
            path = "/" + path
    if not script and mount:
        # A path that is not below the mount had its prefix cut by the gateway.
        script = mount
        if path == mount or path.startswith(mount + "/"):
            path = path[len(mount) :]
    if path[:1] != "/" and path != "*" and not (script and not path):
        raise Refused(BAD_REQUEST, f"no path: PATH_INFO is {path[:32]!r}")
    if script and script[0] != "/":
        raise Refused(BAD_REQUEST, f"SCRIPT_NAME is {script[:32]!r}")
    return script, path


def _parted_anew(script: str, path: str, whole: str) -> tuple[str, str]:
    """Decode a PATH_INFO that came encoded, as the whole path, which is known from the target, proves.

    Apache's mod_proxy_scgi sends "/a b" as SCRIPT_NAME "/a b", PATH_INFO "/a%20b", since it parts them encoded.
    """
    decoded = unescaped(path)
    if whole.endswith(path) or not whole.endswith(decoded):
        return script, path
    return whole[: len(whole) - len(decoded)], decoded


def _path_of(target: str) -> str:
    """Return the decoded path of a request's target."""
    path = _AUTHORITY.sub("", target, count=1) if target[:1] != "/" else target
    return unescaped(path.partition("?")[0])


def _escape(path: str) -> str:
    return _TO_ESCAPE.sub(lambda match: b"%%%02X" % ord(match[0]), path.encode("latin-1")).decode("ascii")


def _set_scheme(environ: Environ, found: dict[str, str]) -> None:
    """Let the gateway say whether the client used TLS; where it says nothing the connection's own word stays."""
    said = found.get("HTTPS") or found.get("REQUEST_SCHEME")
    if said is None:
        return
    if said.lower() in _YES:
        environ["wsgi.url_scheme"] = "https"
        environ["HTTPS"] = "on"
        if environ["SERVER_PORT"] == "80" and "SERVER_PORT" not in found:  # a unix socket, which has no port
            environ["SERVER_PORT"] = "443"
    else:
        environ["wsgi.url_scheme"] = "http"
        environ.pop("HTTPS", None)
