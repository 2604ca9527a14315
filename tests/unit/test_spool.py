"""Spools: what a service may hold of them together, files without a name, and what lies in memory."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forkserve.unix import memory
from forkserve.unix.spool import Spool

MIB = 1 << 20


def table(slots: int) -> memoryview:
    return memoryview(bytearray(8 * slots)).cast("q")


def of(cells: memoryview, slot: int, limit: str) -> Spool:
    return Spool(limit, cells[slot : slot + 1], cells)


def test_workers_share_one_limit_and_what_one_gives_back_another_may_have() -> None:
    cells = table(4)
    first, second = of(cells, 0, str(4 * MIB)), of(cells, 3, str(4 * MIB))
    assert first.take(3 * MIB)
    assert second.take(MIB)
    assert not second.take(1)
    assert second.trouble == "limit_spool is reached"
    first.give_back(3 * MIB)
    assert second.take(2 * MIB)
    assert list(cells) == [0, 0, 0, 3 * MIB]


def test_a_limit_that_is_no_whole_mebibyte_is_never_passed() -> None:
    spool = of(table(1), 0, "1500000")
    assert spool.take(MIB)
    assert not spool.take(500_000)


def test_nonsense_in_a_cell_takes_no_room_that_is_not_there() -> None:
    cells = table(3)
    cells[1] = -(1 << 40)
    spool = of(cells, 0, str(2 * MIB))
    assert spool.take(2 * MIB)
    assert not spool.take(1)


def test_a_share_is_of_what_is_free_now_or_of_memory_where_the_files_lie_there() -> None:
    folder = os.environ.get("TMPDIR", "/tmp")
    about = os.statvfs(folder)
    room = about.f_bavail * about.f_frsize
    if memory.is_in_memory(folder):
        room = min(room, memory.limit())
    spool = Spool("10%")
    assert not spool.take(room // 2)
    assert spool.take(MIB)


def test_its_files_have_no_name_and_are_for_nobody_else() -> None:
    fd = Spool().open()
    assert fd is not None
    about = os.fstat(fd)
    assert (about.st_nlink, about.st_mode & 0o777, os.get_inheritable(fd)) == (0, 0o600, False)
    os.close(fd)


@contextmanager
def descriptors(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_descriptors_there_is_no_file_and_it_says_why() -> None:
    spool = Spool()
    lowest = os.dup(0)  # a new descriptor is the lowest that is free
    os.close(lowest)
    with descriptors(lowest):
        assert spool.open() is None
    assert spool.trouble == "Too many open files"


def test_a_child_of_the_app_counts_for_nobody() -> None:
    cells = table(1)
    spool = of(cells, 0, str(4 * MIB))
    spool.take(MIB)
    spool.forget()
    spool.give_back(MIB)
    assert cells[0] == MIB


def test_memory_has_a_limit_and_dev_shm_is_in_it() -> None:
    assert 0 < memory.limit() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.is_in_memory("/dev/shm") == (os.statvfs("/dev/shm").f_fsid != os.statvfs("/").f_fsid)
    assert not memory.is_in_memory("/proc")


@pytest.mark.parametrize("raw", ["25%", "2GiB"])
def test_a_limit_is_read_as_people_write_it(raw: str) -> None:
    from forkserve.config import values
    from forkserve.config.settings import declared

    setting = declared()["limit_spool"]
    assert values.write(setting, values.read(setting, raw, is_text=True)) == raw


@pytest.mark.parametrize("raw", ["0%", "101%", "%", "much", -1, True])
def test_what_is_no_limit_is_refused(raw: object) -> None:
    from forkserve.config import values
    from forkserve.config.settings import declared

    with pytest.raises(ValueError):
        values.read(declared()["limit_spool"], raw, is_text=False)
