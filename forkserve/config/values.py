"""Values as people write them: "30s", "16MiB", addresses, the app. Pure.

``read`` turns a raw value into the setting's own type: either a TOML value, which has a type to be right or wrong,
or text from a flag or variable. ``write`` is its inverse, in the spelling people use; ``show`` quotes any raw
value on one line. Every refusal is a ValueError whose text is the reason, without the key, value and origin.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from forkserve.config.appspec import parse_app_spec
from forkserve.config.options import Declared, Kind
from forkserve.net import address

_LONGEST_S = 100 * 365.25 * 86400  # a century; more is a slip, and would overflow the kernel's clocks
_LARGEST = 2**63 - 1  # what C and TOML call an integer

_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # a tab may stand in access_log_format
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})")
_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,18}}(?:\.[0-9]{{1,18}})?){unit})?" for unit in (*_DURATION_UNITS, "ms")))
_SIZE_UNITS = {
    "": 1, "b": 1,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?\s*([a-z]{0,3})", re.IGNORECASE)

_SHARE = re.compile(r"[0-9]{1,9}%?", re.ASCII)

_WANT_DURATION = 'expected seconds, such as 30, or a duration such as "30s", "500ms", "2m" or "1h30m"'
_WANT_SIZE = 'expected bytes, such as 65536, or a size such as "64KiB", "16MiB" or "1GB"'
_LONGEST_SHOWN = 100


def read(declared: Declared, raw: object, *, is_text: bool) -> Any:
    """Give the setting's value for a raw one; raise ValueError with the reason where there is none."""
    value = _READERS[declared.option.kind](declared, raw, is_text)
    _check_range(declared, value)
    return value


def parse_duration(raw: object) -> float:
    """Read seconds (30, 0.5) or a duration ("1h30m") as seconds."""
    if isinstance(raw, str):
        seconds = _duration_of_text(raw.strip())
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        if isinstance(raw, float) and not math.isfinite(raw):
            raise ValueError(f"must be finite; {_WANT_DURATION}")
        # TOML integers are of any length here, and float() of a huge one raises.
        seconds = float(max(-1, min(raw, _LARGEST)))
    else:
        raise ValueError(_WANT_DURATION)
    if seconds < 0:
        raise ValueError("must not be negative")
    if seconds > _LONGEST_S:
        raise ValueError("is longer than a hundred years")
    return seconds


def format_duration(seconds: float) -> str | int | float:
    """Spell seconds as people do; parse_duration gives the same number back."""
    if seconds == 0:
        return 0
    if seconds == int(seconds):
        unit = next(unit for unit, length in _DURATION_UNITS.items() if seconds % length == 0)
        return f"{int(seconds // _DURATION_UNITS[unit])}{unit}"
    thousandths = round(seconds * 1000)
    if seconds < 1 and thousandths / 1000 == seconds:
        return f"{thousandths}ms"
    return seconds


def parse_size(raw: object) -> int:
    """Read bytes (1048576) or a size ("16MiB", "64kB") as bytes."""
    if isinstance(raw, str):
        size = _size_of_text(raw.strip())
    elif isinstance(raw, int) and not isinstance(raw, bool):
        size = raw
    else:
        raise ValueError(_WANT_SIZE)
    if size < 0:
        raise ValueError("must not be negative")
    if size > _LARGEST:
        raise ValueError("is more than any machine holds")
    return size


def format_size(size: int) -> str | int:
    """Spell bytes as people do; parse_size gives the same number back."""
    for unit, length in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return size


def write(declared: Declared, value: Any) -> object:
    """Give the TOML value that ``read`` turns into this one, in people's spelling."""
    match declared.option.kind:
        case Kind.DURATION:
            return format_duration(value)
        case Kind.SIZE:
            return format_size(value)
        case Kind.ADDRESSES | Kind.TEXTS:
            return list(value)
        case Kind.MAP:
            return dict(value)
        case Kind.ROOM:
            return value if value.endswith("%") else format_size(int(value))
        case Kind.SHARE:
            return int(value) if str(value).isdigit() else value
        case _:
            return value


def show(raw: object) -> str:
    """Spell a raw value on one printable line, as TOML where it can be, cut short where it is long."""
    text = show_whole(raw)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def show_whole(raw: object) -> str:
    """Spell a raw value on one printable line; a good setting's TOML value is spelled as TOML."""
    return _spell(raw, 0)


def one_line(text: str) -> str:
    """Escape, as TOML does, what would break a line or a terminal."""
    return text if text.isprintable() else "".join(map(_escape, text))


