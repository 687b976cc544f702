"""Ticks close windows: the same rows as the next arrival gives, only sooner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.features import RowBatch
from tests.frames import parts
from tests.models.test_features import (
    ARRIVALS,
    CUTS,
    START_NS,
    WINDOW_NS,
    Arrival,
    frames,
    groups,
    same,
    windows,
)


@given(ARRIVALS, CUTS, st.integers(2, 7))
def test_rows_are_those_of_arrivals(
    arrivals: list[Arrival], cuts: list[int], keys_max: int
) -> None:
    """Whatever ticks come between arrivals, no row is other than without them."""
    plain, ticked = windows(keys_max), windows(keys_max)
    wanted = [*(plain.update(part) for part in parts(frames(arrivals), cuts)), plain.finish()]
    found: list[RowBatch | None] = []
    latest_ns = 0
    for part in parts(frames(arrivals), cuts):
        if len(part):
            first_ns = int(part.clock_ns[0])
            # A tick is never later than what comes after it.
            ticks = [each for each in (first_ns - WINDOW_NS, first_ns) if each >= latest_ns]
            found.extend(map(ticked.tick, ticks))
            latest_ns = max(latest_ns, int(part.clock_ns.max()))
        found.append(ticked.update(part))
    found.append(ticked.finish())
    same(groups(found), groups(wanted))


def test_a_window_closes_when_it_is_over() -> None:
    """Not before its end, not twice, and its rows are whole; an empty one never."""
    live = windows(4)
    assert live.next_ns is None
    assert live.tick(START_NS) is None
    live.update(frames([(START_NS + 7, 1, 2, 3, 60)]))
    end_ns = START_NS + WINDOW_NS
    assert live.next_ns == end_ns
    assert live.tick(end_ns - 1) is None
    rows = live.tick(end_ns)
    assert rows is not None
    assert (len(rows), rows.partial, rows.window_ns.tolist()) == (1, False, [START_NS])
    assert live.next_ns is None
    assert live.tick(end_ns + WINDOW_NS) is None
    assert live.finish() is None
