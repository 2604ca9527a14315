"""What one master hands to the next: read back as written, one version back and forward, nothing else."""

import os
from typing import Any

import msgspec
import pytest

from forkserve.config.settings import Settings
from forkserve.master import handover as over
from forkserve.master.events import Policy
from forkserve.master.handover import Handover, HandoverError
from forkserve.master.supervisor import Supervisor
from forkserve.typed import to_msgpack

SETTINGS = Settings(workers=3, bind=("127.0.0.1:8000", "unix:/run/x"), env=(("A", "1"),), timeout=2.5, umask="027")


def a_handover() -> Handover:
    mind = Supervisor(Policy(size=3), jitter=lambda: 0.5)
    mind.start(1.0)
    return Handover(
        memory=mind.remember(),
        settings=over.settings_to_plain(SETTINGS),
        origins={"workers": "--workers"},
        outfits={1: over.OldOutfit(over.settings_to_plain(SETTINGS), ["unix:/run/x"])},
        doors=[over.Door("unix:/run/x", "unix:/run/x", 7, (8, 9))],
        handed=[],
        children=[over.OldChild(1, 0, 4711, 9)],
        board=5,
        lifeline=(10, 11),
        relay=(12, 13),
        pidfile=("/run/pid", 14),
        control=over.Door("unix:@forkserve/1", "unix:@forkserve/1", 15),
        clients=(over.OldClient(16, b"x", True, b"owed", False, 3),),
    )


def altered(**changes: Any) -> bytes:
    """The state with some fields changed on its way, as another version might write it; None: not written."""
    plain = msgspec.msgpack.decode(to_msgpack(a_handover()))
    plain.update(changes)
    return msgspec.msgpack.encode({name: value for name, value in plain.items() if value is not None})


def test_state_is_read_back_as_it_was_written() -> None:
    fd = over.to_memfd(a_handover())
    again = over.from_memfd(fd)
    assert to_msgpack(again) == to_msgpack(a_handover())
    assert over.settings_from_plain(again.settings) == SETTINGS
    assert set(again.descriptors()) == {5, 7, 9, 10, 11, 12, 13, 14, 15, 16}
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.parametrize("step", [-1, 1])
def test_one_version_back_and_forward_is_understood(step: int) -> None:
    told = over.understand(altered(version=over.VERSION + step, a_field_of_tomorrow=[1, 2], clients=None))
    assert told.children == a_handover().children
    assert told.clients == ()


@pytest.mark.parametrize("changes", [{"version": over.VERSION + 2}, {"version": over.VERSION - 2}, {"layout": 99}])
def test_more_steps_and_another_scoreboard_are_refused_with_both_versions(changes: dict[str, int]) -> None:
    with pytest.raises(HandoverError, match=r"hands over version [-\d.]+ of its state; forkserve .* understands 1\.1"):
        over.understand(altered(**changes))


@pytest.mark.parametrize("raw", [b"", b"nonsense", altered(children=None), altered(doors="x")])
def test_what_is_no_state_is_refused(raw: bytes) -> None:
    with pytest.raises(HandoverError):
        over.understand(raw)


def test_settings_of_another_version_are_read_as_far_as_they_are_known() -> None:
    plain = over.settings_to_plain(SETTINGS) | {"of_tomorrow": 1, "threads": "no number any more"}
    assert over.settings_from_plain(plain) == SETTINGS


def test_text_that_is_no_unicode_is_a_reason_not_to_exec() -> None:
    handover = a_handover()
    handover.settings["chdir"] = "/srv/\udcff"
    with pytest.raises(OSError, match="no Unicode"):
        over.to_memfd(handover)
