"""Calls the demo app in-process, as a server would, inside wsgiref's validator; and reads its page."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from forkserve.apps.demo import app

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its table rows, its texts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self._in_cell = False
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._in_cell = tag in ("th", "td")
        if self._in_cell:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    @property
    def rows(self) -> dict[str, str]:
        return dict(zip(self.cells[::2], self.cells[1::2], strict=True))


@dataclass(frozen=True)
class Answer:
    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def page(self) -> Page:
        return Page(self.body)


class Dribble(BytesIO):
    """An input whose reads return at most so many bytes."""

    def __init__(self, octets: bytes, at_once: int) -> None:
        super().__init__(octets)
        self._at_once = at_once

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._at_once if size is None or size < 0 else min(size, self._at_once))


def ask(path: str = "/", query: str = "", body: bytes | BytesIO | None = None, **more: Any) -> Answer:
    """Call the app as a server would; capitals go into the environ as they are."""
    environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": query}
    if body is not None:
        octets = body if isinstance(body, bytes) else body.getvalue()
        environ |= {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(octets))}
        environ["wsgi.input"] = BytesIO(body) if isinstance(body, bytes) else body
    environ |= more
    setup_testing_defaults(environ)
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, headers))
        return lambda chunk: None

    chunks = validator(app)(environ, start_response)
    try:
        answered = b"".join(chunks)
    finally:
        chunks.close()  # type: ignore[attr-defined]
    [(status, headers)] = started
    return Answer(status, dict(headers), answered)


def ask_json(path: str = "/", query: str = "", body: bytes | BytesIO | None = None, **more: Any) -> Any:
    return ask(path, query, body, HTTP_ACCEPT="application/json", **more).json


def part(disposition: str, content: bytes, content_type: str = "") -> bytes:
    head = b"Content-Disposition: form-data; " + disposition.encode() + b"\r\n"
    head += b"Content-Type: " + content_type.encode() + b"\r\n" if content_type else b""
    return b"--frontier\r\n" + head + b"\r\n" + content + b"\r\n"


def multipart(*parts: bytes) -> dict[str, Any]:
    return {"body": b"".join(parts) + b"--frontier--\r\n", "CONTENT_TYPE": "multipart/form-data; boundary=frontier"}
