"""The time all stages go by."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.timeline import START, STEP_NS_MAX, settle

DAY = STEP_NS_MAX
STAMPS = st.lists(st.integers(0, 60 * DAY), max_size=40)


def clock(*at_ns: int) -> list[int]:
    """Settle stamps from the start."""
    return [int(now) for now in settle(np.array(at_ns, np.int64))[0]]


def test_time_is_the_latest_stamp() -> None:
    """Steps backwards are taken at the latest time seen."""
    assert clock(5, 9, 7, 8, 10) == [5, 9, 9, 9, 10]


def test_a_lone_stamp_far_ahead_moves_nothing() -> None:
    """One packet from another century does not stop the clock of the others."""
    assert clock(5, 70 * 365 * DAY, 6, 7) == [5, 5, 6, 7]


def test_a_long_silence_is_believed_with_its_second_packet() -> None:
    """Traffic that goes on far ahead takes the clock along."""
    assert clock(5, 9 * DAY, 9 * DAY + 3, 9 * DAY + 2) == [5, 5, 9 * DAY + 3, 9 * DAY + 3]


def test_doubted_stamps_must_agree() -> None:
    """Two stamps far ahead and far from each other prove nothing, unless the second is later."""
    assert clock(5, 90 * DAY, 30 * DAY, 6) == [5, 5, 5, 6]


@given(STAMPS, st.integers(0, 40))
def test_cuts_do_not_matter(stamps: list[int], cut: int) -> None:
    """Time is the same however the stamps are cut into batches."""
    at_ns = np.array(stamps, np.int64)
    whole, after = settle(at_ns)
    head, between = settle(at_ns[:cut], START)
    tail, end = settle(at_ns[cut:], between)
    assert [*head.tolist(), *tail.tolist()] == whole.tolist()
    assert end == after


@given(STAMPS)
def test_time_never_falls_nor_runs_ahead(stamps: list[int]) -> None:
    """Time never steps back, and is always a stamp that was seen."""
    settled = clock(*stamps)
    assert settled == sorted(settled)
    assert all(now in stamps[: i + 1] for i, now in enumerate(settled))


@given(st.lists(st.integers(0, DAY), max_size=40))
def test_within_a_day_it_is_the_running_maximum(stamps: list[int]) -> None:
    """Where no step is doubted, the law is max(now, at)."""
    assert clock(*stamps) == np.maximum.accumulate(np.array(stamps, np.int64)).tolist()
