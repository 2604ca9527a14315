"""An app that answers with files, each path in another way; where they lie is told by the environment."""

import gzip
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Headers = list[tuple[str, str]]


def _wrapped(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    """The file from byte ``query`` on, without a length."""
    file = (folder / "digits.bin").open("rb")
    file.read(int(environ["QUERY_STRING"] or 0))
    return [], environ["wsgi.file_wrapper"](file)


def _bounded(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    file = (folder / "digits.bin").open("rb")
    return [("Content-Length", environ["QUERY_STRING"])], environ["wsgi.file_wrapper"](file, 7)


def _unpacked(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    return [], environ["wsgi.file_wrapper"](gzip.open(folder / "digits.gz"))


def _accel(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    return [("X-Accel-Redirect", f"/protected/{environ['QUERY_STRING']}"), ("Set-Cookie", "a=b")], [b"never sent"]


def _sendfile(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    return [("X-Sendfile", str(folder / environ["QUERY_STRING"]))], [b"never sent"]


def _fds(environ: Environ, folder: Path) -> tuple[Headers, Any]:
    """How many descriptors of files below the folder this worker has."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder))
        except OSError:
            pass  # the one that listed
    return [], [str(found).encode()]


_PAGES: dict[str, Callable[[Environ, Path], tuple[Headers, Any]]] = {
    "/wrapped": _wrapped,
    "/bounded": _bounded,
    "/unpacked": _unpacked,
    "/accel": _accel,
    "/sendfile": _sendfile,
    "/fds": _fds,
}


def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the page's body."""
    headers, body = _PAGES[environ["PATH_INFO"]](environ, Path(os.environ["FILES_FOLDER"]))
    start_response("200 OK", [("Content-Type", "application/x-test"), *headers])
    return body  # type: ignore[no-any-return]
