"""forkserve/wsgi/files.py: what a FileWrapper yields, and when it may say where its bytes stand."""

import bz2
import gzip
import io
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkserve.wsgi.files import FileWrapper

CONTENT = b"0123456789" * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with CONTENT."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


class Proxy:
    """A file whose methods are another's, as Django's File is."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.read = file.read
        self.close = file.close


class Shouting:
    """A file that changes what it reads, and yet has a descriptor."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.fileno = file.fileno
        self.tell = file.tell
        self.close = file.close

    def read(self, size: int) -> bytes:
        return self.file.read(size).upper()  # type: ignore[no-any-return]


class UpperReader(io.BufferedReader):
    """The same by inheritance."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


def temporary(content: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()
    file.write(content)
    file.seek(0)
    return file


KNOWN: dict[str, Callable[[Path], Any]] = {
    "buffered": lambda path: path.open("rb"),
    "raw": lambda path: path.open("rb", buffering=0),
    "read and write": lambda path: path.open("r+b"),
    "temporary": lambda path: temporary(CONTENT),
    "proxy": lambda path: Proxy(path.open("rb")),
}
UNKNOWN: dict[str, Callable[[Path], Any]] = {
    "in memory": lambda path: io.BytesIO(CONTENT),
    "a descriptor with other bytes": lambda path: Shouting(path.open("rb")),
    "a reader that was overridden": lambda path: UpperReader(path.open("rb", buffering=0)),
    "gzip": lambda path: gzip.open(packed(path, gzip.compress)),
    "gzip, buffered": lambda path: io.BufferedReader(gzip.GzipFile(packed(path, gzip.compress))),
    "bzip2": lambda path: bz2.open(packed(path, bz2.compress)),
    "spooled": lambda path: spooled(),
}


def packed(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(compress(CONTENT))
    return path


def spooled() -> Any:
    file = tempfile.SpooledTemporaryFile(100_000)
    file.write(CONTENT)
    file.seek(0)
    return file


def bytes_of(region: tuple[int, int, int]) -> bytes:
    fd, offset, count = region
    return os.pread(fd, count, offset)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_region_holds_what_reading_yields_from_where_the_file_stands(path: Path, kind: str) -> None:
    for skip in (0, 5, 9000):
        file = KNOWN[kind](path)
        assert file.read(skip) == CONTENT[:skip]
        wrapper = FileWrapper(file)
        region = wrapper.region()
        assert region is not None
        assert bytes_of(region) == b"".join(wrapper) == CONTENT[skip:]
        wrapper.close()


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_certainly_the_file_is_read(path: Path, kind: str) -> None:
    wrapper = FileWrapper(UNKNOWN[kind](path), 4096)
    assert wrapper.region() is None
    assert b"".join(wrapper) == CONTENT
    wrapper.close()


def test_a_limit_bounds_region_and_reading(path: Path) -> None:
    wrapper = FileWrapper(path.open("rb"), 7)
    wrapper.limit(20)
    wrapper.limit(30)
    region = wrapper.region()
    assert region is not None and bytes_of(region) == CONTENT[:20]
    assert [len(block) for block in wrapper] == [7, 7, 6]
    assert wrapper.region() is None
    wrapper.close()


def test_what_was_written_and_not_stored_yet_is_part_of_the_region(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"more")
        file.seek(9999)
        file.write(b"X")
        region = FileWrapper(file).region()
        assert region is not None and bytes_of(region) == b"more"


def test_a_text_file_has_no_region_since_reading_it_yields_no_bytes(path: Path) -> None:
    with path.open() as file:
        assert FileWrapper(file).region() is None
        assert isinstance(next(FileWrapper(file)), str)


def test_a_pipe_or_a_closed_file_has_no_region(path: Path) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert FileWrapper(pipe).region() is None
        assert list(FileWrapper(pipe)) == []
    file = path.open("rb")
    file.close()
    assert FileWrapper(file).region() is None


def test_a_file_that_looks_empty_is_read_since_those_of_proc_do() -> None:
    with open("/proc/self/status", "rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.region() is None
        assert b"".join(wrapper).startswith(b"Name:")


def test_a_block_size_of_nothing_is_not_meant(path: Path) -> None:
    with path.open("rb") as file:
        assert b"".join(FileWrapper(file, 0)) == CONTENT


def test_close_is_the_file_s_own_as_it_is_then(path: Path) -> None:
    file = path.open("rb")
    wrapper = FileWrapper(file)
    closed: list[int] = []
    file.close = lambda: closed.append(1)  # type: ignore[method-assign]  # Django does this
    wrapper.close()
    assert closed == [1]
    del file.close
    wrapper.close()
    assert file.closed


def test_a_file_that_cannot_be_closed_need_not_be() -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            return b"x" * size

    wrapper = FileWrapper(Endless())
    blocks: Iterator[bytes] = iter(wrapper)
    assert len(next(blocks)) == 8192
    assert wrapper.region() is None
    wrapper.close()


def test_file_is_known_while_another_thread_imports_tempfile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tempfile", types.ModuleType("tempfile"))  # as far as such an import has come
    with path.open("rb") as file:
        region = FileWrapper(file).region()
    assert region is not None
    assert region[1:] == (0, len(CONTENT))
