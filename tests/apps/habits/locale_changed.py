"""The habit: setlocale() at import, and another one in every request."""

import locale
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

locale.setlocale(locale.LC_ALL, "")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    locale.setlocale(locale.LC_ALL, "C")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"located"]
