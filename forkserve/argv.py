"""The command line in its plain spelling, read without click: flags in full, each with its value, and the app.

Importing click and making its options costs 11 ms of CPU and 2.3 MiB at every start; a service is started by a line
that needs none of it. Whatever is not plain (a joined or unknown flag, a missing value, --help) is click's to read
and to complain about: see flags.py. Both give the same for what is read here. Pure.
"""

from collections.abc import Sequence
from typing import Any

from forkserve.config.options import Declared, Kind
from forkserve.config.settings import declared

_MULTIPLE = (Kind.ADDRESSES, Kind.TEXTS, Kind.MAP)
_CONFIG = ("-c", "--config")


def plain(argv: Sequence[str]) -> dict[str, Any] | None:
    """Return what was given by the name of the setting, and "config" likewise; None if it takes click to read it."""
    found: dict[str, Any] = {}
    settings = {flag: setting for setting in declared().values() if setting.name != "app" for flag in setting.flags}
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            if "app" in found:
                return None
            found["app"] = word
            continue
        name, is_joined, value = word.partition("=") if word.startswith("--") else (word, "", "")
        setting = settings.get(name)
        if setting is None and name not in _CONFIG:
            switch = settings.get("--" + name.removeprefix("--no-")) if name.startswith("--no-") else None
            if switch is None or is_joined or switch.option.kind is not Kind.FLAG:
                return None
            found[switch.name] = False
            continue
        if setting is not None and setting.option.kind is Kind.FLAG:
            if is_joined:
                return None
            found[setting.name] = True
            continue
        given = value if is_joined else next(words, None)
        if given is None or (not is_joined and given.startswith("-") and given != "-"):
            return None
        _put(found, setting, given)
    return found


def _put(found: dict[str, Any], setting: Declared | None, given: str) -> None:
    if setting is None:
        found["config"] = given
    elif setting.option.kind in _MULTIPLE:
        found[setting.name] = (*found.get(setting.name, ()), given)
    else:
        found[setting.name] = given
