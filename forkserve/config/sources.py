"""Where settings are written: a TOML file, the environment, the command line. Each becomes a Layer.

A layer holds raw values with their origins, and one line for each thing in it that is no setting at all; whether
the values are good is resolve's question. The one module that reads files for config/, and the one door of the
toml library, which writes and is imported only when it does. Used by the command and, at a reload, by the master.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence

from forkserve.config import values
from forkserve.config.options import Declared
from forkserve.config.settings import Settings, declared
from forkserve.typed import Struct

PREFIX = "FORKSERVE_"
CONFIG_VARIABLE = "FORKSERVE_CONFIG"

_LONGEST_FILE_BYTES = 1 << 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_ALSO_CALLED = {"wsgi_app": "app", "address": "bind", "host": "bind", "port": "bind"}
# What Kubernetes puts into each container for a service whose name begins with "forkserve"; not meant for us.
_SERVICE_LINK = re.compile(r"_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)$")
_SERVICE_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://")


class Given(Struct, frozen=True):
    """One raw value and where it is written."""

    raw: object
    origin: str  # config.toml:3, FORKSERVE_WORKERS, --workers
    is_text: bool  # from a flag or a variable, which have no types of their own


class Layer(Struct, frozen=True):
    """What one place says: raw values by setting, and a line for each thing that is not a setting.

    ``strangers``: variables that look like ours, each with its line; an image may have them for itself.
    """

    given: Mapping[str, Given] = {}  # each Layer has its own: msgspec copies an empty default
    problems: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


def read_file(path: str, named_by: str) -> Layer:
    """Read a TOML file of top-level keys; ``named_by`` is the flag or variable that named it."""
    try:
        text = _contents(path)
    except OSError as error:
        return _unreadable(path, f"cannot be read: {error.strerror} (named by {named_by})")
    except ValueError as error:
        return _unreadable(path, f"{error} (named by {named_by})")
    import tomllib  # lazy: 2 ms that a service without a file need not pay

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Layer(problems=(_syntax_error(path, error),))
    given: dict[str, Given] = {}
    problems: list[str] = []
    for key, raw in document.items():
        line = _line_of(key, text)
        origin = f"{path}:{line}" if line else path
        if key in declared():
            given[key] = Given(raw, origin, is_text=False)
        else:
            problems.append(_unknown_key(origin, key, raw))
    return Layer(given, tuple(problems))


def read_environ(environ: Mapping[str, str]) -> Layer:
    """Read the variables of every setting; a FORKSERVE_ variable that belongs to none is a stranger."""
    given: dict[str, Given] = {}
    known = {CONFIG_VARIABLE}
    for name, setting in declared().items():
        known.update(setting.variables)
        found = next(_variables_set(setting, environ), None)
        if found is not None:
            text = environ[found]
            given[name] = Given(f"0.0.0.0:{text}" if found == "PORT" else text, found, is_text=True)
    strangers = sorted(
        name
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in known and not _is_service_link(name, value)
    )
    return Layer(given, strangers=tuple(_unknown_variable(name) for name in strangers))


def read_argv(texts: Mapping[str, str | Sequence[str]]) -> Layer:
    """Make a layer of what the command line gave: the text, or texts, by setting."""
    return Layer(
        {
            name: Given(text, "APP" if name == "app" else long_flag(declared()[name]), is_text=True)
            for name, text in texts.items()
        }
    )


def long_flag(setting: Declared) -> str:
    """The first long flag of a setting."""
    return next(flag for flag in setting.flags if flag.startswith("--"))


def to_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Write all settings as a TOML file that reads back the same, with the origin of each that was given."""
    import toml  # here, since it costs 4 ms that only this verb needs to pay

    encoder = toml.TomlEncoder()
    # The library's own writer of strings breaks over no-break spaces and the like, and its lists end in a comma.
    encoder.dump_funcs.update({str: values.show_whole, list: values.show_whole})
    lines: list[str] = []
    section = ""
    for name, setting in declared().items():
        if setting.option.section != section:
            section = setting.option.section
            lines += ["", f"# {section}"]
        value = values.write(setting, getattr(settings, name))
        if isinstance(value, dict):  # inline: a table of its own would swallow the keys after it
            line = f"{name} = {values.show_whole(value)}"
        else:
            line = toml.dumps({name: value}, encoder).rstrip("\n")
        origin = origins.get(name)
        lines.append(f"{line}  # from {values.one_line(origin)}" if origin else line)
    return "\n".join(lines[1:]) + "\n"


