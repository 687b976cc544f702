"""Merging: against sorting everything at the end, however rows were cut and whenever they came."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.merge import Merge, keys
from core.timeline import START, STEP_NS_MAX, UNSET, settle
from tests.frames import SECOND_NS

Stamp = int | None
"""Of a row; `None` for one that has none of its own."""
Row = tuple[int, int]
"""Partition, and place in it."""

STAMPS = st.none() | st.integers(0, 6) | st.sampled_from([3, STEP_NS_MAX + 9, 3 * STEP_NS_MAX])
PARTITIONS = st.lists(st.lists(STAMPS, max_size=12), min_size=1, max_size=4)


def columns(stamps: list[Stamp]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    at = np.array([0 if each is None else each for each in stamps], np.int64)
    return at, np.array([each is not None for each in stamps], np.bool_)


def slow(partitions: list[list[Stamp]]) -> list[Row]:
    """Sort all rows by the time of their partition, then partition, then place."""
    rows = []
    for number, stamps in enumerate(partitions):
        now, clock = UNSET, START
        for place, stamp in enumerate(stamps):
            if stamp is not None:
                (now,), clock = settle(np.array([stamp], np.int64), clock)
            rows.append((int(now), number, place))
    return [(number, place) for _, number, place in sorted(rows)]


class Rows:
    """Partitions handed to a merge piece by piece."""

    def __init__(self, partitions: list[list[Stamp]]) -> None:
        self.left: list[list[Stamp]] = [list(each) for each in partitions]
        self.clocks = [START] * len(partitions)
        self.given = [0] * len(partitions)
        self.merge: Merge[list[Row]] = Merge([UNSET] * len(partitions))

    def give(self, number: int, count: int) -> None:
        """Give the next rows of a partition, and its end once there are none."""
        now, self.left[number] = self.left[number][:count], self.left[number][count:]
        merged, self.clocks[number] = keys(*columns(now), self.clocks[number])
        begin, self.given[number] = self.given[number], self.given[number] + len(now)
        self.merge.add(number, merged, [(number, begin + i) for i in range(len(now))])
        if not self.left[number]:
            self.merge.exhaust(number)

    def take(self, rows_max: int) -> list[Row]:
        taken = self.merge.take(rows_max)
        if taken is None:
            return []
        laid = [row for _, block, rows in taken.parts for row in block[rows]]
        assert sorted(taken.order.tolist()) == list(range(len(laid)))
        assert 1 <= len(laid) <= rows_max
        return [laid[i] for i in taken.order]


@given(PARTITIONS, st.data())
def test_the_order_is_that_of_a_sort(partitions: list[list[Stamp]], data: Any) -> None:
    """Cut anyhow, given in any order and taken by any number, rows come as if sorted."""
    rows = Rows(partitions)
    found: list[Row] = []
    while any(rows.left) or not all(map(rows.merge.ended, range(len(partitions)))):
        open_ = [n for n, left in enumerate(rows.left) if left or n in rows.merge._open]
        if open_ and data.draw(st.booleans()):
            rows.give(data.draw(st.sampled_from(open_)), data.draw(st.integers(0, 5)))
            continue
        some = rows.take(data.draw(st.integers(1, 5)))
        found += some
        if not some and open_:
            # Somebody it waits for has nothing left to take: what comes next is all it needs.
            empty = [n for n in open_ if not rows.merge.rows(n)]
            assert empty
            rows.give(empty[0], 1)
    assert rows.merge.done
    assert found == slow(partitions)


def test_a_row_waits_for_what_may_be_before_it() -> None:
    """Nothing is certain before every partition was heard; then what is before the earliest is."""
    rows = Rows([[1, 2, 3, 4], [2, 3], [9]])
    rows.give(0, 4)
    rows.give(1, 1)
    assert rows.take(10) == []
    rows.give(2, 1)
    # Partition 1 has reached 2, and may have another row at 2, which is before no row of its own.
    assert rows.take(10) == [(0, 0), (0, 1), (1, 0)]
    assert rows.take(10) == []
    rows.give(1, 1)
    assert rows.take(10) == [(0, 2), (1, 1), (0, 3), (2, 0)]
    assert rows.merge.done


def test_equal_times_come_by_partition() -> None:
    """A time that all rows share holds nothing up: the first partition goes first, to its end."""
    rows = Rows([[7] * 5, [7] * 5])
    rows.give(1, 5)
    for place in range(5):
        assert rows.take(9) == []
        rows.give(0, 1)
        assert rows.take(9) == [(0, place)] + [(1, i) for i in range(5)] * (place == 4)


def test_what_is_left_is_told() -> None:
    """Rows that wait are counted by partition; one has ended when none wait and none will come."""
    rows = Rows([[1, 5], [2]])
    rows.give(0, 2)
    assert [rows.merge.rows(n) for n in (0, 1)] == [2, 0]
    assert not rows.merge.ended(0)
    assert not rows.merge.ended(1)
    rows.give(1, 1)
    assert rows.take(2) == [(0, 0), (1, 0)]
    assert [rows.merge.ended(n) for n in (0, 1)] == [False, True]
    assert not rows.merge.done
    assert rows.take(2) == [(0, 1)]
    assert rows.merge.done


def test_a_partition_begins_where_it_was() -> None:
    """A merge that goes on knows that a partition cannot fall behind what it had reached."""
    merge: Merge[str] = Merge([10, UNSET])
    merge.add(1, np.array([4, 10, 11]), "block")
    taken = merge.take(9)
    assert taken is not None
    assert taken.parts == [(1, "block", slice(0, 1))]


@given(st.lists(STAMPS, max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_keys_never_fall(stamps: list[Stamp], cuts: list[int]) -> None:
    """Keys do not depend on cuts, never fall, and are kept by rows without a time of their own."""
    whole, after = keys(*columns(stamps), START)
    assert (np.diff(whole) >= 0).all()
    clock, found = START, []
    for a, b in itertools.pairwise([0, *sorted(min(c, len(stamps)) for c in cuts), len(stamps)]):
        part, clock = keys(*columns(stamps[a:b]), clock)
        found += part.tolist()
    assert found == whole.tolist()
    assert clock == after
    for place, stamp in enumerate(stamps):
        if stamp is None:
            assert whole[place] == (whole[place - 1] if place else UNSET)


@pytest.mark.parametrize("lone", [True, False])
def test_a_partition_is_not_led_astray_by_one_row(lone: bool) -> None:
    """A row stamped a century ahead does not hold back what follows it, unless the next agrees."""
    century = 100 * 365 * STEP_NS_MAX // 10
    stamps: list[Stamp] = [SECOND_NS, century, 2 * SECOND_NS if lone else century, 3 * SECOND_NS]
    merged, _ = keys(*columns(stamps), START)
    last = 3 * SECOND_NS if lone else century
    assert merged.tolist() == [SECOND_NS, SECOND_NS, 2 * SECOND_NS if lone else century, last]
