"""Whether what was imported is an app that can be served: no ASGI app, and no patched threads where it runs in threads.

Told at boot, by what it is, since else each request would be answered with 500, or none at all. Runs in a worker (and
in the child of --check-config). Imported before the app, so that it knows the functions as they were. Does not call
the app. Sources: the ASGI specification, "Applications"; `inspect.iscoroutinefunction` (whose module is 10 ms of a
start).
"""

import _thread
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from forkserve.errors import AppImportError, AppNotFoundError

_ASGI = ("scope", "receive", "send")
_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x200  # code.co_flags: inspect.CO_COROUTINE, CO_ASYNC_GENERATOR
_MARKS = ("_is_coroutine_mark", "_is_coroutine")  # inspect.markcoroutinefunction, compiled modules
_THREADS = ("get_ident", "allocate_lock")  # whoever puts something else in the place of threads must replace both
_originals = {name: getattr(_thread, name) for name in _THREADS}

_REMEDY = (
    "forkserve serves WSGI: run it with an ASGI server such as uvicorn, or make a WSGI app of it, as with"
    " a2wsgi.ASGIMiddleware(app)"
)


def check_app(app: Any, said: str) -> None:
    """Refuse an app that no WSGI server can call; ``said`` is how the settings name it. Raises AppNotFoundError."""
    if not callable(app):
        raise AppNotFoundError(f"app = {said!r}: it is a {type(app).__name__}, which cannot be called")
    given = 0
    while isinstance(app, partial):
        given += len(app.args)
        app = app.func
    called = app if isinstance(app, FunctionType | MethodType) else _call_of(app)
    while isinstance(called, partial):
        called = called.func
    if _is_async(called):
        what = "an ASGI app" if len(_parameters(called)) > 2 else "an async function"
    elif _parameters(called)[given:] == _ASGI or (isinstance(app, type) and hasattr(app, "__await__")):
        what = "an ASGI app"
    else:
        return
    raise AppNotFoundError(f"app = {said!r}: it is {what}; {_REMEDY}")


def check_threads(threads: int) -> None:
    """Refuse threads that the app has replaced by something else: no request would ever run. Raises AppImportError."""
    if threads > 1 and any(getattr(_thread, name) is not original for name, original in _originals.items()):
        raise AppImportError(
            f"threads = {threads}: the app has patched Python's threads while it was imported, as gevent and eventlet"
            " do, so it cannot run in them; take threads = 1 and more workers, or leave threads alone:"
            " gevent.monkey.patch_all(thread=False), eventlet.monkey_patch(thread=False)"
        )


def _call_of(app: Any) -> Any:
    """What runs when an object that is no function is called; of a class, whose calls make objects: when those are,
    unless they are the body of a WSGI response."""
    if isinstance(app, type):
        return None if hasattr(app, "__iter__") else getattr(app, "__call__", None)  # noqa: B004  # as its objects have
    return type(app).__call__


def _is_async(called: Any) -> bool:
    if isinstance(called, MethodType):
        called = called.__func__
    if any(getattr(called, mark, None) for mark in _MARKS):
        return True
    code = getattr(called, "__code__", None)
    return code is not None and bool(code.co_flags & (_COROUTINE | _ASYNC_GENERATOR))


def _parameters(called: Any) -> tuple[str, ...]:
    """The names of the parameters that a caller must give by position."""
    is_method = isinstance(called, MethodType)
    if is_method:
        called = called.__func__
    code = getattr(called, "__code__", None)
    if code is None:
        return ()
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount - len(getattr(called, "__defaults__", None) or ())]
    return names[1:] if names[:1] == ("self",) or is_method else names