def _contents(path: str) -> str:
    """Read a regular file as text; anything else could block the master or be gone at a reload."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is not a regular file; it is read again at each reload")
        contents = file.read(_LONGEST_FILE_BYTES + 1)
    if len(contents) > _LONGEST_FILE_BYTES:
        raise ValueError("is longer than 1MiB, so it is hardly a file of settings")
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 in line {line}") from None


def _unreadable(origin: str, reason: str) -> Layer:
    return Layer(problems=(f"{origin}: {reason}",))


def _syntax_error(path: str, error: Exception) -> str:
    """Say in one line where a file stops being TOML."""
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    origin = path
    where = _AT_LINE.search(reason)
    if where:
        origin = f"{path}:{where[1]}"
        reason = f"{reason[: where.start()]} (column {where[2]})"
    remedy = ""
    if path.endswith(".py"):
        remedy = "; settings are TOML, not Python"
    elif reason.startswith("Invalid value"):
        remedy = "; strings stand in quotes"
    return f"{origin}: not TOML: {reason[:1].lower()}{reason[1:]}{remedy}"


def _line_of(key: str, text: str) -> int:
    """Find the line that sets a top-level key, counted from 1; 0 where it is spelled in a way not looked for."""
    name = re.escape(key)
    spelled = re.compile(rf"^[ \t]*(?:\[+[ \t]*)?(?:{name}|\"{name}\"|'{name}')[ \t]*[=.\]]", re.MULTILINE)
    starts = [match.start() for match in spelled.finditer(text)]
    # The same words may also stand inside a string of several lines or in a table: then what is before is no whole
    # document, or the key was seen already.
    for start in starts if len(starts) > 1 else ():
        if _is_toml(text[:start]):
            return text.count("\n", 0, start) + 1
    return text.count("\n", 0, starts[0]) + 1 if starts else 0


def _is_toml(text: str) -> bool:
    import tomllib  # lazy, as above

    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True


def _unknown_key(origin: str, key: str, raw: object) -> str:
    shown = key if _BARE_KEY.fullmatch(key) else values.show(key)
    hint = values.suggest(key, _spellings())
    if isinstance(raw, dict | list) and not hint:
        tables = raw if isinstance(raw, list) else [raw]
        if tables and all(isinstance(table, dict) for table in tables):
            return f"{origin}: [{shown}]: there are no tables; settings stand at the top level of the file"
    return f"{origin}: {shown} = {values.show(raw)}: unknown setting{hint}"


def _spellings() -> dict[str, str]:
    """Every name that people may know a setting by -> its key."""
    keys = _ALSO_CALLED | {name: name for name in declared()}
    for name, setting in declared().items():
        for flag in setting.flags:
            if flag.startswith("--"):
                keys.setdefault(flag[2:].replace("-", "_"), name)
    return keys


def _variables_set(setting: Declared, environ: Mapping[str, str]) -> Iterator[str]:
    """Platforms set WEB_CONCURRENCY and PORT, sometimes to nothing; our own variables may say "" and mean it."""
    return (name for name in setting.variables if name in environ and (environ[name] or name.startswith(PREFIX)))


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name) or _SERVICE_LINK_VALUE.match(value))


def _unknown_variable(name: str) -> str:
    known = {spelling: PREFIX + key.upper() for spelling, key in _spellings().items()}
    known |= {
        "config": CONFIG_VARIABLE,
        "config_file": CONFIG_VARIABLE,
        "port": "PORT",
        "web_concurrency": "WEB_CONCURRENCY",
    }
    return f"{name}: unknown variable, ignored{values.suggest(name.removeprefix(PREFIX), known)}"