def suggest(word: str, known: Mapping[str, str]) -> str:
    """Give `` ; did you mean "x"?`` for the entry of ``known`` (spelling -> answer) nearest to a word, or nothing."""
    word = word.lower().replace("-", "_")
    from difflib import get_close_matches  # lazy: 1 ms and 0.2 MiB, and only a wrong word needs it

    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f'; did you mean "{known[near[0]]}"?' if near else ""


def _escape(c: str) -> str:
    if c.isprintable():
        return c
    return _ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c <= "\uffff" else f"\\U{ord(c):08x}")


def _read_text(declared: Declared, raw: object, is_text: bool) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be a string, in quotes")
    if _CONTROL.search(raw):
        raise ValueError("must not hold control characters")
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None
    return raw


def _read_integer(declared: Declared, raw: object, is_text: bool) -> int:
    if is_text and isinstance(raw, str) and _INTEGER.fullmatch(raw.strip()):
        return int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise ValueError("must be a whole number" if is_text or not isinstance(raw, str) else _without_quotes(raw))


def _without_quotes(raw: str) -> str:
    return "must be a whole number" + (", without quotes" if _INTEGER.fullmatch(raw.strip()) else "")


def _read_duration(declared: Declared, raw: object, is_text: bool) -> float:
    return parse_duration(raw)


def _read_size(declared: Declared, raw: object, is_text: bool) -> int:
    return parse_size(raw)


def _read_choice(declared: Declared, raw: object, is_text: bool) -> str:
    choices = declared.option.choices
    if isinstance(raw, str) and raw.lower() in choices:
        return raw.lower()
    listed = ", ".join(f'"{choice}"' for choice in choices)
    if declared.name == "worker_class":
        raise ValueError(f"there is one kind of worker, {listed}; leave worker_class out")
    hint = suggest(raw, {choice: choice for choice in choices}) if isinstance(raw, str) else ""
    raise ValueError(f"must be one of {listed}{hint}")


def parse_share(text: str, whole: float) -> float:
    """Return the number that a SHARE stands for: itself, or that part of ``whole``."""
    return float(text) if not text.endswith("%") else whole * float(text[:-1]) / 100


def _read_share(declared: Declared, raw: object, is_text: bool) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = str(raw)
    if not isinstance(raw, str) or not _SHARE.fullmatch(raw.strip()):
        raise ValueError('must be a whole number or a percentage such as "25%"')
    text = raw.strip()
    if text.endswith("%"):
        if int(text[:-1]) > 1000:
            raise ValueError("must be at most 1000%")
        return f"{int(text[:-1])}%"
    _check_range(declared, int(text))
    return str(int(text))


def _read_room(declared: Declared, raw: object, is_text: bool) -> str:
    text = raw.strip() if isinstance(raw, str) else ""
    if not text.endswith("%"):
        return str(parse_size(raw))
    if not _SHARE.fullmatch(text) or not 1 <= int(text[:-1]) <= 100:
        raise ValueError('must be a size such as "2GiB", or a percentage between "1%" and "100%"')
    return f"{int(text[:-1])}%"


def _read_app(declared: Declared, raw: object, is_text: bool) -> str:
    text = _read_text(declared, raw, is_text)
    if text:
        parse_app_spec(text)
    return text


def _read_addresses(declared: Declared, raw: object, is_text: bool) -> tuple[str, ...]:
    match raw:
        case str() if is_text:
            texts: list[object] = [part.strip() for part in raw.split(",")]
        case str():
            texts = [raw]
        case list() | tuple():
            texts = list(raw)
        case _:
            raise ValueError('must be an address such as "127.0.0.1:8000", or a list of such')
    if not texts:
        raise ValueError("must name at least one address")
    places: list[str] = []
    for text in texts:
        place = _read_address(declared, text, is_text, alone=len(texts) == 1)
        if place in places and not place.endswith(":0"):  # port 0 is another port each time
            raise ValueError(f"names {place} twice")
        places.append(place)
    return tuple(places)


def _read_address(declared: Declared, raw: object, is_text: bool, *, alone: bool) -> str:
    try:
        return str(address.parse(_read_text(declared, raw, is_text)))
    except ValueError as error:
        raise (error if alone else ValueError(f"{show(raw)}: {error}")) from None


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _read_flag(declared: Declared, raw: object, is_text: bool) -> bool:
    if isinstance(raw, bool):
        return raw
    if is_text and isinstance(raw, str) and raw.strip().lower() in _WORDS:
        return _WORDS[raw.strip().lower()]
    raise ValueError("must be true or false" + ("" if is_text or not isinstance(raw, str) else ", without quotes"))


