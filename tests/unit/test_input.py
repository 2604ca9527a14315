"""forkserve/wsgi/input.py: wsgi.input is a real file, in memory while small, on disk beyond."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.protocol.types import Refused
from forkserve.wsgi.input import MEMORY_BYTES, BodyMakerFor, BufferedBody


def filled(*pieces: bytes, announced: int = -1, limit: int = 0) -> BufferedBody:
    body = BufferedBody(limit, announced)
    for piece in pieces:
        body.write(piece)
    return body


@given(st.lists(st.binary(max_size=9)), st.sampled_from([0, 1, 2**20]))
@settings(max_examples=50)
def test_what_was_written_is_read(pieces: list[bytes], announced: int) -> None:
    body = filled(*pieces, announced=announced)
    with body.file() as file:
        assert file.read() == b"".join(pieces)
        assert body.length == file.tell()


@pytest.mark.parametrize("announced", [-1, 2**20], ids=["in memory", "on disk"])
def test_it_reads_as_pep_3333_asks(announced: int) -> None:
    file: Any
    with filled(b"one\ntwo\n", b"three", announced=announced).file() as file:
        assert [file.read(0), file.read(2), file.readline(), file.readline(2)] == [b"", b"on", b"e\n", b"tw"]
        assert [file.read(None), file.read(), file.read(5), file.readline()] == [b"o\nthree", b"", b"", b""]
        file.seek(0)
        assert list(file) == [b"one\n", b"two\n", b"three"]
        file.seek(0)
        assert file.readlines(1) == [b"one\n"]
        assert file.readlines() == [b"two\n", b"three"]
        file.seek(0)
        assert file.read(-1) == b"one\ntwo\nthree"


def on_disk(file: Any) -> bool:
    return not isinstance(file, BytesIO)


def test_a_body_is_in_memory_up_to_the_bound_and_beyond_it_in_a_file_without_a_name() -> None:
    with filled(b"x" * MEMORY_BYTES).file() as small, filled(b"x" * MEMORY_BYTES, b"y").file() as large:
        assert (on_disk(small), on_disk(large)) == (False, True)
        assert os.fstat(large.fileno()).st_nlink == 0
        assert large.read() == b"x" * MEMORY_BYTES + b"y"


def test_an_announced_large_body_goes_to_disk_from_its_first_byte() -> None:
    with filled(b"x", announced=MEMORY_BYTES + 1).file() as file:
        assert on_disk(file)


def test_a_body_at_the_limit_is_taken_and_one_beyond_it_is_not() -> None:
    make = BodyMakerFor(10)
    body = make(10)
    body.write(b"x" * 10)
    with pytest.raises(Refused) as announced:
        make(11)
    with pytest.raises(Refused) as arrived:
        body.write(b"x")
    assert announced.value.status == arrived.value.status == "413 Content Too Large"


def test_without_a_limit_every_length_is_taken() -> None:
    BodyMakerFor(0)(2**62).close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full for this process (Python ignores SIGXFSZ: EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_os_error_and_forgetting_the_body_is_not() -> None:
    body = filled(announced=MEMORY_BYTES + 1)
    with largest_file(1000):
        with pytest.raises(OSError):
            for _ in range(100):
                body.write(b"x" * 1000)
        body.close()
