"""Bundles keep what matters: every datagram once, devices in order, times within their cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import MESSAGE_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENTS_MAX, bundle

SIZES = st.sampled_from([0, 22, 70, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MAX + 1, 9000])
ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), SIZES), max_size=300)


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    gaps, device, length = np.array(rows, np.int64).reshape(-1, 3).T
    return [np.cumsum(gaps), device, length]


def test_equal_lengths_go_together() -> None:
    """Two lengths of four devices are two bundles, and a device's second datagram a third."""
    device = np.array([0, 1, 2, 3, 0])
    order, ends = bundle(np.arange(5), device, np.array([9, 5, 9, 5, 9]), 100)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert ends.tolist() == [2, 4, 5]


def test_bundles_are_bounded() -> None:
    """By their segments, and by the bytes of a datagram."""
    zeros = np.zeros(130, np.int64)
    assert bundle(zeros, np.arange(130), zeros + 10, 9)[1].tolist() == [64, 128, 130]
    ends = bundle(zeros, np.arange(130), zeros + SEGMENT_BYTES_MAX, 9)[1]
    assert ends.tolist() == [53, 106, 130]


@given(ROWS, st.integers(1, 200))
def test_laws_of_bundles(rows: list[tuple[int, int, int]], cell_ns: int) -> None:
    """Every datagram is in one bundle, of equal lengths within bounds, in order for its device."""
    at_ns, device, length = columns(rows)
    order, ends = bundle(at_ns, device, length, cell_ns)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert (np.diff(at_ns[order] // cell_ns) >= 0).all()
    for who in range(4):
        mine = order[device[order] == who]
        assert (np.diff(mine) > 0).all()
    assert (np.diff(ends, prepend=0) > 0).all()
    assert ends[-1:].tolist() == [len(rows)] * bool(rows)
    for part in np.split(order, ends[:-1]):
        sizes = set(length[part].tolist())
        assert len(sizes) <= 1
        assert part.size <= SEGMENTS_MAX
        assert length[part].sum() <= max(MESSAGE_BYTES_MAX, *sizes, 0)
        assert part.size <= 1 or 0 < max(sizes) <= SEGMENT_BYTES_MAX
