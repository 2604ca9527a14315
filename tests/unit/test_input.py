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

from forkserve.protocol.types import READ_BYTES, Refused
from forkserve.unix.spool import Spool
from forkserve.wsgi.input import MEMORY_BYTES, BodyMakerFor, BufferedBody

LARGE = b"x" * MEMORY_BYTES


def filled(*pieces: bytes, limit: int = 0, spool: Spool | None = None) -> BufferedBody:
    body = BufferedBody(limit, spool or Spool())
    for piece in pieces:
        assert body.has_room()
        body.write(piece)
    return body


@given(st.lists(st.binary(max_size=9)), st.sampled_from([b"", LARGE]))
@settings(max_examples=50)
def test_what_was_written_is_read(pieces: list[bytes], first: bytes) -> None:
    body = filled(first, *pieces)
    with body.file() as file:
        assert file.read() == first + b"".join(pieces)
        assert body.length == file.tell()


@pytest.mark.parametrize("first", [b"", LARGE], ids=["in memory", "on disk"])
def test_it_reads_as_pep_3333_asks(first: bytes) -> None:
    file: Any
    with filled(first, b"one\ntwo\n", b"three").file() as file:
        assert file.read(len(first)) == first
        assert [file.read(0), file.read(2), file.readline(), file.readline(2)] == [b"", b"on", b"e\n", b"tw"]
        assert [file.read(None), file.read(), file.read(5), file.readline()] == [b"o\nthree", b"", b"", b""]
        file.seek(len(first))
        assert list(file) == [b"one\n", b"two\n", b"three"]
        file.seek(len(first))
        assert file.readlines(1) == [b"one\n"]
        assert file.readlines() == [b"two\n", b"three"]
        file.seek(len(first))
        assert file.read(-1) == b"one\ntwo\nthree"


def on_disk(file: Any) -> bool:
    return not isinstance(file, BytesIO)


def test_a_body_is_in_memory_up_to_the_bound_and_beyond_it_in_a_file_without_a_name() -> None:
    with filled(b"x" * MEMORY_BYTES).file() as small, filled(b"x" * MEMORY_BYTES, b"y").file() as large:
        assert (on_disk(small), on_disk(large)) == (False, True)
        assert os.fstat(large.fileno()).st_nlink == 0
        assert large.read() == b"x" * MEMORY_BYTES + b"y"


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


def test_a_full_disk_has_no_room_until_there_is_some_and_nothing_is_lost() -> None:
    spool = Spool()
    body = filled(LARGE, spool=spool)
    with largest_file(1000):
        assert not body.has_room()
        assert spool.trouble
    assert body.has_room()
    body.write(b"y" * READ_BYTES)
    with body.file() as file:
        assert file.read() == LARGE + b"y" * READ_BYTES


def test_bodies_hold_no_more_together_than_the_limit_and_give_it_back() -> None:
    spool = Spool(str(2 << 20))
    first, second = filled(LARGE, spool=spool), filled(LARGE, spool=spool)
    assert first.has_room()
    assert second.has_room()
    first.write(LARGE)
    assert not first.has_room()
    second.close()
    assert first.has_room()
    with first.file() as file:
        assert len(file.read()) == 2 * MEMORY_BYTES
    assert spool.take(2 << 20)
