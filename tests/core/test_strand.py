"""Strands: rows of a partition in order of time, as far as a window shows, however they came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.merge import keys
from core.readings import Readings
from core.reasons import Reason
from core.strand import (
    WINDOW_BYTES_MIN,
    WINDOW_ROWS_MIN,
    WINDOWS_BYTES,
    WINDOWS_ROWS,
    Place,
    Strand,
    Window,
    window_of,
)
from core.timeline import START, STEP_NS_MAX
from tests.plain import rest_passes
from tests.readings import values

Record = tuple[int, int | None]
"""Key, and time; `None` for what is no record."""

STAMPS = st.none() | st.integers(0, 40) | st.just(3 * STEP_NS_MAX)
BEGIN = Place(0)
RECORDS = st.lists(st.tuples(st.integers(0, 3), STAMPS), max_size=40)


def rows_of(records: list[Record], first: int = 0, size: int = 1) -> Readings:
    """Return records, each a message of its own, known by its place."""
    rows = Readings.of(values(*(b"x" * size for _ in records)))
    rows.key_lo[:] = [key for key, _ in records]
    rows.at_ns[:] = [7 if at is None else at for _, at in records]
    rows.reason[:] = [Reason.RECORD if at is None else 0 for _, at in records]
    rows.ordinal[:] = np.arange(first, first + len(records))
    rows.next_offset[:] = rows.ordinal + 1
    return rows


def straightened(
    records: list[Record], window: Window, cuts: list[int], place: Place = BEGIN, seen: int = 0
) -> list[tuple[Readings, tuple[Place, int]]]:
    """Return the blocks of a partition that came in such pieces, and the place before each."""
    strand = Strand(place, seen, window)
    found: list[Readings] = []
    ends = sorted({min(cut, len(records)) for cut in cuts} | {len(records)})
    begin = place.offset
    for end in ends:
        if end > begin:
            strand.add(rows_of(records[begin:end], begin))
            begin = end
        if end == len(records):
            strand.end()
        found += strand.blocks()
    assert strand.is_spent
    out = []
    for block in found:
        before = strand.place
        strand.hand_on(len(block))
        out.append((block, before))
    return out


def numbers(blocks: list[tuple[Readings, Any]]) -> list[int]:
    return [number for block, _ in blocks for number in block.ordinal.tolist()]


@given(RECORDS, st.integers(2, 50), st.lists(st.integers(0, 40), max_size=5))
def test_cuts_do_not_matter(records: list[Record], size: int, cuts: list[int]) -> None:
    """Every row comes once; blocks, their order, keys and places are the same however rows came."""
    window = Window(size, 1 << 20)
    whole = straightened(records, window, [])
    assert sorted(numbers(whole)) == list(range(len(records)))
    pieces = straightened(records, window, cuts)
    assert [(block.ordinal.tolist(), block.clock_ns.tolist(), at) for block, at in pieces] == [
        (block.ordinal.tolist(), block.clock_ns.tolist(), at) for block, at in whole
    ]
    assert all(len(block) <= max(1, size // 2) for block, _ in whole)


@given(RECORDS, st.integers(2, 50))
def test_rows_of_a_key_keep_their_order(records: list[Record], size: int) -> None:
    """Whatever is moved, it is never moved past another row of its key."""
    found = numbers(straightened(records, Window(size, 1 << 20), []))
    for key in range(4):
        mine = [number for number in found if records[number][0] == key]
        assert mine == sorted(mine)


@given(RECORDS, st.integers(2, 50), st.data())
def test_any_place_resumes_with_exactly_the_rest(
    records: list[Record], size: int, data: Any
) -> None:
    """From the place of a block and the rows of it that were seen, the same rows follow."""
    window = Window(size, 1 << 20)
    whole = straightened(records, window, [])
    if not whole:
        return
    number = data.draw(st.integers(0, len(whole) - 1))
    block, (place, before) = whole[number]
    assert before == 0
    seen = data.draw(st.integers(0, len(block)))
    again = straightened(records, window, [place.offset + 3], place, seen)
    want = numbers(whole[number:])[seen:]
    assert numbers(again) == want
    merged = [t for block, _ in whole[number:] for t in block.clock_ns.tolist()][seen:]
    assert [t for block, _ in again for t in block.clock_ns.tolist()] == merged


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(2, 50))
def test_rows_in_order_stay_as_they_lie(stamps: list[int], size: int) -> None:
    """A partition in order of time is handed out as it is, with the keys it has."""
    records: list[Record] = [(i % 3, at) for i, at in enumerate(sorted(stamps))]
    found = straightened(records, Window(size, 1 << 20), [])
    assert numbers(found) == list(range(len(records)))
    assert [t for block, _ in found for t in block.clock_ns.tolist()] == sorted(stamps)


@pytest.mark.parametrize("writers", [2, 4])
def test_batches_of_several_writers_are_put_in_order(writers: int) -> None:
    """Each writes its part of every ten seconds in one go; read, they are in order of time."""
    records: list[Record] = [
        (writer, 1000 * batch + i)
        for batch in range(50)
        for writer in range(writers)
        for i in range(writer, 100, writers)
    ]  # fmt: skip
    found = straightened(records, Window(400, 1 << 20), [33, 1_000])
    times = [t for block, _ in found for t in block.at_ns.tolist()]
    assert times == sorted(times)
    # Where batches are larger than what is looked at, they cannot be.
    found = straightened(records, Window(60, 1 << 20), [33, 1_000])
    times = [t for block, _ in found for t in block.at_ns.tolist()]
    assert times != sorted(times)


def test_a_lone_stamp_far_ahead_moves_nothing() -> None:
    """A row stamped in another century stays where it lies, unless the next one agrees."""
    records: list[Record] = [(i, 10 * i) for i in range(6)]
    records[2] = (2, 9 * STEP_NS_MAX)
    window = Window(50, 1 << 20)
    assert numbers(straightened(records, window, [])) == list(range(6))
    records[3] = (3, 9 * STEP_NS_MAX)
    assert numbers(straightened(records, window, [])) == [0, 1, 2, 4, 5, 3]


def test_windows_are_bounded_by_bytes() -> None:
    """Large records make a window of few, wherever they were cut."""
    records: list[Record] = [(0, i) for i in range(20)]
    strand = Strand(Place(0), 0, Window(1_000, 100))
    strand.add(rows_of(records[:9], size=10))
    assert list(strand.blocks()) == []
    strand.add(rows_of(records[9:], 9, size=10))
    assert [len(block) for block in strand.blocks()] == [5, 5, 5]
    strand.end()
    assert [len(block) for block in strand.blocks()] == [5]
    alone = Strand(Place(0), 0, Window(1_000, 100))
    alone.add(rows_of(records[:2], size=500))
    assert [len(block) for block in alone.blocks()] == [1, 1]


def test_what_is_looked_at_is_bounded() -> None:
    """All windows together are of one size, but none is smaller than it may be."""
    assert window_of(1) == (WINDOWS_ROWS, WINDOWS_BYTES)
    assert window_of(8) == (WINDOWS_ROWS // 8, WINDOWS_BYTES // 8)
    assert window_of(10_000) == (WINDOW_ROWS_MIN, WINDOW_BYTES_MIN)


def test_a_place_within_a_message() -> None:
    """A block that begins inside an Arrow message begins there again."""
    rows = rows_of([(0, i) for i in range(6)])
    rows.next_offset[:] = [0, 0, 0, 1, 2, 3]
    rows.next_row[:] = [1, 2, 3, 0, 0, 0]
    strand = Strand(Place(0), 0, Window(4, 1 << 20))
    strand.add(rows)
    assert [block.ordinal.tolist() for block in strand.blocks()] == [[0, 1], [2, 3]]
    strand.hand_on(3)
    place, seen = strand.place
    assert (place.offset, place.row, seen) == (0, 2, 1)
    assert strand.reached == 0
    again = Strand(place, seen, Window(4, 1 << 20))
    again.add(rows)
    again.end()
    assert [block.ordinal.tolist() for block in again.blocks()] == [[3], [4, 5]]
    assert again.place == (place, 1)
    again.hand_on(3)
    assert (again.place[0].offset, again.reached) == (3, 3)


def test_keys_are_those_of_the_order_handed_out() -> None:
    """Merge keys never fall, from block to block."""
    records: list[Record] = [(i, at) for i, at in enumerate([5, 1, 9, 2, None, 8, 3, 12])]
    found = straightened(records, Window(4, 1 << 20), [])
    rows = [block for block, _ in found]
    clock = START
    for block in rows:
        want, clock = keys(block.at_ns, block.known, clock)
        assert block.clock_ns.tolist() == want.tolist()


def test_plain_python() -> None:
    """Without the compiler the answers are the same."""
    rest_passes(__file__)
