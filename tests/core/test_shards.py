"""Shards: every frame in one of them, chosen by its key alone, in the order of arrival."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.shards import split
from tests.frames import frame_batch

KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1) | st.integers(0, 5)))


@given(KEYS.filter(bool), st.integers(1, 1024))
def test_each_frame_is_in_one_shard_in_order(keys: list[tuple[int, int]], shards: int) -> None:
    """Nothing is lost or twice, order is kept, and shards come in ascending order."""
    frames = frame_batch(key_hi=[k[0] for k in keys], key_lo=[k[1] for k in keys])
    found = split(frames, shards)
    assert [s for s, _ in found] == sorted({s for s, _ in found})
    assert all(0 <= s < shards for s, _ in found)
    assert all(len(part) > 0 for _, part in found)
    assert sorted(i for _, part in found for i in part.index.tolist()) == list(range(len(keys)))
    for _, part in found:
        assert (np.diff(part.index) > 0).all()


@given(KEYS.filter(bool), st.integers(2, 64))
def test_a_key_has_one_shard_whoever_is_beside_it(keys: list[tuple[int, int]], shards: int) -> None:
    """The shard of a frame is the same alone and in company."""
    frames = frame_batch(key_hi=[k[0] for k in keys], key_lo=[k[1] for k in keys])
    together = {i: s for s, part in split(frames, shards) for i in part.index.tolist()}
    for i in range(len(keys)):
        assert split(frames.take(slice(i, i + 1)), shards)[0][0] == together[i]


def test_one_shard_is_the_batch_itself() -> None:
    """With one shard nothing is copied, and no frames are no part."""
    frames = frame_batch(key_lo=[1, 2])
    assert split(frames, 1) == [(0, frames)]
    assert split(frames, 1)[0][1] is frames
    assert split(frames.take(slice(0, 0)), 1) == split(frames.take(slice(0, 0)), 8) == []


def test_neighbouring_keys_spread_evenly() -> None:
    """Counted-up addresses fill eight shards within 10 % of each other's share."""
    frames = frame_batch(key_lo=0xFFFF_0A00_0000 + np.arange(40_000, dtype=np.uint64))
    sizes = [len(part) for _, part in split(frames, 8)]
    assert len(sizes) == 8
    assert 4_500 < min(sizes) <= max(sizes) < 5_500
