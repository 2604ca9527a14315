"""forkserve/config/values.py: every kind of value, read from TOML and from text; every refusal by its line."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.config import values
from forkserve.config.options import Kind
from forkserve.config.settings import declared
from forkserve.config.values import format_duration, format_size, parse_duration, parse_size

WANT_DURATION = 'expected seconds, such as 30, or a duration such as "30s", "500ms", "2m" or "1h30m"'
WANT_SIZE = 'expected bytes, such as 65536, or a size such as "64KiB", "16MiB" or "1GB"'
LEVELS = 'must be one of "debug", "info", "warning", "error", "critical"'

DURATIONS = [
    (30, 30.0), (0, 0.0), (0.5, 0.5), ("30", 30.0), (".5", 0.5), ("30s", 30.0), ("500ms", 0.5), ("2m", 120.0),
    ("1h", 3600.0), ("1h30m", 5400.0), ("1d", 86400.0), ("1.5h", 5400.0), ("1m500ms", 60.5), (" 30s ", 30.0),
]  # fmt: skip
SIZES = [
    (1048576, 1048576), (0, 0), ("8190", 8190), ("16MiB", 16 << 20), ("64kB", 64000), ("64KiB", 65536), ("1GB", 10**9),
    ("1 GiB", 1 << 30), ("1.5MiB", 3 << 19), ("0.1kB", 100), ("16mib", 16 << 20), ("10B", 10), ("1TB", 10**12),
]  # fmt: skip

FROM_TOML = [
    ("workers", 4, 4),
    ("timeout", "1m", 60.0),
    ("limit_request_body", "16MiB", 16 << 20),
    ("loglevel", "INFO", "info"),
    ("pidfile", "", ""),
    ("access_log_format", "%(h)s\t%(s)s", "%(h)s\t%(s)s"),
    ("app", "shop:app", "shop:app"),
    ("app", "", ""),
    ("bind", ":80", ("0.0.0.0:80",)),
    ("bind", ["[0::1]:80", "unix:/a,b"], ("[::1]:80", "unix:/a,b")),
    ("bind", ["a:0", "a:0"], ("a:0", "a:0")),
    ("env", {"A": "", "b c": "d=e"}, (("A", ""), ("b c", "d=e"))),
    ("static", {"/a": "b", "/c=d": "e"}, (("/a", "b"), ("/c=d", "e"))),
]
FROM_TEXT = [
    ("workers", "4", 4),
    ("workers", " 4 ", 4),
    ("timeout", "0.5", 0.5),
    ("bind", "a:1, unix:b", ("a:1", "unix:b")),
    ("bind", ("a:1", "unix:b,c"), ("a:1", "unix:b,c")),
    ("env", "A=1,B=", (("A", "1"), ("B", ""))),
    ("env", ("A=", "B=x,y=z"), (("A", ""), ("B", "x,y=z"))),
    ("env", "", ()),
    ("sendfile_folders", "/a=b,/c=d=e", (("/a", "b"), ("/c", "d=e"))),
]

REFUSED_FROM_TOML: list[tuple[str, object, str]] = [
    ("workers", 0, "must be between 1 and 1024"),
    ("workers", 1025, "must be between 1 and 1024"),
    ("workers", "4", "must be a whole number, without quotes"),
    ("workers", "four", "must be a whole number"),
    ("workers", 4.0, "must be a whole number"),
    ("workers", True, "must be a whole number"),
    ("workers", [4], "must be a whole number"),
    ("workers", {"count": 4}, "must be a whole number"),
    ("reload_retries", -1, "must be between 0 and 1000"),
    ("timeout", -1, "must not be negative"),
    ("timeout", -0.5, "must not be negative"),
    ("timeout", "-1s", "must not be negative"),
    ("timeout", math.inf, f"must be finite; {WANT_DURATION}"),
    ("timeout", math.nan, f"must be finite; {WANT_DURATION}"),
    ("timeout", 10**30, "is longer than a hundred years"),
    ("timeout", -(10**30), "must not be negative"),
    ("timeout", "99999999h", "is longer than a hundred years"),
    ("timeout", True, WANT_DURATION),
    ("timeout", [], WANT_DURATION),
    ("timeout", "", WANT_DURATION),
    ("timeout", "-", WANT_DURATION),
    ("timeout", "30sec", WANT_DURATION),
    ("timeout", "30m1h", WANT_DURATION),
    ("timeout", "1e3", WANT_DURATION),
    ("timeout", "inf", WANT_DURATION),
    ("timeout", "٣s", WANT_DURATION),
    ("limit_request_line", -1, "must not be negative"),
    ("limit_request_line", "2MiB", "must be between 0 and 1MiB"),
    ("limit_request_body", -1, "must not be negative"),
    ("limit_request_body", "-1MiB", "must not be negative"),
    ("limit_request_body", 1e6, WANT_SIZE),
    ("limit_request_body", False, WANT_SIZE),
    ("limit_request_body", "16M", WANT_SIZE),
    ("limit_request_body", "", WANT_SIZE),
    ("limit_request_body", "1.0001kB", "is not a whole number of bytes"),
    ("limit_request_body", 2**63, "is more than any machine holds"),
    ("loglevel", "warn", f'{LEVELS}; did you mean "warning"?'),
    ("loglevel", "loud", LEVELS),
    ("loglevel", 3, LEVELS),
    ("worker_class", "gevent", 'there is one kind of worker, "sync"; leave worker_class out'),
    ("pidfile", 3, "must be a string, in quotes"),
    ("pidfile", "a\0b", "must not hold control characters"),
    ("proc_name", "a\nb", "must not hold control characters"),
    ("pidfile", "a\udc80b", "must be UTF-8"),
    ("app", 3, "must be a string, in quotes"),
    ("app", "shop/main.py", 'a module is named with dots, not by its file; did you mean "shop.main"?'),
    ("bind", 8000, 'must be an address such as "127.0.0.1:8000", or a list of such'),
    ("bind", [], "must name at least one address"),
    ("bind", [8000], "must be a string, in quotes"),
    ("bind", "a:1,b:2", "is more than one address; write several as a list"),
    ("bind", ["a:1", "b:x"], '"b:x": the port must be a number from 0 to 65535, not "x"'),
    ("bind", ["[::1]:80", "[0::1]:80"], "names [::1]:80 twice"),
    ("env", "A=1", 'must be a table such as { "key" = "value" }'),
    ("env", {"": "x"}, 'a variable needs a name, without "="'),
    ("env", {"A=B": "x"}, 'a variable needs a name, without "="'),
    ("env", {"A": 1}, "must be a string, in quotes"),
    ("env", {"A": "x\0y"}, "must not hold control characters"),
    ("static", {"/a": ""}, "neither a prefix nor its folder may be empty"),
    ("sendfile_folders", {"": "a"}, "neither a prefix nor its folder may be empty"),
]
REFUSED_FROM_TEXT = [
    ("workers", "0", "must be between 1 and 1024"),
    ("workers", "4.0", "must be a whole number"),
    ("workers", "", "must be a whole number"),
    ("workers", "1_0", "must be a whole number"),
    ("workers", "9" * 5000, "must be a whole number"),
    (
        "bind",
        "a:1,",
        '"": is empty; expected HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd://N or fd://NAME',
    ),
    ("env", "A", "must be written KEY=VALUE"),
    ("env", "=x", "must be written KEY=VALUE"),
    ("env", "A=1,A=2", "names a key twice"),
    ("static", "/a=", "neither a prefix nor its folder may be empty"),
]


def read(name: str, raw: object, *, is_text: bool) -> Any:
    return values.read(declared()[name], raw, is_text=is_text)


@pytest.mark.parametrize(("raw", "seconds"), DURATIONS)
def test_a_duration_is_read(raw: object, seconds: float) -> None:
    assert parse_duration(raw) == seconds


@pytest.mark.parametrize(("raw", "size"), SIZES)
def test_a_size_is_read(raw: object, size: int) -> None:
    assert parse_size(raw) == size


@pytest.mark.parametrize(("name", "raw", "value"), FROM_TOML)
def test_a_toml_value_is_read(name: str, raw: object, value: object) -> None:
    found = read(name, raw, is_text=False)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("name", "raw", "value"), FROM_TEXT)
def test_text_is_read(name: str, raw: object, value: object) -> None:
    found = read(name, raw, is_text=True)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("name", "raw", "reason"), REFUSED_FROM_TOML)
def test_a_bad_toml_value_is_refused_with_what_was_expected(name: str, raw: object, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(name, raw, is_text=False)
    assert str(refused.value) == reason


@pytest.mark.parametrize(("name", "raw", "reason"), REFUSED_FROM_TEXT)
def test_bad_text_is_refused_with_what_was_expected(name: str, raw: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(name, raw, is_text=True)
    assert str(refused.value) == reason


def test_every_default_is_a_good_value_of_its_own_setting() -> None:
    for setting in declared().values():
        assert values.read(setting, values.write(setting, setting.default), is_text=False) == setting.default


def test_every_kind_is_declared_by_some_setting() -> None:
    assert {setting.option.kind for setting in declared().values()} == set(Kind)


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (0, 0),
        (30, "30s"),
        (60, "1m"),
        (90, "90s"),
        (3600, "1h"),
        (86400, "1d"),
        (0.5, "500ms"),
        (1.5, 1.5),
        (1e-9, 1e-9),
    ],
)
def test_a_duration_is_printed_in_the_largest_unit_that_fits(seconds: float, spelled: object) -> None:
    assert format_duration(seconds) == spelled


@pytest.mark.parametrize(
    ("size", "spelled"), [(0, 0), (8190, 8190), (1024, "1KiB"), (16 << 20, "16MiB"), (1 << 30, "1GiB")]
)
def test_a_size_is_printed_in_the_largest_unit_that_fits(size: int, spelled: object) -> None:
    assert format_size(size) == spelled


@given(st.floats(0, 3e9) | st.integers(0, 10**9).map(float) | st.integers(0, 10**6).map(lambda n: n / 1000))
def test_a_printed_duration_reads_back_as_the_same_number(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**63 - 1) | st.integers(0, 2**20).map(lambda n: n << 20))
def test_a_printed_size_reads_back_as_the_same_number(size: int) -> None:
    assert parse_size(format_size(size)) == size


raw_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(st.sampled_from(sorted(declared())), raw_values, st.booleans())
def test_any_raw_value_is_read_or_refused_and_shown_in_one_short_line(name: str, raw: object, is_text: bool) -> None:
    shown = values.show(raw)
    assert shown.isprintable()
    assert len(shown) <= 100
    try:
        value = read(name, raw, is_text=is_text)
    except ValueError as refusal:
        assert type(refusal) is ValueError
    else:
        assert read(name, values.write(declared()[name], value), is_text=False) == value


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (True, "true"),
        ('say "hi"\\', '"say \\"hi\\"\\\\"'),
        ("a\nb\x1b\xa0", '"a\\nb\\u001b\\u00a0"'),
        (["a", 1], '["a", 1]'),
        ({"a": 1}, '{ "a" = 1 }'),
        ([[["a"]]], "[[[ … ]]]"),
    ],
)
def test_a_raw_value_is_shown_as_toml(raw: object, shown: str) -> None:
    assert values.show(raw) == shown


def test_a_number_that_python_refuses_to_print_is_shown_all_the_same() -> None:
    assert values.show(10**5000) == "a number of more than 18 digits"


def test_a_number_beyond_any_float_is_too_long_a_duration() -> None:
    with pytest.raises(ValueError, match=r"^is longer than a hundred years$"):
        parse_duration(10**400)
