"""X-Sendfile and X-Accel-Redirect: an answer of the app names a file, which is sent in place of its body.

A middleware, present only where `sendfile_folders` is set: then these headers are orders, and never leave. It looks at
every start_response and at no body, except where the app begins to answer in its first next(). PEP 3333, "Middleware:
Components that Play Both Sides"; the manuals of nginx (X-Accel-Redirect) and mod_xsendfile (X-Sendfile).
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from forkserve.log import log
from forkserve.protocol.types import Environ
from forkserve.wsgi.delivery import Header, StartResponse, deliver, say
from forkserve.wsgi.folders import Folder
from forkserve.wsgi.mediatypes import content_type
from forkserve.wsgi.static import folders_of

_ORDERS = ("x-accel-redirect", "x-sendfile")


class SentFiles:
    """The app, whose answers may name files: ``maps`` are pairs of a prefix and a folder."""

    def __init__(self, app: Callable[..., Any], maps: Iterable[tuple[str, str]]) -> None:
        self._app = app
        self._folders = folders_of("sendfile_folders", maps)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Let the app answer; return its body as it is, or the file that it named."""
        start = _Start(start_response)
        body = self._app(environ, start)
        if not start.is_called:
            body = _begin(body, start)
        if start.order is None:
            return body  # type: ignore[no-any-return]  # the WSGI border
        if hasattr(body, "close"):
            body.close()
        return self._send(environ, start_response, start)

    def _send(self, environ: Environ, start_response: StartResponse, start: "_Start") -> Iterable[bytes]:
        """Answer with the file that was named."""
        assert start.order is not None
        name, text = start.order
        found = self._below_prefix(text) if name.lower() == "x-accel-redirect" else self._below_folder(text)
        if found is None:
            log.error("app named a file outside of sendfile_folders", header=name, path=text)
            return say(environ, start_response, "500 Internal Server Error")
        folder, names = found
        try:
            fd = folder.open(names)
            about = os.fstat(fd)
        except OSError as error:
            log.error("app named a file that could not be opened", header=name, path=text, cause=error.strerror)
            return say(environ, start_response, "404 Not Found")
        if not stat.S_ISREG(about.st_mode):
            os.close(fd)
            log.error("app named something that is no file", header=name, path=text)
            return say(environ, start_response, "404 Not Found")
        headers = start.headers
        if not any(key.lower() == "content-type" for key, _ in headers):
            headers.append(("Content-Type", content_type(names[-1])))
        return deliver(environ, start_response, fd, about, headers, status=start.status)

    def _below_prefix(self, uri: str) -> tuple[Folder, list[bytes]] | None:
        """Find the file of an X-Accel-Redirect: a URI, percent-encoded, whose query says nothing."""
        path = unquote_to_bytes(_to_bytes(uri).partition(b"?")[0])
        for prefix, folder in self._folders:
            names = _names_below(prefix.encode("latin-1"), path)
            if names is not None:
                return folder, names
        return None

    def _below_folder(self, text: str) -> tuple[Folder, list[bytes]] | None:
        """Find the file of an X-Sendfile: an absolute path, spelled with the folder as it is set or as it resolves."""
        path = _to_bytes(text)
        for resolve in (bytes, os.path.realpath):
            for _, folder in self._folders:
                names = _names_below(resolve(folder.path).rstrip(b"/"), path)
                if names is not None:
                    return folder, names
        return None


class _Start:
    """The start_response that the app gets: it keeps an answer that names a file to itself."""

    __slots__ = ("_has_passed", "_start_response", "headers", "order", "status")

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._has_passed = False
        self.order: Header | None = None  # the header that names the file
        self.headers: list[Header] = []  # those to be sent with it
        self.status = ""

    @property
    def is_called(self) -> bool:
        return self._has_passed or self.order is not None

    def __call__(self, status: str, headers: list[Header], exc_info: Any = None) -> Callable[[bytes], object]:
        """Look for an order among the headers; without one the server takes them as they are."""
        if self.order is not None and exc_info is None:
            raise AssertionError("start_response was called a second time without exc_info")
        orders = _orders_in(headers)
        if not orders or self._has_passed:
            # Where an answer has begun already the server decides whether the error may still replace it, and the
            # error's own body follows: it is no time for files.
            self.order = None
            kept = [header for header in headers if header not in orders] if orders else headers
            write: Callable[[bytes], object] = (
                self._start_response(status, kept) if exc_info is None else self._start_response(status, kept, exc_info)
            )
            self._has_passed = True
            return write
        self.order = orders[0]
        self.headers = [header for header in headers if header not in orders]
        self.status = status
        return _forget


def _orders_in(headers: list[Header]) -> list[Header]:
    try:
        return [header for header in headers if header[0].lower() in _ORDERS]
    except (TypeError, AttributeError, LookupError):  # no headers at all: the server says so
        return []


def _forget(data: bytes) -> None:
    """Take what the app writes of a body that is replaced."""


def _begin(body: Any, start: _Start) -> Any:
    """Run an app that has not called start_response yet up to where it has; return what remains of its body.

    The server would ask for the first block at once, too. If the app raises, its body is closed here: the server never
    sees it.
    """
    try:
        blocks = iter(body)
        block = b""
        for block in blocks:
            if block or start.is_called:
                break
        else:
            block = b""
    except BaseException:
        if hasattr(body, "close"):
            body.close()
        raise
    return _Begun(block, blocks, body)


class _Begun:
    """What remains of a body whose first block was asked for already."""

    __slots__ = ("_block", "_blocks", "_body")

    def __init__(self, block: bytes, blocks: Iterator[bytes], body: Any) -> None:
        self._block: bytes | None = block
        self._blocks = blocks
        self._body = body

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block, self._block = self._block, None
        return next(self._blocks) if block is None else block

    def close(self) -> None:
        """Close the app's body."""
        if hasattr(self._body, "close"):
            self._body.close()


def _to_bytes(text: str) -> bytes:
    """Return the bytes of a header's value: latin-1 stands for bytes (PEP 3333), anything else was meant as text."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _names_below(folder: bytes, path: bytes) -> list[bytes] | None:
    """Return the names that lead from a folder (without a slash at its end) to a path; None: it is not below.

    What climbs is outside, wherever it would arrive: an app that joins a folder and a user's words meant neither.
    """
    if not path.startswith(folder + b"/"):
        return None
    names = [name for name in path[len(folder) + 1 :].split(b"/") if name not in (b"", b".")]
    return None if not names or b".." in names or b"\0" in path else names
