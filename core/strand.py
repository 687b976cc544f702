"""One partition on its way into the merge: its rows in order of time, as far as a window shows.

Several shards, workers or programs write into a partition, each in batches: what is next to each
other there may lie seconds apart. Read as they lie, most rows would be late (`models.features`).

Laws:

1. The order is a function of what the partition holds, not of how it came: from the place where a
   block begins the same blocks follow, and in each the same rows in the same order.
2. Rows of one key keep their order.
3. A block ends where nothing in sight after it is earlier than anything in it, if there is such a
   place; rows that lie in order stay as they lie.
4. What is waited for is bounded, in rows and in bytes.

A row that lies further from its place than a window reaches stays late, and is counted as such.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from core.kernels import A_i8, A_u8, i8, kernel, none
from core.merge import Clock, keys
from core.readings import Readings, joined
from core.timeline import START, UNSET

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOWS_ROWS = 65_536
"""Rows of all partitions that are looked at together. What is written in one go is spread over
them, and so are the windows."""
WINDOW_ROWS_MIN = 4_096
"""Rows of one partition, however many there are."""
WINDOWS_BYTES = 32 << 20
"""Bytes of their records, likewise; a window ends with the row that reaches them."""
WINDOW_BYTES_MIN = 1 << 20


class Window(NamedTuple):
    """How much of a partition is looked at together.

    Attributes:
        rows: Most rows, at least 2.
        bytes: Bytes of their records, about.
    """

    rows: int
    bytes: int


def window_of(partitions: int) -> Window:
    """Return how much of each of some partitions is looked at together."""
    return Window(
        max(WINDOW_ROWS_MIN, WINDOWS_ROWS // max(1, partitions)),
        max(WINDOW_BYTES_MIN, WINDOWS_BYTES // max(1, partitions)),
    )


@kernel(none(A_u8, A_u8, A_i8, A_i8))
def _hold(key_hi: Any, key_lo: Any, by_key: Any, time_ns: Any) -> None:
    """Let no row happen before one of its key that lies before it; `time_ns` is changed.

    Args:
        key_hi: `(n,) uint64`; keys of the rows.
        key_lo: `(n,) uint64`; likewise.
        by_key: `(n,) int64`; the rows by key, those of one key as they lie.
        time_ns: `(n,) int64`; when the rows happen.
    """
    for i in range(1, by_key.size):
        a = by_key[i - 1]
        b = by_key[i]
        if key_hi[a] == key_hi[b] and key_lo[a] == key_lo[b] and time_ns[b] < time_ns[a]:
            time_ns[b] = time_ns[a]


class Place(NamedTuple):
    """Where a block of a partition begins.

    Attributes:
        offset: Offset of the message that its first record is in.
        row: Number of that record in the message.
        read: State of the timeline of the partition as it lies, before it.
        merged: State of the timeline of the partition as it is merged, before it.
    """

    offset: int
    row: int = 0
    read: Clock = START
    merged: Clock = START


@dataclass(slots=True)
class _Block:
    """A block that was handed out: where it begins and ends, its rows, those handed on."""

    begin: Place
    end: Place
    rows: int
    seen: int


class Strand:
    """The rows of one partition, from messages to blocks.

    Args:
        place: Where its next block begins.
        seen: Rows of that block that were handed on before.
        window: How much of it is waited for.
    """

    def __init__(self, place: Place, seen: int, window: Window) -> None:
        self._next, self._skip, self._window = place, seen, window
        self._parts: list[Readings] = []
        self._count = self._bytes = 0
        self._is_whole = False
        self._blocks: deque[_Block] = deque()

    def add(self, rows: Readings) -> None:
        """Append rows, which follow those before; records before the place are left out."""
        offset, row = self._next.offset, self._next.row
        if row and not self._parts:
            is_before = (rows.next_offset == offset) & (rows.next_row <= row)
            rows = rows.take(np.flatnonzero(~is_before))
        if len(rows):
            self._parts.append(rows)
            self._count += len(rows)
            self._bytes += int(rows.length.sum())

    def end(self) -> None:
        """Say that no more rows come."""
        self._is_whole = True

    @property
    def is_spent(self) -> bool:
        """Whether all rows there will ever be were handed out."""
        return self._is_whole and not self._count

    @property
    def place(self) -> tuple[Place, int]:
        """The place where the block begins that is being handed on, and its rows handed on."""
        if self._blocks:
            return self._blocks[0].begin, self._blocks[0].seen
        return self._next, self._skip

    @property
    def reached(self) -> int:
        """About the offset up to which rows were handed on."""
        if not self._blocks:
            return self._next.offset
        block = self._blocks[0]
        span = block.end.offset - block.begin.offset
        return block.begin.offset + span * block.seen // block.rows

    def hand_on(self, count: int) -> None:
        """Note that the next rows of those handed out were handed on."""
        while count:
            block = self._blocks[0]
            some = min(count, block.rows - block.seen)
            block.seen += some
            count -= some
            if block.seen == block.rows:
                self._blocks.popleft()

    def blocks(self) -> Iterator[Readings]:
        """Yield the blocks that can be told, their merge keys in `clock_ns`."""
        while self._is_due():
            rows = self._parts[0] if len(self._parts) == 1 else joined(self._parts)
            # More than a window may have come: what is seen of it must not depend on that.
            size, half = self._view(rows)
            time_ns = _times(rows.take(slice(0, size)), self._next.read)
            count = _cut(time_ns, half)
            block = rows.take(slice(0, count))
            self._parts = [rows.take(slice(count, None))] if count < len(rows) else []
            self._count -= count
            self._bytes -= int(block.length.sum())
            yield self._straightened(block, time_ns[:count])

    def _is_due(self) -> bool:
        """Tell whether a window is full, or will not become any fuller."""
        is_full = self._count >= self._window.rows or self._bytes >= self._window.bytes
        return is_full or (self._is_whole and self._count > 0)

    def _view(self, rows: Readings) -> tuple[int, int]:
        """Return the rows of the next window, and the most of them that make a block."""
        ends = np.cumsum(rows.length[: self._window.rows], dtype=np.int64)
        size = min(ends.size, int(np.searchsorted(ends, self._window.bytes)) + 1)
        is_full = size == self._window.rows or int(ends[size - 1]) >= self._window.bytes
        return size, max(1, (size if is_full else self._window.rows) // 2)

    def _straightened(self, block: Readings, time_ns: NDArray[np.int64]) -> Readings:
        """Put a block in order of time, note where it lies, and leave out what was handed on."""
        begin, count = self._next, len(block)
        _, read = keys(block.at_ns, block.known, begin.read)
        last = (int(block.next_offset[-1]), int(block.next_row[-1]))
        if (np.diff(time_ns) < 0).any():
            by_key = np.lexsort((block.key_lo, block.key_hi))
            _hold(block.key_hi, block.key_lo, by_key, time_ns := time_ns.copy())
            block = block.take(np.argsort(time_ns, kind="stable"))
        merge_ns, merged = keys(block.at_ns, block.known, begin.merged)
        self._next = Place(*last, read, merged)
        seen, self._skip = self._skip, 0
        self._blocks.append(_Block(begin, self._next, count, seen))
        return replace(block, clock_ns=merge_ns).take(slice(seen, None))


def _times(rows: Readings, clock: Clock) -> NDArray[np.int64]:
    """Return when rows happen, as far as that can be meant (`core.timeline`).

    A row without a time of its own happens with the one before it.
    """
    clock_ns, _ = keys(rows.at_ns, rows.known, clock)
    known = np.where(rows.known, np.arange(len(rows)), -1)
    last = np.maximum.accumulate(known)
    own = np.minimum(rows.at_ns, clock_ns)
    return np.where(last >= 0, own[last], max(clock[0], UNSET))


@kernel(i8(A_i8, A_i8, i8, i8))
def _last_clean(latest: Any, earliest: Any, begin: Any, end: Any) -> Any:
    """Return the last cut that nothing after it is earlier than anything before; else `end`."""
    for cut in range(end, begin - 1, -1):
        if latest[cut - 1] <= earliest[cut]:
            return cut
    return end


def _cut(time_ns: NDArray[np.int64], half: int) -> int:
    """Return how many rows of a window make a block: half of it, or fewer where that is clean."""
    if time_ns.size <= half:
        return time_ns.size
    latest = np.maximum.accumulate(time_ns)
    earliest = np.ascontiguousarray(np.minimum.accumulate(time_ns[::-1])[::-1])
    return int(_last_clean(latest, earliest, max(1, half // 2), half))
