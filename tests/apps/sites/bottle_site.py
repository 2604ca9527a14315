"""A Bottle site with the routes of tests/apps/everyday.py."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottle import Bottle, redirect, request, response


def index() -> str:
    return "<title>Bottle site</title>"


def greet() -> str:
    return f"Hello, {request.forms.getunicode('name')}!"


def upload() -> dict[str, Any]:
    file = request.files.get("f")
    content = file.file.read()
    return {"name": file.raw_filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def digest() -> dict[str, Any]:
    content = request.body.read()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def stream() -> Iterator[str]:
    response.content_type = "text/plain"
    yield "first\n"
    with Path(request.query["fifo"]).open() as fifo:
        yield fifo.readline()


def old() -> None:
    redirect("/")


def peer() -> str:
    return str(request.environ["REMOTE_PORT"])


def fail() -> str:
    raise RuntimeError("the Bottle view failed")


app = Bottle()
for path, method, view in (
    ("/", "GET", index), ("/greet", "POST", greet), ("/upload", "POST", upload), ("/digest", "PUT", digest),
    ("/stream", "GET", stream), ("/old", "GET", old), ("/peer", "GET", peer), ("/raise", "GET", fail),
):  # fmt: skip
    app.route(path, method, view)
