"""The SHARE kind of settings: a number, or a part of another setting's value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.config import values
from forkserve.config.settings import declared
from forkserve.config.values import parse_share

JITTER = declared()["max_requests_jitter"]  # at least 0
SURGE = declared()["reload_surge"]  # 0 to 1024


@pytest.mark.parametrize(
    ("raw", "is_text", "value"),
    [
        (2, False, "2"), ("2", False, "2"), ("2", True, "2"), (" 2 ", True, "2"), ("007", True, "7"),
        ("25%", False, "25%"), ("25%", True, "25%"), (" 025% ", True, "25%"), ("0%", False, "0%"), ("0", True, "0"),
        ("1000%", True, "1000%"), (999_999_999, False, "999999999"),
    ],
)  # fmt: skip
def test_a_share_is_read_as_its_shortest_text(raw: object, is_text: bool, value: str) -> None:
    assert values.read(JITTER, raw, is_text=is_text) == value


@pytest.mark.parametrize(
    "raw",
    [True, 2.5, "2.5", "25.5%", "-1", -1, "-5%", "%", "", "25 %", "25%%", "%25", "1e3", "+3", "a quarter", None, [2],
     {"part": 2}, 10**30, "9" * 5000, "٣%", "²"],
)  # fmt: skip
def test_what_is_no_share_is_refused_with_what_was_expected(raw: object) -> None:
    for is_text in (True, False):
        with pytest.raises(ValueError, match=r'^must be a whole number or a percentage such as "25%"$'):
            values.read(JITTER, raw, is_text=is_text)


@pytest.mark.parametrize("raw", ["1001%", "999999999%"])
def test_a_percentage_that_can_only_be_a_slip_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match=r"^must be at most 1000%$"):
        values.read(JITTER, raw, is_text=True)


@pytest.mark.parametrize("raw", [1025, "1025"])
def test_a_number_beyond_the_range_of_its_setting_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match=r"^must be between 0 and 1024$"):
        values.read(SURGE, raw, is_text=isinstance(raw, str))


@pytest.mark.parametrize(
    ("text", "whole", "part"), [("3", 100, 3), ("3", 0, 3), ("25%", 8, 2), ("25%", 0, 0), ("0%", 8, 0), ("150%", 8, 12)]
)
def test_a_share_is_itself_or_that_part_of_the_whole(text: str, whole: float, part: float) -> None:
    assert parse_share(text, whole) == part


@given(st.integers(0, 999_999_999) | st.integers(0, 1000).map("{}%".format))
def test_a_share_that_is_written_reads_back_as_the_same(raw: object) -> None:
    value = values.read(JITTER, raw, is_text=False)
    assert values.read(JITTER, values.write(JITTER, value), is_text=False) == value
    assert values.read(JITTER, value, is_text=True) == value


@given(st.integers(0, 1000), st.floats(0, 1e9))
def test_a_percentage_grows_with_its_whole_and_stays_in_proportion(percent: int, whole: float) -> None:
    part = parse_share(f"{percent}%", whole)
    assert 0 <= part <= whole * 10 * (1 + 1e-12)  # floats round
    assert part == pytest.approx(whole * percent / 100)
