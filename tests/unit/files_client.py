"""A client without a wire: it calls a WSGI app as a server would, under wsgiref's validator."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

SECRET = b"the secret"
OLD = 1_700_000_000  # a moment long gone: files of then have settled
OLD_DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


class Reply:
    """One answer as the app gave it."""

    def __init__(self, status: str, fields: list[tuple[str, str]], body: bytes) -> None:
        self.code = int(status[:3])
        self.fields = {name.lower(): value for name, value in fields}
        self.body = body

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name.lower(), "")


def environ_of(path: str, method: str = "GET", **fields: str) -> dict[str, Any]:
    """An environ; ``fields`` are header fields, if_range is If-Range."""
    environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "REQUEST_METHOD": method, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    return environ | {f"HTTP_{name.upper()}": value for name, value in fields.items()}


def ask(app: Callable[..., Any], path: str, method: str = "GET", **fields: str) -> Reply:
    """Ask and read to the end."""
    return call(validator(app), environ_of(path, method, **fields))


def call(app: Callable[..., Any], environ: dict[str, Any]) -> Reply:
    """Call the app with this environ and read to the end."""
    said: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        assert exc_info is not None or not said
        said.append((status, headers))
        return written.append

    body = app(environ, start_response)
    try:
        read = b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return Reply(*said[-1], b"".join(written) + read)


def put(path: Path, content: bytes, moment: float = OLD) -> Path:
    """Write a file that was changed at ``moment``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (moment, moment))
    return path


def make_site(folder: Path) -> Iterator[Path]:
    """Make a folder of files beside two that nobody may see; fail if a descriptor is open afterwards."""
    root = folder / "root"
    put(root / "a.txt", b"0123456789")
    put(root / "css" / "site.css", b"body {}")
    put(root / "docs" / "index.html", b"<h1>docs")
    put(root / "empty.txt", b"")
    put(root / "bare" / "x.txt", b"x")
    put(folder / "outside" / "secret.txt", SECRET)
    put(folder / "root-secret" / "secret.txt", SECRET)
    before = open_files()
    yield root
    assert open_files() == before, "a descriptor was left open"


def says_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """An app that answers whatever is left to it."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"app"]


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
