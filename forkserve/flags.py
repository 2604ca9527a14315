"""The command line as click reads it: every spelling, its help, its complaints. The one door of click.

Imported only where argv.py cannot read the line. The options are made from the declarations; their texts go to the same
readers as the file's values, so click checks nothing but the spelling of flags.
"""

from typing import Any

import click

from forkserve import __version__
from forkserve.config import values
from forkserve.config.options import Declared, Kind
from forkserve.config.settings import declared
from forkserve.errors import AnsweredError, UsageError

_METAVARS = {
    Kind.TEXT: "TEXT",
    Kind.PATH: "PATH",
    Kind.INTEGER: "INT",
    Kind.DURATION: "TIME",
    Kind.SIZE: "SIZE",
    Kind.CHOICE: "WORD",
    Kind.SHARE: "INT|PERCENT",
    Kind.ROOM: "SIZE|PERCENT",
    Kind.APP: "APP",
    Kind.ADDRESSES: "ADDRESS",
    Kind.TEXTS: "TEXT",
    Kind.MAP: "KEY=VALUE",
}
_ABOUT = """Serve a WSGI app with a master and its workers.

APP is module:attr, module (its application, else app, else wsgi) or "module:factory('x', k=1)".

Each setting is also a key of the file that --config names and a variable FORKSERVE_<KEY>. Flags win over
variables, variables over the file. A TIME is seconds or 30s, 500ms, 2m, 1h30m; a SIZE is bytes or 64KiB, 16MiB, 1GB.
"""


class _Command(click.Command):
    """A command whose help lists the settings by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per section of the settings, the command's own options last."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None and isinstance(param, click.Option):
                setting = declared().get(param.name or "")
                rows.setdefault(setting.option.section if setting else "Command", []).append(row)
        for section, listed in rows.items():
            with formatter.section(section):
                formatter.write_dl(listed)


def read(argv: list[str]) -> dict[str, Any]:
    """Return what was given, by setting. UsageError: it cannot be read; AnsweredError: it asked for a text only."""
    try:
        return _command().make_context("forkserve", argv).params
    except click.exceptions.Exit:  # --help, which click has written
        raise AnsweredError from None
    except click.ClickException as error:
        raise UsageError(f"{error.format_message()} (forkserve --help lists the options)") from None


def _command() -> click.Command:
    options: list[click.Parameter] = [_option(setting) for name, setting in declared().items() if name != "app"]
    own = [
        click.Option(["-c", "--config"], metavar="FILE", help="The TOML file of settings; none is read unless named."),
        click.Option(["--check-config"], is_flag=True,
                     help="Load settings, certificates and app, say whether they are good."),
        click.Option(["--print-config"], is_flag=True, help="Print the settings as TOML, with their origins."),
        click.Option(["-D", "--daemon"], is_flag=True, is_eager=True, expose_value=False, callback=_refuse_daemon,
                     hidden=True),
        click.Option(["-v", "--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                     help="Show the version."),
    ]  # fmt: skip
    return _Command(
        "forkserve",
        params=[click.Argument(["app"], required=False, metavar="[APP]"), *options, *own],
        help=_ABOUT,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _option(setting: Declared) -> click.Option:
    written = values.write(setting, setting.default)
    default = ", ".join(str(item) for item in (written if isinstance(written, list) else [written]))
    help = setting.option.help.replace("`", "") + (f"  [default: {default}]" if default else "")
    if setting.option.kind is Kind.FLAG:
        no = ["--no-" + flag.removeprefix("--") for flag in setting.flags if flag.startswith("--")]
        spelled = [f"{flag}/{other}" for flag, other in zip(setting.flags, no, strict=True)]
        return click.Option([*spelled, setting.name], default=None, help=help)
    return click.Option(
        [*setting.flags, setting.name],
        metavar=setting.option.metavar or "|".join(setting.option.choices) or _METAVARS[setting.option.kind],
        multiple=setting.option.kind in (Kind.ADDRESSES, Kind.TEXTS, Kind.MAP),
        help=help,
    )


def _refuse_daemon(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given:
        raise click.UsageError(
            "there is no --daemon: run it in the foreground under systemd (Type=notify) or in a container, which"
            " restart it, keep its log and know whether it is ready"
        )


def _show_version(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given:
        raise AnsweredError(f"forkserve {__version__}\n")
