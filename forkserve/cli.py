"""The command: argv -> one verb (serve, check, print), and the exit code.

Whatever is wrong ends in lines on stderr and an exit code, never in a traceback of ours. A plain line is read by
argv.py, any other by flags.py with click. Start-up is short: what only one verb needs is imported by that verb.
"""

import gc
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from forkserve.accesslog import check_format
from forkserve.argv import plain
from forkserve.config import sources, values
from forkserve.config.resolve import Loader, Resolved
from forkserve.config.settings import Settings
from forkserve.config.sources import Layer
from forkserve.errors import AnsweredError, AppImportError, ExitCode, ForkserveError, SettingsError

if TYPE_CHECKING:
    from forkserve.master.handover import Handover
    from forkserve.unix.identity import Identity

_HANDOVER = "_FORKSERVE_HANDOVER"  # master.handover.VARIABLE, without the import
_INTERRUPTED = 128 + signal.SIGINT

# The child of --check-config exits with this plus its verdict's exit code: an app that calls os._exit(0) while it
# is imported must not look good.
_VERDICT = 100


def main() -> NoReturn:
    """Run the command with this process's argv and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Do what argv asks and return the exit code; every ForkserveError ends here as lines on stderr."""
    try:
        return _run(argv)
    except AnsweredError:
        return ExitCode.OK
    except ForkserveError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def serve(resolved: Resolved, old: "Handover | None" = None) -> int:
    """Become the master, or go on as the one that we were before an exec; return the exit code when it has stopped."""
    from forkserve.master.loop import Master
    from forkserve.worker.main import work

    # Whatever was made up to here is never collected: a collection in a worker would touch, and so copy, all of it.
    gc.freeze()
    gc.enable()
    try:
        return Master(resolved, work, old).run()
    finally:
        # The interpreter gives the handlers back while it ends: a signal that comes then must not be our exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def check_app(settings: Settings, who: "Identity | None" = None) -> int:
    """Load the app in a child of this process, which thus stays without user code, and return the exit code.

    ``who``: whom the child becomes before that, as a worker does.
    """
    # SIGCHLD is waited for like a message: blocked from before the fork, so that it cannot be missed. So are those
    # that end us, until somebody waits who then kills the child: it may hang, and would outlive us.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    signal.signal(signal.SIGTERM, _leave)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        code: int = ExitCode.APP_IMPORT
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            from forkserve.worker.ending import ending  # before the app, which may patch what it binds

            code = _load_app(settings, who)
            ending.cut_short(_VERDICT + code, with_helpers=True)  # or what the import has started would stay
        finally:
            os._exit(_VERDICT + code)
    try:
        status = _wait(pid, settings.boot_timeout, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _verdict(settings, status)


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def _run(argv: list[str]) -> int:
    given = os.environ.pop(_HANDOVER, "")
    if given:
        return _run_as_target(argv, *given.split(":"))
    params = _read(argv)
    wants_check, wants_print = params.pop("check_config", False), params.pop("print_config", False)
    resolved = _loader(params, is_app_needed=wants_check or not wants_print).load()
    _check(resolved.settings)
    for stranger in resolved.strangers if wants_check or wants_print else ():
        _complain(stranger, "warning")
    if wants_print:
        _print(sources.to_toml(resolved.settings, resolved.origins))
    if wants_check:
        from forkserve.master.outfit import check_logs, identity_of, tls_context

        check_logs(resolved.settings)
        # Nobody but root becomes another user, and whoever asks need not be who starts it.
        who = identity_of(resolved.settings) if os.geteuid() == 0 else None
        tls_context(resolved.settings, is_news=False)
        return check_app(resolved.settings, who)
    return ExitCode.OK if wants_print else serve(resolved)


def _run_as_target(argv: list[str], word: str, fd: str, nonce: str) -> int:
    """Be the program that an upgrade becomes: on trial, say whether that would go well; else take over."""
    from forkserve.master import handover as over
    from forkserve.master import target

    old = over.from_memfd(int(fd))
    if word == over.TRY:
        _rehearse(argv, old)
        _print(target.answer(nonce))
        return ExitCode.OK
    over.keep_close_on_exec(old.descriptors())
    try:
        loader = _target_loader(argv)
    except ForkserveError as error:
        # It was tried a moment ago; now the reload will say what is wrong, while the old workers serve.
        loader = _unreadable(str(error))
    return serve(Resolved(over.settings_from_plain(old.settings), old.origins, loader), old)


def _rehearse(argv: list[str], old: "Handover") -> None:
    """Do all of what taking over will do that changes nothing outside; what fails here would fail after the exec."""
    from forkserve.master.handover import settings_from_plain
    from forkserve.master.loop import Master
    from forkserve.master.outfit import identity_of, tls_context
    from forkserve.worker.main import work

    resolved = _target_loader(argv).load()
    _check(resolved.settings)
    identity_of(resolved.settings)
    tls_context(resolved.settings, is_news=False)
    Master(Resolved(settings_from_plain(old.settings), old.origins, resolved.loader), work, old)


def _target_loader(argv: list[str]) -> Loader:
    params = _read(argv)
    return _loader(params, is_app_needed=True)


def _unreadable(problem: str) -> Loader:
    """What stands in for argv that cannot be read; the next upgrade needs the environment all the same."""
    return Loader(Layer(problems=(problem,)), dict(os.environ))


def _read(argv: list[str]) -> dict[str, Any]:
    """Return what argv gives, by setting. Raises UsageError and AnsweredError, as flags.read does."""
    params = plain(argv)
    if params is not None:
        return params
    from forkserve import flags  # lazy: click is a sixth of the time of a start, and 2 MiB

    try:
        return flags.read(argv)
    except AnsweredError as answer:
        _print(str(answer))
        raise


def _loader(params: dict[str, Any], *, is_app_needed: bool) -> Loader:
    """Make what reads the settings, now and at every reload, of what the command line says."""
    params = {name: given for name, given in params.items() if name not in ("check_config", "print_config")}
    config_path = params.pop("config", None)
    if config_path == "":
        raise SettingsError("--config: names no file")
    layer = sources.read_argv({name: _text(given) for name, given in params.items() if given not in (None, ())})
    return Loader(layer, dict(os.environ), config_path or "", is_app_needed)


def _check(settings: Settings) -> None:
    """Refuse what only its user can tell to be wrong. Raises SettingsError."""
    check_format(settings.access_log_format)
    sockets = (settings.socket_mode, settings.socket_user, settings.socket_group)
    if any((settings.user, settings.group, settings.umask, *sockets)):
        from forkserve.master.outfit import check_owners

        check_owners(settings)


def _text(given: Any) -> str | tuple[str, ...]:
    """Spell what click gives as the readers of values want it: a flag that stands alone is a word too."""
    return str(given).lower() if isinstance(given, bool) else given


def _load_app(settings: Settings, who: "Identity | None") -> int:
    """In the child: load the app, tell what is wrong with it, return what to exit with."""
    from forkserve.unix.surroundings import arrange
    from forkserve.wsgi.app import load_app, user_traceback
    from forkserve.wsgi.files import with_files

    gc.enable()
    try:
        if who is not None:
            who.take()
    except OSError as error:
        _complain(f"user = {values.show(settings.user)}, group = {values.show(settings.group)}: {error.strerror}")
        return ExitCode.FAILURE
    arrange(settings.env, settings.pythonpath)
    try:
        with_files(load_app(settings.app, settings.chdir, settings.threads), settings)
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


def _wait(pid: int, timeout_s: float, mask: set[int]) -> int | None:
    """Reap the child and return its wait status; None if it was killed for taking too long. 0: wait for ever.

    ``mask``: which signals to block meanwhile, beside SIGCHLD; any other that ends us takes the child along.
    """
    is_reaped = False
    deadline = time.monotonic() + timeout_s if timeout_s else None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask | {signal.SIGCHLD})
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


def _complain(lines: str, level: str = "error") -> None:
    try:
        _write(2, "".join(f"forkserve: {level}: {values.one_line(line)}\n" for line in lines.splitlines()))
    except OSError:
        pass  # nobody reads, and the exit code still tells


def _write(fd: int, text: str) -> None:
    """Write all of a text, as UTF-8 whatever the locale says: TOML is, and a verb must not fail over a name."""
    rest = text.encode(errors="backslashreplace")
    while rest:
        rest = rest[os.write(fd, rest) :]
