"""Pacing: when packets of a replay are due, without any clock."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.pace import STEP_NS_MAX, Pace

SECOND_NS = 1_000_000_000
BEGIN_NS = 1_600_000_000 * SECOND_NS


def times(*seconds: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([BEGIN_NS + int(s * SECOND_NS) for s in seconds], np.int64)


def test_packets_are_due_at_a_multiple_of_capture_time() -> None:
    """At twice the speed a packet one second in is due after half a second."""
    pace = Pace(2.0)
    due_ns = pace.schedule(times(0, 1, 1, 4), 0)
    assert due_ns.tolist() == [0, SECOND_NS, SECOND_NS, 4 * SECOND_NS]
    assert pace.due(due_ns, 700) == (1, 0)
    count, wait_ns = pace.due(due_ns[1:], 700)
    assert count == 0
    assert abs(wait_ns - SECOND_NS // 2) <= 1
    assert pace.due(due_ns[1:], 700 + SECOND_NS // 2) == (2, 0)
    assert pace.due(due_ns[3:], 700 + 2 * SECOND_NS) == (1, 0)


def test_batches_continue_one_another() -> None:
    """A schedule cut into batches is the schedule of the whole."""
    whole = Pace(1.0).schedule(times(0, 1, 3, 2, 7), 0)
    parts = Pace(1.0)
    cut = [parts.schedule(times(0, 1, 3), 0), parts.schedule(times(2, 7), 0)]
    assert np.concatenate(cut).tolist() == whole.tolist()


def test_time_stands_still_where_capture_time_does_not_tell() -> None:
    """Steps backwards, a stamp that is missing or absurd, and the next file cost no time."""
    pace = Pace(1.0)
    backwards = pace.schedule(times(5, 4, 6), 0)
    assert backwards.tolist() == [0, 0, SECOND_NS]
    missing = np.array([0, BEGIN_NS + 7 * SECOND_NS, 9 * 10**18, 0], np.int64)
    assert pace.schedule(missing, 0).tolist() == [SECOND_NS, 2 * SECOND_NS] + 2 * [2 * SECOND_NS]
    later = pace.schedule(times(100_000, 100_001), 1)
    assert later.tolist() == [2 * SECOND_NS, 3 * SECOND_NS]
    earlier = pace.schedule(times(3, 4), 2)
    assert earlier.tolist() == [3 * SECOND_NS, 4 * SECOND_NS]


def test_a_resumed_replay_begins_at_once() -> None:
    """The first packets asked for are due, wherever in the schedule they lie."""
    pace = Pace(0.001)
    due_ns = pace.schedule(times(0, 10, 20), 0)[1:]
    assert pace.due(due_ns, 123)[0] == 1
    assert pace.due(due_ns[1:], 123)[0] == 0


@given(
    at_ns=st.lists(st.integers(0, 9_223_372_036_854_775_807 // 2), min_size=1, max_size=20),
    file=st.integers(0, 3),
    speed=st.floats(1e-6, 1e6),
    now_ns=st.integers(0, 2**62),
)
def test_schedules_never_fall_and_waits_end(
    at_ns: list[int], file: int, speed: float, now_ns: int
) -> None:
    """Any stamps give a rising schedule of bounded steps, and after the wait a packet is due."""
    pace = Pace(speed)
    due_ns = pace.schedule(np.array(at_ns, np.int64), file)
    steps = np.diff(due_ns, prepend=0)
    assert due_ns[0] == 0
    assert (steps >= 0).all()
    assert (steps <= STEP_NS_MAX).all()
    count, wait_ns = pace.due(due_ns, now_ns)
    assert count >= 1
    assert wait_ns == 0
    if count < len(at_ns):
        again, wait_ns = pace.due(due_ns[count:], now_ns)
        assert again == 0
        assert wait_ns > 0
