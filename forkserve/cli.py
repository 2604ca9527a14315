"""The command: argv -> one verb (serve, check, print), and the exit code. The one door of click.

The options are made from the declarations; their texts go to the same readers as the file's values, so click
checks nothing but the spelling of flags. Whatever is wrong ends in lines on stderr and an exit code, never in a
traceback of ours. Start-up is short: what only one verb needs is imported by that verb.
"""

import gc
import os
import signal
import sys
import time
from typing import Any, NoReturn

import click

from forkserve import __version__
from forkserve.accesslog import check_format
from forkserve.config import resolve, sources, values
from forkserve.config.options import Declared, Kind
from forkserve.config.resolve import Resolved
from forkserve.config.settings import Settings, declared
from forkserve.errors import AppImportError, ExitCode, ForkserveError, SettingsError

_METAVARS = {
    Kind.TEXT: "TEXT",
    Kind.PATH: "PATH",
    Kind.INTEGER: "INT",
    Kind.DURATION: "TIME",
    Kind.SIZE: "SIZE",
    Kind.CHOICE: "WORD",
    Kind.SHARE: "INT|PERCENT",
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
_INTERRUPTED = 128 + signal.SIGINT

# The child of --check-config exits with this plus its verdict's exit code: an app that calls os._exit(0) while it
# is imported must not look good.
_VERDICT = 100


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


def main() -> NoReturn:
    """Run the command with this process's argv and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Do what argv asks and return the exit code; every ForkserveError ends here as lines on stderr."""
    try:
        return _run(argv)
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    except click.ClickException as error:
        _complain(f"{error.format_message()} (forkserve --help lists the options)")
        return ExitCode.USAGE
    except ForkserveError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def serve(resolved: Resolved) -> int:
    """Become the master; return the exit code when it has stopped."""
    from forkserve.master.loop import Master
    from forkserve.worker.main import work

    # Whatever was made up to here is never collected: a collection in a worker would touch, and so copy, all of it.
    gc.freeze()
    gc.enable()
    try:
        return Master(resolved, child=work).run()
    finally:
        # The interpreter gives the handlers back while it ends: a signal that comes then must not be our exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def check_app(settings: Settings) -> int:
    """Load the app in a child of this process, which thus stays without user code, and return the exit code."""
    # SIGCHLD is waited for like a message: blocked from before the fork, so that it cannot be missed.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        code: int = ExitCode.APP_IMPORT
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = _load_app(settings)
            _flush()
        finally:
            os._exit(_VERDICT + code)
    try:
        status = _wait(pid, settings.boot_timeout)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _verdict(settings, status)


def _run(argv: list[str]) -> int:
    params = _command().make_context("forkserve", argv).params
    wants_check, wants_print = params.pop("check_config"), params.pop("print_config")
    config_path = params.pop("config")
    if config_path == "":
        raise SettingsError("--config: names no file")
    layer = sources.read_argv({name: _text(given) for name, given in params.items() if given not in (None, ())})
    is_app_needed = wants_check or not wants_print
    resolved = resolve.load(layer, os.environ, config_path or "", is_app_needed=is_app_needed)
    check_format(resolved.settings.access_log_format)
    if wants_print:
        _print(sources.to_toml(resolved.settings, resolved.origins))
    if wants_check:
        return check_app(resolved.settings)
    return ExitCode.OK if wants_print else serve(resolved)


def _text(given: Any) -> str | tuple[str, ...]:
    """Spell what click gives as the readers of values want it: a flag that stands alone is a word too."""
    return str(given).lower() if isinstance(given, bool) else given


def _command() -> click.Command:
    options: list[click.Parameter] = [_option(setting) for name, setting in declared().items() if name != "app"]
    own = [
        click.Option(["-c", "--config"], metavar="FILE", help="The TOML file of settings; none is read unless named."),
        click.Option(["--check-config"], is_flag=True, help="Load settings and app, say whether they are good."),
        click.Option(["--print-config"], is_flag=True, help="Print the settings as TOML, with their origins."),
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


def _show_version(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given:
        _print(f"forkserve {__version__}\n")
        ctx.exit()


def _load_app(settings: Settings) -> int:
    """In the child: load the app, tell what is wrong with it, return what to exit with."""
    from forkserve.wsgi.app import load_app, user_traceback
    from forkserve.wsgi.files import with_files

    gc.enable()
    try:
        with_files(load_app(settings.app, settings.chdir), settings)
    except ForkserveError as error:
        if isinstance(error, AppImportError):
            _write(2, user_traceback(error.__cause__ or error))
        _complain(str(error))
        return error.exit_code
    except BaseException as error:  # SystemExit too: whatever the app raised, it is no app that can serve
        _write(2, user_traceback(error))
        _complain(f"app = {values.show(settings.app)}: raised {type(error).__name__} while it was loaded")
        return ExitCode.APP_IMPORT
    return ExitCode.OK


def _wait(pid: int, timeout_s: float) -> int | None:
    """Reap the child and return its wait status; None if it was killed for taking too long. 0: wait for ever."""
    is_reaped = False
    deadline = time.monotonic() + timeout_s if timeout_s else None
    try:
        while True:
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped:
                is_reaped = True
                return status
            if deadline is None:
                signal.sigwaitinfo({signal.SIGCHLD})
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            signal.sigtimedwait({signal.SIGCHLD}, left_s)
    finally:
        if not is_reaped:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _verdict(settings: Settings, status: int | None) -> int:
    """Say how the child of --check-config ended, unless it said so itself."""
    app = f"app = {values.show(settings.app)}"
    if status is None:
        limit = values.format_duration(settings.boot_timeout)
        _complain(f"{app}: was not loaded within boot_timeout, {limit}")
        return ExitCode.APP_IMPORT
    code = os.waitstatus_to_exitcode(status)
    if code == _VERDICT + ExitCode.OK:
        _print("settings and app are good\n")
    if code >= _VERDICT:
        return code - _VERDICT
    if code < 0:
        _complain(f"{app}: signal {-code} ({signal.strsignal(-code)}) ended the process that loaded it")
    else:
        _complain(f"{app}: ended the process while it was loaded, exit status {code}")
    return ExitCode.APP_IMPORT


def _print(text: str) -> None:
    try:
        _write(1, text)
    except OSError as error:
        raise ForkserveError(f"cannot write to stdout: {error.strerror}") from None


def _complain(lines: str) -> None:
    try:
        _write(2, "".join(f"forkserve: error: {values.one_line(line)}\n" for line in lines.splitlines()))
    except OSError:
        pass  # nobody reads, and the exit code still tells


def _write(fd: int, text: str) -> None:
    """Write all of a text, as UTF-8 whatever the locale says: TOML is, and a verb must not fail over a name."""
    rest = text.encode(errors="backslashreplace")
    while rest:
        rest = rest[os.write(fd, rest) :]


def _flush() -> None:
    """Empty the buffers that the app has written to, which os._exit would lose."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # the descriptor was closed before we began
                stream.flush()
        except OSError:
            pass  # nobody reads: there is nobody to tell
