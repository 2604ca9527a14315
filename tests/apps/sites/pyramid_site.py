"""A Pyramid site with the routes of tests/apps/everyday.py."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response


def index(request: Request) -> Response:
    return Response("<title>Pyramid site</title>")


def greet(request: Request) -> Response:
    return Response(f"Hello, {request.POST['name']}!")


def upload(request: Request) -> Response:
    field = request.POST["f"]
    content = field.file.read()
    return Response(
        json_body={"name": field.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    )


def digest(request: Request) -> Response:
    return Response(json_body={"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


def stream(request: Request) -> Response:
    path = Path(request.GET["fifo"])

    def lines() -> Iterator[bytes]:
        yield b"first\n"
        with path.open("rb") as fifo:
            yield fifo.readline()

    return Response(app_iter=lines(), content_type="text/plain")


def old(request: Request) -> Response:
    return HTTPFound("/")


def peer(request: Request) -> Response:
    return Response(request.environ["REMOTE_PORT"])


def fail(request: Request) -> Response:
    raise RuntimeError("the Pyramid view failed")


def _app() -> Any:
    views: dict[str, tuple[str, Callable[[Request], Response]]] = {
        "/": ("GET", index), "/greet": ("POST", greet), "/upload": ("POST", upload), "/digest": ("PUT", digest),
        "/stream": ("GET", stream), "/old": ("GET", old), "/peer": ("GET", peer), "/raise": ("GET", fail),
    }  # fmt: skip
    with Configurator() as config:
        for path, (method, view) in views.items():
            config.add_route(path, path)
            config.add_view(view, route_name=path, request_method=method)
        return config.make_wsgi_app()


app = _app()
