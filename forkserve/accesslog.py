"""The access log: one line per answered request, with Gunicorn's atoms. Runs in workers.

The format is compiled once; lines are gathered and written when the loop has nothing else to do at the moment, at the
latest after a second. Values that clients chose are escaped: none can forge a line or leave its quotes.
"""

import os
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

from forkserve.errors import SettingsError
from forkserve.log import LogFile, log, one_line

_ATOM = re.compile(r"%(?:\(([^()]*)\)s|(%)|.{0,8})", re.DOTALL)
_BYTE = re.compile(r"\\(\\|x)")  # of an escaped byte, or an escaped backslash
_MOST_BYTES = 8 * 1024
_LONGEST_WAIT_S = 1.0


class Answer(Protocol):
    """What is known of a response."""

    code: int
    status: str
    headers: list[tuple[str, str]] | None
    body_bytes: int


Environ = dict[str, Any]
Atom = Callable[[Environ, Answer, float], str]
Spell = Callable[[Environ, Answer, float, float], str]  # with the moment, by the monotonic clock


_SPELLED: dict[str, str] = {}  # values that were met, as _text spells them: saves 0.1 us each
_MOST_SPELLED = 1024
_LONGEST_SPELLED = 256


def _text(value: object) -> str:
    """Spell a value inside quotes: `-` for none."""
    try:
        return _SPELLED[value]  # type: ignore[index]  # what is no str is not there
    except (KeyError, TypeError):
        pass
    text = _escaped(str(value))
    if type(value) is str and len(value) <= _LONGEST_SPELLED:
        if len(_SPELLED) >= _MOST_SPELLED:
            _SPELLED.clear()
        _SPELLED[value] = text
    return text


def _escaped(text: str) -> str:
    # Nearly every value is as it must be; asking for that first saves 0.5 us each.
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text or "-"
    return one_line(text.replace("\\", "\\\\").replace('"', '\\"')) or "-"


def _user(environ: Environ) -> str:
    """Return the name of Basic credentials; it stands without quotes, so that a space in it is escaped too."""
    if "HTTP_AUTHORIZATION" not in environ:
        return "-"
    kind, _, credentials = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if kind.lower() != "basic":
        return "-"
    import base64  # lazy: few services use it
    import binascii

    try:
        return _text(base64.b64decode(credentials.strip()).partition(b":")[0].decode("utf-8")).replace(" ", "\\x20")
    except (binascii.Error, ValueError):
        return "-"


def _request_line(environ: Environ) -> str:
    get = environ.get
    method = get("REQUEST_METHOD", "")
    if method == "":
        return "-"  # refused before it was known
    return _escaped(f"{method!s} {get('RAW_URI', '')!s} {get('SERVER_PROTOCOL', '')!s}")


class _Stamp:
    """The time of the line, spelled once a second of the monotonic clock."""

    until = 0.0
    text = ""

    def __call__(self, environ: Environ, answer: Answer, took_s: float) -> str:
        return self.at(time.monotonic())

    def at(self, now: float) -> str:
        """Spell it anew; ``text`` is good until ``until``."""
        wall = time.time()
        self.until = now + 1.0 - wall % 1.0
        self.text = time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(wall))
        return self.text


_stamp = _Stamp()

# Gunicorn's documented atoms; M and D and L are the duration in ms, us and s. The environ is the app's: it may have
# changed and deleted what it likes.
ATOMS: dict[str, Atom] = {
    "h": lambda e, a, t: _text(e.get("REMOTE_ADDR", "")),
    "l": lambda e, a, t: "-",
    "u": lambda e, a, t: _user(e),
    "t": _stamp,
    "r": lambda e, a, t: _request_line(e),
    "m": lambda e, a, t: _text(e.get("REQUEST_METHOD", "")),
    "U": lambda e, a, t: _text(e.get("PATH_INFO", "")),
    "q": lambda e, a, t: _text(e["QUERY_STRING"]) if e.get("QUERY_STRING") else "",
    "H": lambda e, a, t: _text(e.get("SERVER_PROTOCOL", "")),
    "s": lambda e, a, t: str(a.code),
    "st": lambda e, a, t: _text(a.status),
    "B": lambda e, a, t: str(a.body_bytes),
    "b": lambda e, a, t: str(a.body_bytes) if a.body_bytes else "-",
    "f": lambda e, a, t: _text(e.get("HTTP_REFERER", "")),
    "a": lambda e, a, t: _text(e.get("HTTP_USER_AGENT", "")),
    "T": lambda e, a, t: str(int(t)),
    "M": lambda e, a, t: str(int(t * 1000)),
    "D": lambda e, a, t: str(int(t * 1_000_000)),
    "L": lambda e, a, t: f"{t:.6f}",
    "p": lambda e, a, t: f"<{os.getpid()}>",
}


