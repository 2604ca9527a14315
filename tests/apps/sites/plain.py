"""A plain WSGI app for tests: it answers with what it was asked."""

from collections.abc import Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
    text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}\n".encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
