"""`wsgi.file_wrapper`: a file as a body, which the server may hand to the kernel instead of reading it.

FileWrapper is a body like any other: iterable, with a close() that closes the file. region() tells a server that
recognises it which bytes of which descriptor these are, where reading would yield exactly those. Runs in a worker;
sends nothing itself. PEP 3333, "Optional Platform-Specific File Handling".

with_files() puts before the app what serves files by itself; a plain app pays for none of it, not even an import.
"""

import os
import stat
import sys
from io import BufferedRandom, BufferedReader, FileIO
from typing import Any, Self

from forkserve.config.settings import Settings
from forkserve.unix.spool import SpoolFile
from forkserve.wsgi.app import App

Region = tuple[int, int, int]  # descriptor, offset of the first byte, how many (at least one)

_BLOCK_BYTES = 8192


def with_files(app: App, settings: Settings) -> App:
    """Return the app behind `static` and `sendfile_folders`; itself where neither is set.

    Relative folders are looked up from the current one. Raises SettingsError, see static.folders_of().
    """
    if settings.sendfile_folders:
        from forkserve.wsgi.sentfiles import SentFiles

        app = SentFiles(app, settings.sendfile_folders)
    if settings.static:
        from forkserve.wsgi.static import StaticFiles

        app = StaticFiles(app, settings.static, settings.static_follow_links)
    return app


class FileWrapper:
    """A file-like object as the body of a response, from where it stands to its end or to ``limit``."""

    __slots__ = ("_block_bytes", "_left", "filelike")

    def __init__(self, filelike: Any, block_size: int = _BLOCK_BYTES) -> None:
        self.filelike = filelike
        self._block_bytes = block_size if block_size > 0 else _BLOCK_BYTES
        self._left = sys.maxsize

    def limit(self, count: int) -> None:
        """Yield at most ``count`` bytes from now on: the Content-Length, or the end of a range."""
        self._left = min(self._left, count)

    def region(self) -> Region | None:
        """Say where the bytes stand that reading would yield; None: nobody can tell, so they must be read.

        The descriptor stays the file's: whoever still sends after close() needs one of his own (dup).
        """
        try:
            file = _system_file(self.filelike)
            if file is None:
                return None
            if type(file) is BufferedRandom:
                file.flush()  # what was written and not yet stored
            fd, offset = file.fileno(), file.tell()
            status = os.fstat(fd)
        except (OSError, ValueError):  # closed, detached, cannot seek: reading meets it again, and says so
            return None
        count = min(status.st_size - offset, self._left)
        # Files of /proc say that they are regular and empty, and are not: what looks empty is read.
        return (fd, offset, count) if stat.S_ISREG(status.st_mode) and count > 0 else None

    @property
    def closes_at_once(self) -> bool:
        """Whether close() is the system's and nothing of the app's, which may take long."""
        return type(self.filelike) in (FileIO, BufferedReader, BufferedRandom)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._left <= 0:
            raise StopIteration
        data: bytes = self.filelike.read(min(self._block_bytes, self._left))
        if not data:
            raise StopIteration
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file, if it can be closed. Looked up now: Django puts a close() of its own on the file."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def _system_file(filelike: Any) -> FileIO | BufferedReader | BufferedRandom | None:
    """Return the file of the system whose bytes ``filelike.read`` returns unchanged, if that is certain.

    A fileno() proves nothing: gzip.GzipFile has one, of the file with other bytes; so has a text file. What counts is
    whose method ``read`` is, which also looks through proxies such as Django's File.
    """
    # None also where another thread is amid importing tempfile, as the first response that is kept in a file does.
    wrapper = getattr(sys.modules.get("tempfile"), "_TemporaryFileWrapper", None)
    if wrapper is not None and type(filelike) is wrapper:
        filelike = filelike.file
    read = getattr(filelike, "read", None)
    file = getattr(read, "__self__", None)
    if getattr(read, "__name__", "") != "read":
        return None
    if type(file) is BufferedReader or type(file) is BufferedRandom:
        return file if type(file.raw) is FileIO or type(file.raw) is SpoolFile else None
    return file if type(file) is FileIO else None
