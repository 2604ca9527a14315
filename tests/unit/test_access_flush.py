"""AccessLog.flush, where the handler of an overdue request comes into the middle of one: it flushes too, and leaves."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forkserve.accesslog import AccessLog
from forkserve.log import LogFile


class Interrupted(LogFile):
    """A file in whose first write a handler runs, before or after the bytes are written."""

    handler: Callable[[], object] | None = None
    is_late = False

    def write(self, data: bytes, lines: int = 1) -> bool:
        """Write, and be interrupted."""
        handler, self.handler = self.handler, None
        if handler is not None and not self.is_late:
            handler()
        written = super().write(data, lines)
        if handler is not None and self.is_late:
            handler()
        return written


@pytest.fixture
def access(tmp_path: Path) -> Iterator[AccessLog]:
    """An access log of two noted lines."""
    access = AccessLog("%(U)s")
    access.file = Interrupted(1)
    access.file.open(str(tmp_path / "access"))
    for path in ("/one", "/two"):
        note(access, path)
    yield access
    os.close(access.file.fd)


def note(access: AccessLog, path: str) -> None:
    answer: Any = SimpleNamespace(code=200, status="200 OK", headers=[], body_bytes=0)
    access.note({"PATH_INFO": path}, answer, 0.0)


def written(access: AccessLog) -> list[str]:
    return Path(access.file.path).read_text().splitlines()


@pytest.mark.parametrize("is_late", [False, True])
def test_a_flush_amid_a_flush_doubles_no_line(access: AccessLog, is_late: bool) -> None:
    assert isinstance(access.file, Interrupted)
    access.file.handler, access.file.is_late = access.flush, is_late
    access.flush()
    assert written(access) == ["/one", "/two"]
    access.flush()
    assert written(access) == ["/one", "/two"]


def test_a_line_that_is_noted_amid_a_flush_is_kept(access: AccessLog) -> None:
    assert isinstance(access.file, Interrupted)
    access.file.handler = lambda: note(access, "/three")
    access.flush()
    assert written(access) == ["/one", "/two"]
    access.flush()
    assert written(access) == ["/one", "/two", "/three"]
