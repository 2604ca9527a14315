"""An ASGI app is refused at boot, by what it is; a WSGI app that merely looks unusual is served."""

import functools
import signal
import subprocess
import sys
from typing import Any

import pytest

from forkserve.errors import AppNotFoundError
from forkserve.wsgi.fitness import check_app
from tests.harness import Server, clean_environ


async def function(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app."""


async def async_wsgi(environ: Any, start_response: Any) -> None:
    """Neither."""


async def generator(scope: Any, receive: Any, send: Any) -> Any:
    """An ASGI app with a mistake."""
    yield b""


def plain_wrapper(scope: Any, receive: Any, send: Any) -> Any:
    """A function that returns what is to be awaited."""
    return function(scope, receive, send)


class Framework:
    """Such as FastAPI or Starlette."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve."""

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve."""


class Endpoint:
    """Such as Starlette's: an object for each request."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope

    def __await__(self) -> Any:
        yield


class Configured:
    """An app that is called with what it is configured by."""

    async def serve(self, conf: Any, scope: Any, receive: Any, send: Any) -> None:
        """Serve."""


ASGI = {
    "function": function, "async wsgi": async_wsgi, "generator": generator, "plain wrapper": plain_wrapper,
    "instance": Framework(), "class": Framework, "method": Framework().method, "endpoint": Endpoint,
    "partial": functools.partial(function), "partial of an instance": functools.partial(Framework()),
    "partial with an argument": functools.partial(Configured().serve, {}),
    "partial of a wrapper": functools.partial(functools.partial(lambda conf, scope, receive, send: None, {})),
}  # fmt: skip


def wsgi(environ: Any, start_response: Any, extra: Any = None) -> Any:
    """A WSGI app with a third parameter."""


def three(scope: Any, receive: Any = None, send: Any = None) -> Any:
    """A WSGI app whose parameters have names that mean nothing to it."""


class Response:
    """A WSGI app that is a class: an object of it is the body."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        self.environ = environ

    def __iter__(self) -> Any:
        yield b""


class Application:
    """A WSGI app that is an object."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Serve."""

    async def other(self) -> None:
        """Something else that it has."""


def decorated(app: Any) -> Any:
    """Give an app a third argument."""

    @functools.wraps(app)
    def wrapper(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response, None)

    return wrapper


@decorated
def wrapped(scope: Any, receive: Any, send: Any) -> Any:
    """A WSGI app, after its decorator."""


WSGI = {
    "three with a default": wsgi, "named alike": three, "class": Response, "object": Application(), "wrapped": wrapped,
    "partial": functools.partial(wsgi, extra=1), "lambda": lambda environ, start_response: [],
    "method": Application().__call__,
    "partial of three": functools.partial(lambda conf, environ, start_response: [], {}), "builtin": print,
}  # fmt: skip


@pytest.mark.parametrize("name", ASGI)
def test_asgi_app_is_known_by_what_it_is(name: str) -> None:
    with pytest.raises(
        AppNotFoundError, match=r"app = 'shop:app': it is an (ASGI app|async function); forkserve serves WSGI"
    ):
        check_app(ASGI[name], "shop:app")


@pytest.mark.parametrize("name", WSGI)
def test_wsgi_app_is_let_through(name: str) -> None:
    check_app(WSGI[name], "shop:app")


SOURCE = "class FastAPI:\n    async def __call__(self, scope, receive, send):\n        pass\n\napp = FastAPI()\n"
PLAIN = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'plain']\n"


def test_start_ends_with_a_plain_line_and_exit_code_4() -> None:
    s = Server(app="fresh_app:app", await_ready=False, expect=["worker could not boot", "first start failed"])
    s.write_app(SOURCE)
    with s:
        assert s.wait_exit() == 4
    assert (
        "it is an ASGI app; forkserve serves WSGI" in s.lines("first start failed")[0] if s.error_log.exists() else True
    )


def test_reload_to_an_asgi_app_is_given_up_and_the_old_generation_serves() -> None:
    expect = ["worker could not boot", "reload failed"]
    s = Server(app="fresh_app:app", reload_retries=0, expect=expect)
    s.write_app(PLAIN)
    with s:
        s.write_app(SOURCE)
        s.signal(signal.SIGHUP)
        assert "it is an ASGI app" in s.wait_line("reload failed")
        assert s.get("/").text == "plain"


def test_check_config_says_it_too(tmp_path: Any) -> None:
    (tmp_path / "shop.py").write_text(SOURCE)
    command = [sys.executable, "-m", "forkserve", "--check-config", "shop:app"]
    ran = subprocess.run(command, env=clean_environ(), cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 4
    [line] = ran.stderr.splitlines()
    assert "it is an ASGI app" in line
    assert "uvicorn" in line
    assert "a2wsgi" in line
