"""What goes through a channel arrives whole, in order and as it was; the other side's memory may be anything."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forkserve.unix.channel import Channel, pair
from forkserve.unix.messages import (
    DOWN,
    UP,
    BootFailure,
    Down,
    Hurry,
    Leave,
    Ready,
    Reopen,
    Retiring,
    Serve,
    Up,
    boot_failure,
)

UPWARDS: list[Up] = [Ready(), BootFailure("ImportError: ä", "Traceback ...\n", 3), Retiring("SIGTERM")]
DOWNWARDS: list[Down] = [Serve(), Leave(drain=True), Leave(drain=False), Hurry(), Reopen()]


Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = pair()
    yield made
    for end in made:
        end.close()


def test_messages_up_arrive_as_they_were(ends: Ends) -> None:
    upper, lower = ends
    for message in UPWARDS:
        assert lower.send(UP.encode(message))
    assert [UP.decode(raw) for raw in upper.receive()] == UPWARDS
    assert not upper.closed


def test_messages_down_arrive_as_they_were(ends: Ends) -> None:
    upper, lower = ends
    for message in DOWNWARDS:
        assert upper.send(DOWN.encode(message))
    assert [DOWN.decode(raw) for raw in lower.receive()] == DOWNWARDS
    assert not lower.closed


def test_last_words_are_heard_before_the_end(ends: Ends) -> None:
    upper, lower = ends
    lower.send(UP.encode(UPWARDS[1]))
    lower.close()
    assert [UP.decode(raw) for raw in upper.receive()] == [UPWARDS[1]]
    assert upper.closed
    assert list(upper.receive()) == []
    assert not upper.send(b"x"), "nobody is there"


def test_last_words_of_who_did_not_read_are_heard_before_the_end_too(ends: Ends) -> None:
    """unix(7) tells a reset first, then what was said, then the end."""
    upper, lower = ends
    lower.send(b"why")
    lower.send(b"and why")
    upper.send(b"Look")
    lower.close()
    assert list(upper.receive()) == [b"why", b"and why"]
    assert upper.closed


def test_silent_end_of_who_did_not_read_is_an_end(ends: Ends) -> None:
    upper, lower = ends
    upper.send(b"Look")
    lower.close()
    assert list(upper.receive()) == []
    assert upper.closed


def test_nothing_is_waited_for_when_the_other_side_does_not_read(ends: Ends) -> None:
    upper, lower = ends
    sent = 0
    while upper.send(DOWN.encode(Reopen())):
        sent += 1
    looks = [len(list(lower.receive())) for _ in range(sent)]
    assert sum(looks) == sent
    assert max(looks) <= 64, "who sends without end keeps nobody"
    assert upper.send(DOWN.encode(Hurry())), "there is room again"


def test_largest_boot_failure_fits_into_a_fresh_channel(ends: Ends) -> None:
    upper, lower = ends
    message = boot_failure("ä" * 1_000_000, "𝄞" * 1_000_000 + "the end", 3)
    assert lower.send(UP.encode(message))
    [raw] = upper.receive()
    got = UP.decode(raw)
    assert isinstance(got, BootFailure)
    assert got.traceback.endswith("the end"), "the end of a traceback is what tells"
    assert got.traceback.startswith("...\n")


def test_lone_surrogates_of_an_app_do_not_silence_it() -> None:
    message = boot_failure("bad \udcff name", "file \ud800", 4)
    assert UP.decode(UP.encode(message)) == BootFailure("bad \\udcff name", "file \\ud800", 4)


@given(st.binary(max_size=200))
@example(UP.encode(Retiring("abc")).replace(b"abc", b"\xff\xfe\xfd"))  # a frame of ours whose text is no UTF-8
@example(UP.encode(Ready())[:-1] + b"\x91" * 100_000)  # nested too deep
def test_any_bytes_are_a_message_or_none(raw: bytes) -> None:
    assert UP.decode(raw) is None or isinstance(UP.decode(raw), Ready | BootFailure | Retiring)
    assert DOWN.decode(raw) is None or isinstance(DOWN.decode(raw), Serve | Leave | Hurry | Reopen)


def test_both_ends_are_close_on_exec_and_never_block(ends: Ends) -> None:
    for end in ends:
        assert not os.get_inheritable(end.fileno())
        assert not os.get_blocking(end.fileno())
