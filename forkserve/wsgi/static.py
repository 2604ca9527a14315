"""Static files: a middleware that answers GET and HEAD below some prefixes from folders. Runs in a worker.

Present only where `static` is set. A prefix belongs to the files: what is not there is 404, so that neither a missing
asset wakes the app nor the app can shadow a file. Only the prefix "/" leaves to the app what it has not: with it the
app would have no path left. folders.py keeps it inside, delivery.py answers. RFC 9110.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from forkserve.errors import SettingsError
from forkserve.log import log
from forkserve.protocol.types import Environ
from forkserve.wsgi.conditions import acceptable_codings
from forkserve.wsgi.delivery import Header, StartResponse, deliver, say
from forkserve.wsgi.folders import NO_SUCH_FILE, Folder
from forkserve.wsgi.mediatypes import content_type, may_have_siblings

_METHODS = ("GET", "HEAD")
_INDEX = b"index.html"
_SUFFIXES = {"br": b".br", "gzip": b".gz"}
# Not guessed from the bytes: a text that somebody uploaded is no page.
_NOSNIFF = ("X-Content-Type-Options", "nosniff")
_VARY = ("Vary", "Accept-Encoding")

Found = tuple[int, os.stat_result]


def folders_of(
    setting: str, maps: Iterable[tuple[str, str]], follow_links: bool = False, may_come_later: bool = False
) -> tuple[tuple[str, Folder], ...]:
    """Return prefixes (as PATH_INFO spells them, without a slash at the end) and folders, the longest prefix first.

    Raises SettingsError for a prefix that no path can have, and for a folder that does not exist unless it
    ``may_come_later``.
    """
    found = []
    for prefix, path in maps:
        if not prefix.startswith("/"):
            raise SettingsError(f"{setting}: the prefix {prefix!r} must begin with a slash")
        if not os.path.isdir(path) and may_come_later:
            log.warning("static folder does not exist yet", prefix=prefix, folder=os.path.abspath(path))
        elif not os.path.isdir(path):
            raise SettingsError(f"{setting}: {prefix!r} = {path!r}: there is no such folder; name one that exists")
        found.append((prefix.rstrip("/").encode().decode("latin-1"), Folder(path, follow_links)))
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


class StaticFiles:
    """The app, with folders before it: ``maps`` are pairs of a prefix and a folder."""

    def __init__(self, app: Callable[..., Any], maps: Iterable[tuple[str, str]], follow_links: bool = False) -> None:
        self._app = app
        self._folders = folders_of("static", maps, follow_links, may_come_later=True)
        self._prefixes = tuple(prefix for prefix, _ in self._folders)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer from the folder of the longest prefix that the path has, else let the app answer."""
        path: str = environ.get("PATH_INFO", "")
        if path.startswith(self._prefixes):
            for prefix, folder in self._folders:
                if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                    answer = _serve(environ, start_response, folder, path[len(prefix) :])
                    if answer is not None:
                        return answer
                    if prefix:
                        return say(environ, start_response, *_nothing(environ))
                    break
        body: Iterable[bytes] = self._app(environ, start_response)
        return body


def _nothing(environ: Environ) -> tuple[str, list[Header]]:
    """What a prefix answers where it has no file to answer with."""
    if environ["REQUEST_METHOD"] in _METHODS:
        return "404 Not Found", []
    return "405 Method Not Allowed", [("Allow", ", ".join(_METHODS))]


def _serve(environ: Environ, start_response: StartResponse, folder: Folder, path: str) -> Iterable[bytes] | None:
    """Answer for ``path`` below ``folder``; None: it has nothing to answer with.

    A folder is answered for by its index.html, which needs the slash at the end for its relative links: hence a
    redirect there. Without one it is not found: nobody learns which folders exist, or what they hold.
    """
    names = _names(path)
    if names is None or environ["REQUEST_METHOD"] not in _METHODS:
        return None
    try:
        found = _open(folder, names)
        if found is None or stat.S_ISREG(found[1].st_mode):
            return None if found is None else _deliver(environ, start_response, folder, names, found)
        os.close(found[0])
        found = _open(folder, [*names, _INDEX]) if stat.S_ISDIR(found[1].st_mode) else None
        if found is None:
            return None
        os.close(found[0])
        return _redirect(environ, start_response)
    except OSError as error:
        log.error("static file could not be opened", path=environ["PATH_INFO"], cause=error)
        is_forbidden = error.errno in (errno.EACCES, errno.EPERM)
        return say(environ, start_response, "403 Forbidden" if is_forbidden else "500 Internal Server Error")


def _names(path: str) -> list[bytes] | None:
    """Split the rest of a PATH_INFO into the names of folders and file; None: nothing is served under such a path.

    PATH_INFO is decoded already, whatever the slashes were spelled as, and is not decoded again. Hidden names (.git,
    .env, .htpasswd) are in no browser's links; .well-known (RFC 8615) is. A doubled slash makes no second address of
    the same file.
    """
    try:
        names = path.encode("latin-1").split(b"/")[1:]
    except UnicodeEncodeError:  # no server sends it: PEP 3333 allows bytes as latin-1 only
        return None
    if names and not names[-1]:
        names[-1] = _INDEX
    for name in names:
        if not name or b"\0" in name or (name.startswith(b".") and name != b".well-known"):
            return None
    return names


def _open(folder: Folder, names: list[bytes]) -> Found | None:
    """Open what the names lead to, with its status; None: there is nothing. Raises OSError for other faults."""
    try:
        fd = folder.open(names)
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return None
        raise
    return fd, os.fstat(fd)


def _deliver(
    environ: Environ, start_response: StartResponse, folder: Folder, names: list[bytes], found: Found
) -> Iterable[bytes]:
    """Answer with a file, or with its compressed sibling.

    A range is always one of the file itself: who joins pieces joins those of one representation.
    """
    kind = content_type(names[-1])
    headers = [("Content-Type", kind), _NOSNIFF]
    coding = ""
    if may_have_siblings(kind):
        headers.append(_VARY)  # also where there is no sibling: there may be one tomorrow
        if "HTTP_RANGE" not in environ or environ["REQUEST_METHOD"] != "GET":
            coding, found = _choose_sibling(environ.get("HTTP_ACCEPT_ENCODING", ""), folder, names, found)
    if coding:
        headers.append(("Content-Encoding", coding))
    return deliver(environ, start_response, *found, headers, coding=coding)


def _choose_sibling(accepted: str, folder: Folder, names: list[bytes], found: Found) -> tuple[str, Found]:
    """Open the sibling in the best coding that the client takes, and close the file; or leave it as it is.

    A sibling that is older than its file was forgotten when the file was changed.
    """
    for coding in acceptable_codings(accepted):
        try:
            sibling = _open(folder, [*names[:-1], names[-1] + _SUFFIXES[coding]])
        except OSError:  # the file itself is there, and goes as it is
            continue
        if sibling is None:
            continue
        # In seconds: tools that copy the time of the file cut off what is below.
        if stat.S_ISREG(sibling[1].st_mode) and int(sibling[1].st_mtime) >= int(found[1].st_mtime):
            os.close(found[0])
            return coding, sibling
        os.close(sibling[0])
    return "", found


def _redirect(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Send to the same path with a slash at its end."""
    path = environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"]
    # One slash at the beginning: two would name another host.
    target = "/" + quote(path.lstrip("/"), safe="/:@!$&'()*+,;=~", encoding="latin-1")
    query = environ.get("QUERY_STRING", "")
    location = f"{target.rstrip('/')}/" + (f"?{query}" if query else "")
    return say(environ, start_response, "301 Moved Permanently", [("Location", location)])
