"""Partitions merged by time into one sequence, the same however and whenever their rows came.

Laws:

1. The order is total: by key, then partition, then place in the partition. A key is the time of its
   partition, which never falls, so that the order of each partition is kept.
2. A row is given out once no row that is still to come can be before it. What comes out therefore
   does not depend on how rows were cut into blocks, on whose block came first, or on how many are
   taken at a time.
3. It never waits for a partition whose rows it holds: where nothing can be taken, the partition
   that is waited for is empty, and only its next block, or its end, is needed.

Not here: what a row is; whoever merges keeps the columns, and gets slices and an order of them.

Source: the k-way merge of D. Knuth, "The Art of Computer Programming", vol. 3, §5.4.1, over blocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from core.timeline import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

B = TypeVar("B")

Clock = tuple[int, int]
"""State of a timeline; see `core.timeline`."""


def keys(
    at_ns: NDArray[np.int64], known: NDArray[np.bool_], clock: Clock
) -> tuple[NDArray[np.int64], Clock]:
    """Tell at which time of their partition rows happen.

    Args:
        at_ns: `(n,) int64`; their stamps in the order of the partition, ns since the epoch.
        known: `(n,) bool`; whether a row has a stamp of its own. One that has none happens together
            with the one before it.
        clock: `core.timeline.START`, or what was returned for the rows before them.

    Returns:
        `(n,) int64`, never falling; and the state after them.
    """
    settled, after = settle(at_ns[known], clock)
    return np.concatenate([[clock[0]], settled])[np.cumsum(known)], after


@dataclass(slots=True)
class _Piece(Generic[B]):
    """What is left of a block: rows from `at` on."""

    keys: NDArray[np.int64]
    block: B
    at: int = 0


@dataclass(frozen=True, slots=True)
class Taken(Generic[B]):
    """Rows in merged order, as parts of blocks.

    Attributes:
        parts: Partition, block, and the slice of its rows.
        order: `(n,) int64`; the merged order of the rows of all parts laid one after another.
    """

    parts: list[tuple[int, B, slice]]
    order: NDArray[np.int64]


class Merge(Generic[B]):
    """The rows of some partitions that are waiting for those of others.

    Args:
        reached: For each partition the key of its last row that was merged before, or
            `core.timeline.UNSET`.
    """

    def __init__(self, reached: Sequence[int]) -> None:
        self._last = list(reached)
        self._pending: list[deque[_Piece[B]]] = [deque() for _ in reached]
        self._rows = [0] * len(self._last)
        self._open = set(range(len(self._last)))

    def add(self, partition: int, keys: NDArray[np.int64], block: B) -> None:
        """Append rows of a partition.

        Args:
            partition: Its number, from 0; not exhausted.
            keys: `(n,) int64`; never falling, nor below what was added before.
            block: What holds the rows.
        """
        if keys.size:
            self._last[partition] = int(keys[-1])
            self._pending[partition].append(_Piece(keys, block))
            self._rows[partition] += keys.size

    def exhaust(self, partition: int) -> None:
        """Say that a partition has no more rows."""
        self._open.discard(partition)

    def rows(self, partition: int) -> int:
        """Return how many rows of a partition wait."""
        return self._rows[partition]

    def ended(self, partition: int) -> bool:
        """Tell whether all rows of a partition were taken and no more come."""
        return not self._rows[partition] and partition not in self._open

    @property
    def done(self) -> bool:
        """Whether all rows of all partitions were taken."""
        return not self._open and not any(self._rows)

    def take(self, rows_max: int) -> Taken[B] | None:
        """Take the next rows of the merged order.

        Args:
            rows_max: Most rows taken, at least 1.

        Returns:
            The rows whose place is certain, at most `rows_max`; `None` when there is none.
        """
        pieces = self._certain(rows_max)
        if not pieces:
            return None
        sizes = np.array([stop - piece.at for _, piece, stop in pieces])
        merged = np.concatenate([piece.keys[piece.at : stop] for _, piece, stop in pieces])
        # They lie by partition and place, so that a stable sort leaves ties in the right order.
        order = np.argsort(merged, kind="stable")[:rows_max]
        of = np.repeat(np.arange(len(pieces)), sizes)[order]
        counts = np.bincount(of, minlength=len(pieces))
        moved = (np.cumsum(sizes) - sizes) - (np.cumsum(counts) - counts)
        parts = []
        for (partition, piece, _), count in zip(pieces, counts.tolist(), strict=True):
            if count:
                parts.append((partition, piece.block, slice(piece.at, piece.at + count)))
                self._advance(partition, piece, count)
        return Taken(parts, order - moved[of])

    def _certain(self, rows_max: int) -> list[tuple[int, _Piece[B], int]]:
        """Return, by partition and place, pieces and where what is certain of each stops."""
        bound = min(((self._last[p], p) for p in self._open), default=None)
        found = []
        for partition, pieces in enumerate(self._pending):
            left = rows_max
            for piece in pieces:
                stop = piece.keys.size
                if bound is not None and (int(piece.keys[-1]), partition) > bound:
                    side = "right" if partition <= bound[1] else "left"
                    stop = int(np.searchsorted(piece.keys, bound[0], side))  # type: ignore[call-overload]  # a Literal of two
                stop = min(stop, piece.at + left)
                if stop > piece.at:
                    found.append((partition, piece, stop))
                    left -= stop - piece.at
                if stop < piece.keys.size:
                    break
        return found

    def _advance(self, partition: int, piece: _Piece[B], count: int) -> None:
        piece.at += count
        self._rows[partition] -= count
        if piece.at == piece.keys.size:
            # Pieces of a partition are taken in their order: it is the first.
            self._pending[partition].popleft()
