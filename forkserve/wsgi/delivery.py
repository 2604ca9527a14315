"""One open file as the answer to a request: validators, preconditions, ranges, the body. Runs in a worker.

Knows no folders and no settings; conditions.py decides, here it is said to start_response. The body is a FileWrapper,
so that the server may let the kernel send it.
"""

import os
import time
from collections.abc import Callable, Iterable
from io import FileIO
from typing import Any

from forkserve.protocol.types import Environ
from forkserve.wsgi.conditions import http_date, judge
from forkserve.wsgi.files import FileWrapper

StartResponse = Callable[..., Any]
Header = tuple[str, str]

OK = "200 OK"
_BLOCK_BYTES = 64 * 1024
# How long after a change a second one could leave the same mtime and size behind. The clock of file systems ticks
# every 1 to 10 ms, on some of them once in 2 s.
_SETTLED_S = 2.0
# Ours to say, since they follow from the file.
_OURS = {"content-length", "content-range", "accept-ranges"}
_STATUSES = {
    206: "206 Partial Content",
    304: "304 Not Modified",
    412: "412 Precondition Failed",
    416: "416 Range Not Satisfiable",
}


def deliver(
    environ: Environ,
    start_response: StartResponse,
    fd: int,
    about: os.stat_result,
    headers: list[Header],
    *,
    status: str = OK,
    coding: str = "",
) -> Iterable[bytes]:
    """Answer with the regular file ``fd``, which is ours to close from now on; ``about`` is its fstat.

    ``headers`` go with it; an ETag or Last-Modified among them wins over the file's. Any other status than 200 is sent
    with the whole file, but for 206: Werkzeug counts the range already when it names a file, and we count it anew.
    ``coding`` is the Content-Encoding that was chosen: such an answer has no ranges.
    """
    try:
        answer = _Answer(environ, about, headers, OK if status.startswith("206") else status, coding)
        start_response(answer.status, answer.headers)
        if environ["REQUEST_METHOD"] == "HEAD" or not answer.count:
            os.close(fd)
            return [] if answer.text is None or environ["REQUEST_METHOD"] == "HEAD" else [answer.text]
        if answer.start:
            os.lseek(fd, answer.start, os.SEEK_SET)
        body = FileWrapper(FileIO(fd, "rb"), _BLOCK_BYTES)
    except BaseException:
        os.close(fd)
        raise
    body.limit(answer.count)
    return body


class _Answer:
    """Status, headers and bytes of one answer."""

    __slots__ = ("count", "headers", "start", "status", "text")

    def __init__(
        self, environ: Environ, about: os.stat_result, headers: list[Header], status: str, coding: str
    ) -> None:
        size, now = about.st_size, time.time()
        given = {name.lower(): value for name, value in headers}
        headers = [header for header in headers if header[0].lower() not in _OURS]
        modified = given.get("last-modified") or http_date(max(0, int(min(about.st_mtime, now))))
        etag = given.get("etag") or _etag(about, coding, now)
        if "etag" not in given:
            headers.append(("ETag", etag))
        if "last-modified" not in given:
            headers.append(("Last-Modified", modified))
        self.text: bytes | None = None
        self.status, self.start, self.count = status, 0, size
        code = 200
        if status.startswith("200") and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            code, self.start, self.count = judge(environ, etag, modified, size)
            self.status = _STATUSES.get(code, status)
        if code in (304, 412, 416):
            self._refuse(code, headers, size)
            return
        if not coding:
            headers.append(("Accept-Ranges", "bytes"))
        if code == 206:
            headers.append(("Content-Range", f"bytes {self.start}-{self.start + self.count - 1}/{size}"))
        headers.append(("Content-Length", str(self.count)))
        self.headers = headers

    def _refuse(self, code: int, headers: list[Header], size: int) -> None:
        """Say why there is no file: without what described it, but with the app's cookies, and what caches need."""
        self.headers = [
            header for header in headers
            if not header[0].lower().startswith("content-") or header[0].lower() == "content-location"
        ]  # fmt: skip
        if code == 304:
            return
        self.text = f"{_STATUSES[code]}\n".encode()
        self.headers += [("Content-Type", "text/plain"), ("Content-Length", str(len(self.text)))]
        if code == 416:
            self.headers.append(("Content-Range", f"bytes */{size}"))


def _etag(about: os.stat_result, coding: str, now: float) -> str:
    """Name this content: strong, so that ranges can be joined (If-Range), once the file has settled.

    Until then a second change could leave the same mtime and size: weak, and by another name than later, so that what
    was fetched in between is fetched again. The inode tells apart files that a build gave one and the same mtime.
    """
    opaque = f"{about.st_mtime_ns:x}-{about.st_size:x}-{about.st_ino:x}{'-' if coding else ''}{coding}"
    return f'"{opaque}"' if now - about.st_mtime > _SETTLED_S else f'W/"{opaque}-new"'


def say(
    environ: Environ, start_response: StartResponse, status: str, headers: Iterable[Header] = ()
) -> Iterable[bytes]:
    """Answer with a status and nothing else, such as "404 Not Found"."""
    text = f"{status}\n".encode("latin-1")
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text))), *headers])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]
