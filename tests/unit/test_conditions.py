"""forkserve/wsgi/conditions.py: dates and codings; preconditions and ranges are shown by test_static.py."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.wsgi.conditions import acceptable_codings, http_date, judge, read_date


def test_a_date_is_read_in_all_three_formats() -> None:
    assert read_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777
    assert read_date("Sunday, 06-Nov-94 08:49:37 GMT") == 784111777
    assert read_date("Sun Nov  6 08:49:37 1994") == 784111777
    assert read_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228799, "a leap second"
    assert read_date("Friday, 01-Jan-21 00:00:00 GMT") == 1609459200


@pytest.mark.parametrize(
    "text",
    ["", "0", "yesterday", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nox 1994 08:49:37 GMT",
     "Sun, 06 Nov 1994 25:00:00 GMT", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 08:49:37 +0100",
     "1994-11-06T08:49:37Z", "Sun, 0\u0666 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT"],
)  # fmt: skip
def test_what_is_no_date_is_not_guessed(text: str) -> None:
    assert read_date(text) is None


@given(st.integers(0, 253402300799))
def test_a_date_is_read_back_as_it_was_spelled(moment: int) -> None:
    assert read_date(http_date(moment)) == moment


@given(
    st.dictionaries(
        st.sampled_from(["IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "IF_UNMODIFIED_SINCE", "IF_RANGE", "RANGE"]),
        st.text(st.characters(max_codepoint=255), max_size=30)
        | st.sampled_from(["*", '"a"', 'W/"a"', "Tue, 14 Nov 2023 22:13:20 GMT", "bytes=3-"])
        | st.from_regex(r"bytes=\d{0,3}-\d{0,3}", fullmatch=True),
    ),
    st.integers(0, 500),
)
def test_no_field_asks_for_bytes_that_are_not_there(fields: dict[str, str], size: int) -> None:
    environ: dict[str, Any] = {f"HTTP_{name}": value for name, value in fields.items()} | {"REQUEST_METHOD": "GET"}
    code, start, count = judge(environ, '"a"', "Tue, 14 Nov 2023 22:13:20 GMT", size)
    assert code in (200, 206, 304, 412, 416)
    assert 0 <= start <= start + count <= size
    assert (code == 206) <= (count > 0)
    assert code != 200 or (start, count) == (0, size)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_accept_encoding_is_survived(field: str) -> None:
    assert set(acceptable_codings(field)) <= {"br", "gzip"}


def test_what_is_refused_is_not_acceptable() -> None:
    assert acceptable_codings("gzip, br") == ("br", "gzip")
    assert acceptable_codings("GZIP;Q=0.9, BR;q=0.1") == ("gzip", "br")
    assert acceptable_codings("*;q=0.5, gzip;q=0") == ("br",)
    assert acceptable_codings("gzip;q=0.000") == ()
    assert acceptable_codings("gzip;q=nan, br;q=-1") == ()
