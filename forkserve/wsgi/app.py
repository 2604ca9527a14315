"""Load the app: from the words of the settings to a callable.

Runs in a worker (and in the child of --check-config), never in the master: importing the app is user code.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from forkserve.config.appspec import AppSpec, parse_app_spec
from forkserve.errors import AppImportError, AppNotFoundError, SettingsError
from forkserve.wsgi.fitness import check_app, check_threads

App = Callable[..., Any]

_DEFAULT_NAMES = ("application", "app", "wsgi")


def load_app(text: str, chdir: str = "", threads: int = 1) -> App:
    """Change to ``chdir`` (if any), put the folder first on sys.path, import and return the app, which is to run in so
    many threads.

    Raises AppImportError (its cause is what the app raised), AppNotFoundError, or SettingsError for a bad folder.
    """
    if chdir:
        try:
            os.chdir(chdir)
        except OSError as error:
            raise SettingsError(f"chdir = {chdir!r}: {error.strerror}; name a folder that exists") from None
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = parse_app_spec(text)
    app = _call(spec, _find(spec, _import(spec)))
    check_app(app, text)
    check_threads(threads)
    return app  # type: ignore[no-any-return]  # the WSGI border: anything callable


def _import(spec: AppSpec) -> Any:
    try:
        return importlib.import_module(spec.module)
    except (SystemExit, Exception) as error:
        where = ""
        if isinstance(error, ModuleNotFoundError) and error.name and f"{spec.module}.".startswith(f"{error.name}."):
            where = f"; looked for in {os.getcwd()}, --chdir names another folder"  # it is not the app that lacks one
        raise AppImportError(f"module {spec.module!r} could not be imported: {_brief(error)}{where}") from error


def _find(spec: AppSpec, module: Any) -> Any:
    for name in (spec.attribute,) if spec.attribute else _DEFAULT_NAMES:
        found = module
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError:
            continue
        return found
    wanted = repr(spec.attribute) if spec.attribute else "application, app or wsgi"
    raise AppNotFoundError(f"module {spec.module!r} has no {wanted}; name the app as module:attribute")


def _call(spec: AppSpec, found: Any) -> Any:
    if not spec.is_factory:
        return found
    try:
        return found(*spec.args, **dict(spec.kwargs))
    except (SystemExit, Exception) as error:
        raise AppImportError(f"{spec.module}:{spec.attribute}(...) raised: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """Spell the traceback of what the app raised, from the user's code on; empty where it never ran."""
    import traceback  # lazy: only a fault pays for it

    package, library = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.__file__)
    machinery = ("<frozen importlib", f"{library}/importlib/")
    above = (*machinery, f"{package}/cli.py", f"{package}/wsgi/", f"{package}/worker/")
    told = traceback.TracebackException.from_exception(error)
    frames = list(told.stack)
    while frames and frames[0].filename.startswith(above):
        frames.pop(0)
    if not frames and not isinstance(error, SyntaxError):
        return ""  # no such module, or a factory that was called wrongly: the error's line says it all
    told.stack = traceback.StackSummary.from_list([f for f in frames if not f.filename.startswith(machinery)])
    return "".join(told.format())
