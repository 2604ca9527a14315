"""The habit: a TemporaryDirectory at module level, which its finaliser removes."""

import tempfile
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

folder = tempfile.TemporaryDirectory(prefix="habit-", dir=".")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [folder.name.encode()]
