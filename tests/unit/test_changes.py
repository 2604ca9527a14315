"""What the log says of a setting that a reload has changed: values as a user writes them, and whom they reach."""

from typing import Any

import pytest

from forkserve.config.options import Effect
from forkserve.config.resolve import Change, diff
from forkserve.config.settings import Settings


def only_change(old: dict[str, Any], new: dict[str, Any]) -> Change:
    [change] = diff(Settings(**old), Settings(**new))
    return change


@pytest.mark.parametrize(
    ("name", "old", "new", "spelled"),
    [
        ("bind", ("127.0.0.1:80",), ("127.0.0.1:80", "unix:a.sock"), ("127.0.0.1:80", "127.0.0.1:80, unix:a.sock")),
        ("workers", 1, 12, ("1", "12")),
        ("timeout", 30.0, 90.0, ("30s", "90s")),
        ("limit_request_body", 1 << 30, 16 << 20, ("1GiB", "16MiB")),
        ("reload_surge", "1", "25%", ("1", "25%")),
        ("proc_name", "", "shop", ("", "shop")),
        ("static", (), (("/a", "b"),), ("{}", '{ "/a" = "b" }')),
    ],
)
def test_values_are_spelled_as_a_user_writes_them(name: str, old: Any, new: Any, spelled: tuple[str, str]) -> None:
    assert only_change({name: old}, {name: new}).spelled() == spelled


def test_variables_are_named_and_what_they_hold_is_not_said() -> None:
    change = only_change({"env": (("KEY", "secret"),)}, {"env": (("KEY", "safer"), ("TOKEN", "hidden"))})
    assert change.spelled() == ("KEY", "KEY, TOKEN")


@pytest.mark.parametrize(
    ("name", "value", "whom"),
    [
        ("workers", 7, "at once"),
        ("keepalive", 7.0, "new workers"),
        ("pidfile", "other.pid", "the next upgrade"),
        ("socket_mode", "0600", "unix sockets bound from now on"),
        ("socket_user", "root", "unix sockets bound from now on"),
        ("socket_group", "root", "unix sockets bound from now on"),
        ("loglevel", "error", "the master at once, new workers"),
        ("errorlog", "error.log", "the master at once, new workers"),
    ],
)
def test_it_is_said_whom_a_change_reaches_and_when(name: str, value: Any, whom: str) -> None:
    assert only_change({}, {name: value}).applies_to == whom


def test_every_effect_has_its_words() -> None:
    assert all(Change("timeout", 1.0, 2.0, effect).applies_to for effect in Effect)