def _read_texts(declared: Declared, raw: object, is_text: bool) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",")] if is_text and raw else [raw] if raw else []
    if not isinstance(raw, list | tuple):
        raise ValueError("must be a string, or a list of strings")
    return tuple(_read_text(declared, text, is_text) for text in raw)


def _read_map(declared: Declared, raw: object, is_text: bool) -> tuple[tuple[str, str], ...]:
    if isinstance(raw, dict):
        pairs = list(raw.items())
    elif is_text and isinstance(raw, str | list | tuple):
        parts = [part for part in map(str, raw.split(",") if isinstance(raw, str) else raw) if part]
        if not all(part.find("=") > 0 for part in parts):
            raise ValueError("must be written KEY=VALUE")
        pairs = [part.partition("=")[::2] for part in parts]
    else:
        raise ValueError('must be a table such as { "key" = "value" }')
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("names a key twice")
    texts = tuple((_read_text(declared, key, is_text), _read_text(declared, value, is_text)) for key, value in pairs)
    if declared.name == "env":  # a variable may be empty
        if not all(key and "=" not in key for key, _ in texts):
            raise ValueError('a variable needs a name, without "="')
    elif not all(key and value for key, value in texts):
        raise ValueError("neither a prefix nor its folder may be empty")
    return texts


_READERS: dict[Kind, Callable[[Declared, object, bool], Any]] = {
    Kind.TEXT: _read_text,
    Kind.PATH: _read_text,
    Kind.INTEGER: _read_integer,
    Kind.DURATION: _read_duration,
    Kind.SIZE: _read_size,
    Kind.CHOICE: _read_choice,
    Kind.SHARE: _read_share,
    Kind.ROOM: _read_room,
    Kind.APP: _read_app,
    Kind.ADDRESSES: _read_addresses,
    Kind.FLAG: _read_flag,
    Kind.TEXTS: _read_texts,
    Kind.MAP: _read_map,
}


def _check_range(declared: Declared, value: Any) -> None:
    if not isinstance(value, int | float):
        return
    limits = range_in_words(declared)
    low, high = declared.option.minimum, declared.option.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"must be {limits}")


def range_in_words(declared: Declared) -> str:
    """Say "between 1 and 1024" or "at least 0"; nothing where every value is good."""
    low, high = (
        None if limit is None else write(declared, int(limit))
        for limit in (declared.option.minimum, declared.option.maximum)
    )
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f"at least {low}"
        case None, _:
            return f"at most {high}"
        case _:
            return f"between {low} and {high}"


def _duration_of_text(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    sign, bare = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    found = _DURATION.fullmatch(bare)
    if not bare or found is None:
        raise ValueError(_WANT_DURATION)
    *parts, thousandths = (float(group or 0) for group in found.groups())
    whole = sum(part * length for part, length in zip(parts, _DURATION_UNITS.values(), strict=True))
    return sign * (whole + thousandths / 1000)


def _size_of_text(text: str) -> int:
    sign, bare = (-1, text[1:]) if text.startswith("-") else (1, text)
    found = _SIZE.fullmatch(bare)
    if found is None or found[3].lower() not in _SIZE_UNITS:
        raise ValueError(_WANT_SIZE)
    whole, part, unit = found[1], found[2] or "", found[3].lower()
    # In whole numbers throughout: 0.1 has no exact float, but "0.1kB" is 100 bytes.
    scale: int = 10 ** len(part)
    size, rest = divmod(int(whole + part) * _SIZE_UNITS[unit], scale)
    if rest:
        raise ValueError("is not a whole number of bytes")
    return sign * size


def _spell(raw: object, depth: int) -> str:
    match raw:
        case bool():
            return "true" if raw else "false"
        case str():
            escaped = one_line(raw.replace("\\", "\\\\").replace('"', '\\"'))
            return f'"{escaped}"'
        case int() if abs(raw) > _LARGEST:
            return "a number of more than 18 digits"  # Python refuses to print really long ones
        case list() | tuple() if depth < 2:
            return "[" + ", ".join(_spell(item, depth + 1) for item in raw) + "]"
        case list() | tuple():
            return "[ … ]"
        case dict() if depth < 1:
            return "{ " + ", ".join(f"{_spell(k, 1)} = {_spell(v, 1)}" for k, v in raw.items()) + " }" if raw else "{}"
        case dict():
            return "{ … }"
        case _:
            return one_line(str(raw))
