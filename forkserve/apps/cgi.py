"""A folder of CGI programs as a WSGI app: ``forkserve "forkserve.apps.cgi:folder('/usr/lib/cgi-bin')"``. RFC 3875.

The path's first file below the folder is the program, what follows is its PATH_INFO. It runs without a shell, with an
environment of its own, its body from an unlinked file; what it writes to stderr goes to the error log line by line.
Time and output are bounded, and nothing of its process group is left. Links are not followed, nor hidden files served.
NPH programs (section 5) are refused. Knows nothing of forkserve: any WSGI server can serve it.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from forkserve.apps import _cgi_program
from forkserve.apps._cgi_program import Failed, Head, Program

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_MOST_REDIRECTS = 10
_BLOCK_BYTES = 1 << 16
# Section 4.1, and what everybody else adds.
_VARIABLES = (
    "AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTPS", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT",
    "REMOTE_USER", "REQUEST_METHOD", "REQUEST_URI", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE",
)  # fmt: skip
# httpoxy: programs take HTTP_PROXY for their own proxy. Section 4.1.18: credentials are not for everybody.
# The transfer coding ends here.
_WITHHELD = {
    "HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE",
    "HTTP_TRANSFER_ENCODING",
}  # fmt: skip


class Folder:
    """The app; see ``folder``."""

    def __init__(
        self, path: str, timeout_s: float, most_bytes: int, variables: dict[str, str], shows_authorization: bool
    ) -> None:
        self._path = os.path.realpath(path)
        if not os.path.isdir(self._path):
            raise ValueError(f"{path} is not a folder")
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._variables = variables
        self._withheld = _WITHHELD - {"HTTP_AUTHORIZATION"} if shows_authorization else _WITHHELD

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        method = environ["REQUEST_METHOD"]
        for _ in range(_MOST_REDIRECTS):
            try:
                script, rest = self._find(path)
                program = self._start(environ | {"QUERY_STRING": query, "REQUEST_METHOD": method}, script, rest)
            except Failed as failed:
                return _say(environ, start_response, failed)
            try:
                head = program.read_head()
                local = self._local_path(environ, head)
                if local is None:
                    start_response(head.status, head.fields)
                    return program
            except Failed as failed:
                program.close()
                return _say(environ, start_response, failed)
            except BaseException:
                program.close()
                raise
            # Section 6.2.2: as if it had been asked for, by GET and without a body.
            program.close()
            path, query = local
            method = "HEAD" if method == "HEAD" else "GET"
            environ = {key: value for key, value in environ.items() if not key.startswith("CONTENT_")}
        return _say(environ, start_response, Failed("502 Bad Gateway", f"more than {_MOST_REDIRECTS} redirects"))

    def _local_path(self, environ: Environ, head: Head) -> tuple[str, str] | None:
        """Return the path below us and the query that a local redirect names; None: it is none, or not ours."""
        if not head.is_local:
            return None
        target, _, query = head.location.partition("?")
        path = unquote_to_bytes(target).decode("latin-1")
        mount = environ.get("SCRIPT_NAME", "")
        return (path[len(mount) :], query) if path.startswith(mount + "/") else None

    def _find(self, path: str) -> tuple[str, str]:
        """Return the program's path below the folder, and the rest. Raises Failed. Never follows a link."""
        names = path.encode("latin-1").split(b"/")[1:]
        at = os.fsencode(self._path)
        for count, name in enumerate(names, 1):
            if not name or name.startswith(b".") or b"\0" in name:
                break
            at += b"/" + name
            try:
                mode = os.lstat(at).st_mode
            except OSError:
                break
            if stat.S_ISREG(mode):
                if not os.access(at, os.X_OK):
                    raise Failed("403 Forbidden", f"{os.fsdecode(at)} cannot be executed")
                if name.startswith(b"nph-"):
                    raise Failed("501 Not Implemented", f"{os.fsdecode(at)} wants to write its own response (NPH)")
                script = b"".join(b"/" + part for part in names[:count])
                return script.decode("latin-1"), path[len(script) :]
            if not stat.S_ISDIR(mode):
                break
        raise Failed("404 Not Found", "")

    def _start(self, environ: Environ, script: str, rest: str) -> Program:
        file = os.path.join(self._path, os.fsdecode(script.encode("latin-1")).lstrip("/"))
        said = {key: environ[key] for key in _VARIABLES if isinstance(environ.get(key), str)}
        said |= {key: value for key, value in environ.items() if key.startswith("HTTP_") and key not in self._withheld}
        said |= {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + script,
            "SCRIPT_FILENAME": os.fsencode(file).decode("latin-1"),
            "REDIRECT_STATUS": "200",  # php-cgi wants to know that a web server asks
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        if rest:
            said |= {"PATH_INFO": rest, "PATH_TRANSLATED": os.fsencode(self._path).decode("latin-1") + rest}
        env = {key.encode("latin-1"): value.encode("latin-1") for key, value in said.items()}
        env |= {os.fsencode(key): os.fsencode(value) for key, value in self._variables.items()}
        if any(b"\0" in value for value in env.values()):
            raise Failed("400 Bad Request", "a NUL, which no environment can hold")
        with _body(environ) as body:
            if size := body.seek(0, os.SEEK_END):
                env[b"CONTENT_LENGTH"] = b"%d" % size  # nobody has said how long a body in chunks is
            body.seek(0)
            return Program(file, env, body, environ["wsgi.errors"], self._timeout_s, self._most_bytes)


def folder(
    path: str,
    *,
    timeout: float = 25.0,
    limit_output: int = 1 << 28,
    variables: dict[str, str] | None = None,
    show_authorization: bool = False,
) -> Folder:
    """Return the app for a folder of programs, each of which may take ``timeout`` seconds and write so many bytes.

    ``variables`` are added to their environment. Keep ``timeout`` below the server's own.
    """
    return Folder(path, timeout, limit_output, variables or {}, show_authorization)


def _body(environ: Environ) -> IO[bytes]:
    """Store the request's body, so that a program which answers before it has read all of it blocks nobody."""
    length = environ.get("CONTENT_LENGTH") or "0"
    file: IO[bytes] = tempfile.TemporaryFile()
    try:
        if "CONTENT_LENGTH" not in environ and environ.get("wsgi.input_terminated"):  # chunks that still arrive
            shutil.copyfileobj(environ["wsgi.input"], file, _BLOCK_BYTES)
        left = int(length)
        while left:
            data = environ["wsgi.input"].read(min(left, _BLOCK_BYTES))
            if not data:
                raise OSError("the body ended before its Content-Length")
            file.write(data)
            left -= len(data)
    except BaseException:
        file.close()
        raise
    return file


def _say(environ: Environ, start_response: StartResponse, failed: Failed) -> Iterable[bytes]:
    if failed.reason:
        _cgi_program.tell(environ["wsgi.errors"], "cgi", failed.reason)
    text = f"{failed.status}\n".encode()
    start_response(failed.status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]
