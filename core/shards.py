"""Shards: which part of the state a key belongs to.

Law: the shard of a key depends on the key and the number of shards alone, never on workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_i4, A_u8, i8, kernel, mix, none

if TYPE_CHECKING:
    from core.batches import FrameBatch


@kernel(none(A_u8, A_u8, i8, A_i4))
def _assign(key_hi: Any, key_lo: Any, shards: Any, shard: Any) -> None:
    """Write the shard of each key."""
    for i in range(shard.size):
        shard[i] = np.int64(mix(key_hi[i] ^ mix(key_lo[i])) % np.uint64(shards))


def split(frames: FrameBatch, shards: int) -> list[tuple[int, FrameBatch]]:
    """Split a batch by shard, keeping the order within each.

    Args:
        frames: Any frames.
        shards: Number of shards, at least 1.

    Returns:
        Shard and frames, for each shard that has any; with one shard the batch itself.
    """
    if shards == 1:
        return [(0, frames)] if len(frames) else []
    shard = np.empty(len(frames), np.int32)
    _assign(frames.key_hi, frames.key_lo, shards, shard)
    return [(s, frames.take(np.flatnonzero(shard == s))) for s in np.unique(shard).tolist()]


def shard_of(key_hi: int, key_lo: int, shards: int) -> int:
    """Return the shard of one key, given as its two words."""
    shard = np.empty(1, np.int32)
    _assign(np.array([key_hi], np.uint64), np.array([key_lo], np.uint64), shards, shard)
    return int(shard[0])
