"""The reference page of the settings, made from their declarations.

``python -m forkserve.config.reference > docs/settings.md``; a test says when that is due. Knows no values but the
defaults.
"""

from forkserve.config import values
from forkserve.config.options import Declared, Effect, Kind
from forkserve.config.settings import declared

_INTRODUCTION = """\
# Settings

<!-- Made from forkserve/config by `python -m forkserve.config.reference > docs/settings.md`. -->

Every setting has a key for the TOML file, a flag and a variable. The order is: default, then the file, then
variables, then flags; the later one wins. `forkserve --print-config` shows what is in effect, and for each value that
somebody gave, where: `workers = 4  # from config.toml:3`.

* **File.** `-c FILE`, or `FORKSERVE_CONFIG`. No file is read unless it is named. Keys stand at the top level.
* **Variables.** Text, in the same spelling as flags. `FORKSERVE_BIND` holds several addresses separated by commas.
  `WEB_CONCURRENCY` and `PORT` count as unset when they are empty. A `FORKSERVE_` variable that is no setting is an
  error, except those that Kubernetes makes for a service of that name.
* **Durations** are seconds (`30`, `0.5`) or written `"500ms"`, `"30s"`, `"2m"`, `"1h30m"`, `"1d"`.
* **Sizes** are bytes (`65536`) or written `"64KiB"`, `"16MiB"`, `"1GiB"` (powers of 1024), `"64kB"`, `"16MB"`, `"1GB"`
  (powers of 1000).
* **Addresses** are `HOST:PORT` (port 8000 if left out, 0 for one that the kernel picks), `:PORT` or `*:PORT` (every
  IPv4 interface), `[IPV6]:PORT`, `unix:PATH` or `unix://PATH`, `unix:@NAME` (abstract), `fd://N`, `tcp://HOST:PORT` or
  `http://HOST:PORT`.
* **Takes effect.** *Reload*: new workers have the new value after HUP. *Upgrade*: only a new master has it.

Whatever is wrong is told in one line each, with its place, and ends in exit code 2; at a reload the old settings stay.
`forkserve --check-config` also reads the certificates, and loads the app in a process of its own; it exits with 3 or 4
where that fails.
"""

_TYPES = {
    Kind.TEXT: "text",
    Kind.PATH: "path",
    Kind.INTEGER: "whole number",
    Kind.DURATION: "duration",
    Kind.SIZE: "size",
    Kind.CHOICE: "one of",
    Kind.SHARE: "whole number, or percentage",
    Kind.ROOM: "size, or percentage",
    Kind.APP: "app",
    Kind.ADDRESSES: "address, or list of addresses",
    Kind.FLAG: "true or false",
    Kind.TEXTS: "text, or list of texts",
    Kind.MAP: "table of texts; as text `KEY=VALUE`",
}
_EFFECTS = {
    Effect.NOW: "reload, at once",
    Effect.RELOAD: "reload, with new workers",
    Effect.BIND: "reload, for unix sockets bound from then on",
    Effect.UPGRADE: "upgrade",
}


def render() -> str:
    """Give the whole page."""
    parts = [_INTRODUCTION]
    section = ""
    for setting in declared().values():
        if setting.option.section != section:
            section = setting.option.section
            parts.append(f"## {section}\n")
        parts.append(_entry(setting))
    return "\n".join(parts)


def _entry(setting: Declared) -> str:
    rows = [
        ("Flag", ", ".join(f"`{flag}`" for flag in setting.flags) if setting.name != "app" else "the argument `APP`"),
        ("Variable", ", ".join(f"`{variable}`" for variable in setting.variables)),
        ("Type", _type(setting)),
        ("Default", f"`{values.show(values.write(setting, setting.default))}`"),
        ("Takes effect", _EFFECTS[setting.option.effect]),
    ]
    listed = "\n".join(f"* {name}: {text}" for name, text in rows)
    return f"### `{setting.name}`\n\n{setting.option.help}\n\n{listed}\n"


def _type(setting: Declared) -> str:
    type_ = _TYPES[setting.option.kind]
    if setting.option.choices:
        type_ += " " + ", ".join(f"`{choice}`" for choice in setting.option.choices)
    limits = values.range_in_words(setting)
    return f"{type_}, {limits}" if limits else type_


if __name__ == "__main__":
    print(render(), end="")
