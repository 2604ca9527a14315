"""What is declared about a setting, in which words: its kind, its effect, its flags and variables. Pure.

The declarations themselves stand in config/pool.py and config/settings.py. Knows no value but what it is given.
"""

from enum import Enum
from typing import Any

from forkserve.typed import Struct


class Kind(Enum):
    """How the written form of a value is read; config/values.py has a reader for each."""

    TEXT = "text"
    PATH = "path"
    INTEGER = "integer"
    DURATION = "duration"  # seconds as a float; written 30, 0.5, "30s", "2m", "1h"
    SIZE = "size"  # bytes as an int; written 1048576, "16MiB", "64kB"
    CHOICE = "choice"
    SHARE = "share"  # kept as text: a number, or a part of another setting's value; written 2 or "25%"
    ROOM = "room"  # kept as text: bytes, or a part of the room that there is; written "2GiB" or "25%"
    APP = "app"
    FLAG = "flag"  # written true or false; as a flag --name or --no-name
    TEXTS = "texts"  # written as a list, or as one
    MAP = "map"  # kept as pairs; written as a table, or "key=value" as text
    ADDRESSES = "addresses"  # written "127.0.0.1:8000" or a list of such


class Effect(Enum):
    """When a changed value takes effect."""

    NOW = "now"  # HUP: the master goes by it at once
    RELOAD = "reload"  # HUP: new workers have it
    BIND = "bind"  # HUP: unix sockets that are bound from then on have it
    UPGRADE = "upgrade"  # only a new master has it


class Option(Struct, frozen=True):
    """What is declared about one setting beside its type and default."""

    kind: Kind
    help: str
    section: str
    effect: Effect = Effect.RELOAD
    flags: tuple[str, ...] = ()  # spelled out where they are not just --name-with-dashes
    variables: tuple[str, ...] = ()  # read after FORKSERVE_<NAME>
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""


class Declared(Struct, frozen=True):
    """One setting as the rest of config/ sees it: its name, default and declaration."""

    name: str
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """The command line flags, short ones first."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, the first one that is set wins."""
        return ("FORKSERVE_" + self.name.upper(), *self.option.variables)


options: list[Option] = []  # of all settings, in the order of declaration


def declare(default: Any, kind: Kind, section: str, help: str, **more: Any) -> Any:
    """Declare a setting and return its default."""
    options.append(Option(kind, help, section, **more))
    return default
