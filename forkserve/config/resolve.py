"""Layers of raw values -> Settings, with the origin of each; and what changed between two Settings.

Order: default < file < environment < flags. Every value that any layer holds must be good, also one that a
stronger layer hides: a slip in the file must not wait for the day on which a flag is dropped. All problems are
told at once, a line each. Used by the command and, at a reload, by the master.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forkserve.config import sources, values
from forkserve.config.options import Effect
from forkserve.config.settings import Settings, declared
from forkserve.config.sources import Given, Layer
from forkserve.errors import SettingsError
from forkserve.net import address
from forkserve.typed import Struct

# The master writes its own lines by the new value from now on; a worker keeps what it was born with.
_LOGS_OF_ALL = ("errorlog", "loglevel")
_REACHES = {
    Effect.NOW: "at once",
    Effect.RELOAD: "new workers",
    Effect.BIND: "unix sockets bound from now on",
    Effect.UPGRADE: "the next upgrade",
}
NO_APP = 'no app: give it as an argument (forkserve module:attr) or as app = "module:attr" in the file'


class Loader(Struct, frozen=True):
    """What it takes to load the settings, now and again at every reload."""

    argv: Layer
    environ: Mapping[str, str]
    config_path: str = ""  # empty: FORKSERVE_CONFIG may name one
    is_app_needed: bool = False

    def load(self) -> "Resolved":
        """Read the file anew and resolve all layers; raise SettingsError with a line for each problem."""
        resolved = resolve([*self._file(), sources.read_environ(self.environ), self.argv], self)
        if self.is_app_needed and not resolved.settings.app:
            raise SettingsError(NO_APP)
        return resolved

    def _file(self) -> list[Layer]:
        if self.config_path:
            return [sources.read_file(self.config_path, "--config")]
        named = self.environ.get(sources.CONFIG_VARIABLE, "")
        return [sources.read_file(named, sources.CONFIG_VARIABLE)] if named else []


class Resolved(Struct, frozen=True):
    """Good settings, and where those that some layer gives came from."""

    settings: Settings
    origins: Mapping[str, str]  # no entry: nobody gave it, it is the default
    loader: Loader
    strangers: tuple[str, ...] = ()  # variables that look like ours and are none, a line each

    def reload(self) -> "Resolved":
        """Load again from the same places; raise SettingsError and change nothing where they are bad now."""
        return self.loader.load()


class Change(Struct, frozen=True):
    """One setting that differs between two Settings, and when the new value takes effect."""

    name: str
    old: Any
    new: Any
    effect: Effect

    def spelled(self) -> tuple[str, str]:
        """Spell the old and the new value as a user writes them, for the log."""
        return self._spell(self.old), self._spell(self.new)

    def _spell(self, value: Any) -> str:
        if self.name == "env":  # the names alone: what variables hold may be secret, and logs are kept
            return ", ".join(name for name, _ in value)
        written = values.write(declared()[self.name], value)
        if isinstance(written, list):
            return ", ".join(str(item) for item in written)
        return written if isinstance(written, str) else values.show(written)

    @property
    def applies_to(self) -> str:
        """Say whom the new value reaches, and when."""
        if self.name in _LOGS_OF_ALL:
            return "the master at once, new workers"
        return _REACHES[self.effect]


def load(argv: Layer, environ: Mapping[str, str], config_path: str = "", *, is_app_needed: bool = False) -> Resolved:
    """Load the settings for the first time; raise SettingsError with a line for each problem."""
    # A copy: what the process does to its environment later must not change what a reload reads.
    return Loader(argv, dict(environ), config_path, is_app_needed).load()


def resolve(layers: Sequence[Layer], loader: Loader) -> Resolved:
    """Lay the layers over the defaults, the weakest first; raise SettingsError with a line for each problem."""
    problems: list[str] = []
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        problems += layer.problems
        for name, given in layer.given.items():
            try:
                chosen[name] = values.read(declared()[name], given.raw, is_text=given.is_text)
            except ValueError as reason:
                problems.append(_problem(name, given, reason))
            origins[name] = given.origin
    if not problems:
        settings = Settings(**chosen)
        problems += check(settings, origins)
    if problems:
        raise SettingsError("\n".join(values.one_line(problem) for problem in problems))
    strangers = tuple(values.one_line(line) for layer in layers for line in layer.strangers)
    return Resolved(settings, origins, loader, strangers)


def check(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    """Say what is wrong between settings that are good each by itself."""
    problems = [*_bad_trust(settings, origins), *_places_named_twice(settings, origins)]
    if settings.mount and (settings.mount[0] != "/" or settings.mount[-1] == "/"):
        problems.append(
            f"{origins.get('mount', 'default')}: mount = {values.show(settings.mount)}: must begin with a slash and end"
            " without one, such as /shop"
        )
    if not settings.pidfile:
        return problems
    sockets = [address.parse(text) for text in settings.bind]
    others = [("errorlog", settings.errorlog), ("accesslog", settings.accesslog)]
    others += [("bind", place.path) for place in sockets if place.family is address.Family.UNIX]
    return problems + [
        f"{origins.get('pidfile', 'default')}: pidfile = {values.show(settings.pidfile)}: is also {name}'s file;"
        " give each its own"
        for name, path in others
        if path == settings.pidfile
    ]


def _bad_trust(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    for name in ("forwarded_allow_ips", "proxy_allow_ips", "gateway_allow_ips"):
        if name in origins:
            from forkserve.net.trust import Trust  # lazy: ipaddress is 3 ms of a start

            try:
                Trust(getattr(settings, name))
            except ValueError as reason:
                yield f"{origins[name]}: {name} = {values.show(getattr(settings, name))}: {reason}"


def _places_named_twice(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    """Names of one place that need no looking up; the others are found when they are bound."""
    known: dict[str, address.Address] = {}
    for text in settings.bind:
        one = address.parse(text).speaking(settings.protocol)
        other = known.setdefault(one.place, one)
        if one != other and not (one.is_tcp and one.port == 0):
            yield (
                f"{origins.get('bind', 'default')}: bind = {values.show(text)}: is the same place as"
                f" {values.show(str(other))}, which can have one protocol; leave one of them out"
            )


def diff(old: Settings, new: Settings) -> tuple[Change, ...]:
    """List the settings whose values differ, in the order of declaration."""
    return tuple(
        Change(name, getattr(old, name), getattr(new, name), setting.option.effect)
        for name, setting in declared().items()
        if getattr(old, name) != getattr(new, name)
    )


def _problem(name: str, given: Given, reason: ValueError) -> str:
    raw = given.raw
    if name == "env":  # what variables hold may be secret, and at a reload this goes to the log
        return f"{given.origin}: {name}: {reason}"
    if given.is_text and isinstance(raw, tuple):
        raw = ",".join(raw)  # a flag that may be repeated
    return f"{given.origin}: {name} = {_bare(raw) if given.is_text else values.show(raw)}: {reason}"


def _bare(raw: object) -> str:
    """Text has no quotes where it was written, so a number shows none."""
    return raw if isinstance(raw, str) and raw.lstrip("-").isdecimal() else values.show(raw)
