"""The back-off alone: how it grows, where it ends, and that it never outgrows a float."""

from itertools import pairwise

import pytest

from forkserve.master.backoff import CAP_S, Backoff


def steady(jitter: float = 0.5) -> Backoff:
    return Backoff(lambda: jitter)


def failed_at_each_end(backoff: Backoff, times: int) -> list[float]:
    """Fail again the moment each pause is over; return the pauses."""
    pauses = []
    for _ in range(times):
        pause_s = backoff.fail(backoff.until)
        assert pause_s is not None
        pauses.append(pause_s)
    return pauses


def test_pauses_double_up_to_the_cap() -> None:
    assert failed_at_each_end(steady(), 9) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.8), (1.0, 1.2)])
def test_jitter_stretches_a_pause_by_a_fifth_either_way(jitter: float, factor: float) -> None:
    pauses = failed_at_each_end(steady(jitter), 8)
    assert pauses == pytest.approx([pause_s * factor for pause_s in (0.5, 1, 2, 4, 8, 16, 30, 30)])


def test_a_failure_during_a_pause_changes_nothing() -> None:
    backoff = steady()
    assert backoff.fail(10.0) == 0.5
    assert backoff.fail(10.4) is None
    assert (backoff.level, backoff.until) == (1, 10.5)


def test_it_forbids_until_the_pause_is_over() -> None:
    backoff = steady()
    backoff.fail(10.0)
    assert [backoff.allows(now) for now in (10.0, 10.49, 10.5)] == [False, False, True]


def test_it_remembers_when_all_was_well_last() -> None:
    backoff = steady()
    backoff.fail(10.0)
    backoff.fail(20.0)
    assert backoff.began_at == 10.0
    backoff.reset()
    backoff.fail(30.0)
    assert backoff.began_at == 30.0


def test_reset_allows_at_once_and_starts_small_again() -> None:
    backoff = steady()
    failed_at_each_end(backoff, 5)
    backoff.reset()
    assert backoff.allows(backoff.until)
    assert backoff.allows(0.0)
    assert backoff.fail(0.0) == 0.5


def test_a_week_of_failures_stays_at_the_cap() -> None:
    """2**1024 is no float: a pool that fails for nine hours must not end in an OverflowError."""
    backoff = steady()
    pauses = failed_at_each_end(backoff, 20_000)
    assert pauses[-1] == CAP_S
    assert all(later >= earlier for earlier, later in pairwise(pauses))