def _looked_up(name: str) -> Atom | None:
    """Return the atom of a request header {x}i, a response header {x}o or an environ key {x}e."""
    if not (name.startswith("{") and name[-2:-1] == "}"):
        return None
    key = name[1:-2].lower()
    match name[-1]:
        case "i":
            header = "HTTP_" + key.upper().replace("-", "_")
            header = header[5:] if header in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH") else header
            return lambda e, a, t: _text(e.get(header, ""))
        case "o":
            return lambda e, a, t: next((_text(v) for n, v in a.headers or () if n.lower() == key), "-")
        case "e":
            exact = name[1:-2]
            upper = exact.upper()
            return lambda e, a, t: _text(e.get(exact, e.get(upper, "")))
    return None


# The same for the usual atoms, as expressions: no call each saves a third of a line. Their names: _WORDS, _KNOWN.
_FAST = {
    "h": "text(get(REMOTE_ADDR, NONE))",
    "l": "DASH",
    "u": "user(e) if HTTP_AUTHORIZATION in e else DASH",
    "t": "stamp.text if now < stamp.until else stamp.at(now)",
    "r": "request_line(e)",
    "s": "a.code",
    "B": "a.body_bytes",
    "b": "a.body_bytes or DASH",
    "f": "text(get(HTTP_REFERER, NONE))",
    "a": "text(get(HTTP_USER_AGENT, NONE))",
}
_WORDS = {name: name for name in ("REMOTE_ADDR", "HTTP_AUTHORIZATION", "HTTP_REFERER", "HTTP_USER_AGENT")}
_KNOWN = {"text": _text, "user": _user, "stamp": _stamp, "request_line": _request_line, "NONE": "", "DASH": "-"}


def compile_format(text: str) -> Spell:
    """Return the function that spells a line; ValueError names what is no atom.

    It is made of source, of which nothing is the format's: its literals and atoms have names there.
    """
    names: dict[str, object] = {**_WORDS, **_KNOWN}
    pieces: list[str] = []
    literal = ""
    at = 0
    for match in _ATOM.finditer(text):
        literal += text[at : match.start()]
        at = match.end()
        if match[2]:
            literal += "%"
            continue
        atom = None if match[1] is None else ATOMS.get(match[1]) or _looked_up(match[1])
        if atom is None:
            raise ValueError(
                f"{match[0]!r} is not an atom; atoms are written %(h)s, known are {' '.join(ATOMS)} and"
                " {name}i {name}o {name}e; a percent sign is %%"
            )
        number = len(names)
        names[f"literal{number}"], names[f"atom{number}"] = _one_line(literal), atom
        pieces.append(f"{{literal{number}}}{{{_FAST.get(match[1], f'atom{number}(e, a, t)')}}}")
        literal = ""
    names["last"] = _one_line(literal + text[at:]) + "\n"
    source = f"def spell(e, a, t, now):\n get = e.get\n return f'{''.join(pieces)}{{last}}'"
    exec(source, names)
    spell: Spell = names["spell"]  # type: ignore[assignment]
    return _as_json(spell) if text.lstrip().startswith("{") else spell


def _as_json(spell: Spell) -> Spell:
    """Escape as JSON does, in lines that are meant to be: it knows no ``\\xNN``."""

    def spell_json(e: Environ, a: Answer, t: float, now: float) -> str:
        line = spell(e, a, t, now)
        return _BYTE.sub(_of_json, line) if "\\x" in line else line

    return spell_json


def _of_json(match: "re.Match[str]") -> str:
    return match[0] if match[1] == "\\" else "\\u00"


def _one_line(text: str) -> str:
    return "\t".join(one_line(part) for part in text.split("\t"))


def check_format(text: str) -> None:
    """Raise SettingsError if a format cannot be used: asked when the settings are read, not when a worker boots."""
    try:
        compile_format(text)
    except ValueError as reason:
        raise SettingsError(f"access_log_format = '{one_line(text)}': {reason}") from None


class AccessLog:
    """The access log of one worker. ``open`` raises OSError."""

    def __init__(self, text: str) -> None:
        self.file = LogFile(1)
        self._spell = compile_format(text)
        self.lines: list[str] = []  # not written yet; always this list
        self._bytes = 0
        self._oldest = 0.0

    def note(self, environ: Environ, answer: Answer, took_s: float) -> None:
        """Write down one answered request."""
        now = time.monotonic()
        try:
            line = self._spell(environ, answer, took_s, now)
        except Exception as error:  # spelling an object that the app put into its environ runs the app's code
            log.exception("app made its access line impossible", error)
            return
        if not self.lines:
            self._oldest = now
        self.lines.append(line)
        self._bytes += len(line)
        if self._bytes > _MOST_BYTES or now - self._oldest > _LONGEST_WAIT_S:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self.lines:
            lost = self.file.lost
            text, count = "".join(self.lines), len(self.lines)
            self.lines.clear()  # first: the handler of an overdue request flushes too, and may come in between
            self._bytes = 0
            if self.file.write(text.encode("utf-8", "backslashreplace"), lines=count):
                if lost:
                    log.warning("access log takes lines again; some were lost", path=self.file.path, count=lost)
                    self.file.lost = 0
            elif not lost:
                log.error("access log takes no lines", path=self.file.path)
