"""Arenas: memory lent to batches, which comes back by itself when nobody refers to it any more.

Laws:

1. There are never more arenas than at the start: memory is bounded whatever becomes of batches.
2. An arena is not written again while an array over it lives, so that a batch handed on never
   changes. Whoever keeps rows for long copies them (`core.batches.concat`), or keeps the arena.

Source: numpy, "Array interface": arrays over a buffer keep the first array over it as their base,
which is what is watched here.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(slots=True, kw_only=True)
class Arena:
    """One arena under filling: room for bytes, and for rows of columns.

    Attributes:
        memory: `uint8`; receives the bytes.
        columns: By name, in the order asked for; each has as many rows as there may be.
        rows: Rows used.
        used: Bytes used.
    """

    memory: NDArray[np.uint8]
    columns: dict[str, NDArray[Any]]
    rows: int = 0
    used: int = 0

    def filled(self) -> dict[str, Any]:
        """Return what was filled in, over this memory, as a batch takes it."""
        columns = {name: column[: self.rows] for name, column in self.columns.items()}
        return {"arena": self.memory[: self.used], **columns}


class Arenas:
    """A fixed number of arenas: free ones wait here, others are with whoever refers to them."""

    def __init__(self, columns: Mapping[str, type], count: int, rows: int, bytes_: int) -> None:
        """Set memory aside; the system gives it page by page, when it is first written.

        What came back last is lent first, so that a light load stays in few pages and in caches.

        Args:
            columns: Their columns: name → dtype.
            count: Number of arenas.
            rows: Rows of each.
            bytes_: Bytes of each.
        """
        self.count = count
        self._columns, self._rows = columns, rows
        self._free = deque(mmap.mmap(-1, _size(columns, rows, bytes_)) for _ in range(count))
        # One entry for each free arena, to wait on. An arena may be let go of anywhere, inside a
        # call of this queue too: its `put` and the deque's `append` can be interrupted by
        # themselves, those of other queues would wait for their own lock.
        self._back: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._back.put(None)

    @property
    def free(self) -> int:
        """The number of arenas nobody uses."""
        return self._back.qsize()

    def take(self, wait_s: float) -> Arena | None:
        """Return an empty arena, or `None` when none comes back within `wait_s` seconds."""
        try:
            self._back.get(timeout=wait_s)
        except Empty:
            return None
        memory = self._free.pop()
        whole = np.frombuffer(memory, np.uint8)
        weakref.finalize(whole, self._give_back, memory).atexit = False
        return _laid_out(self._columns, whole, self._rows)

    def _give_back(self, memory: mmap.mmap) -> None:
        self._free.append(memory)
        self._back.put(None)


def scratch(columns: Mapping[str, type], rows: int, bytes_: int) -> Arena:
    """Return an arena of its own, to be filled over and over; no batch is to be made of it."""
    return _laid_out(columns, np.empty(_size(columns, rows, bytes_), np.uint8), rows)


def _size(columns: Mapping[str, type], rows: int, bytes_: int) -> int:
    widths = sum(np.dtype(dtype).itemsize for dtype in columns.values())
    return rows * widths + -(-bytes_ // 8) * 8


def _laid_out(columns: Mapping[str, type], whole: NDArray[np.uint8], rows: int) -> Arena:
    """Divide memory into bytes and columns, the widest first, so that each is aligned."""
    at = whole.size - _size(columns, rows, 0)
    found: dict[str, NDArray[Any]] = dict.fromkeys(columns, whole)
    memory = whole[:at]
    for name, dtype in sorted(columns.items(), key=lambda each: -np.dtype(each[1]).itemsize):
        end = at + rows * np.dtype(dtype).itemsize
        found[name], at = whole[at:end].view(dtype), end
    return Arena(memory=memory, columns=found)
