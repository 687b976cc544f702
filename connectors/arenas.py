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
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from core.batches import PacketBatch
from core.datagrams import Datagrams

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True, kw_only=True)
class Arena:
    """One arena under filling: room for bytes, and for a row of columns each.

    Attributes:
        memory: `uint8`; receives the bytes.
        rows: Rows used.
        used: Bytes used.
    """

    memory: NDArray[np.uint8]
    rows: int = 0
    used: int = 0

    # Column name → dtype; each column has as many rows as there may be.
    COLUMNS: ClassVar[dict[str, type]]


@dataclass(slots=True, kw_only=True)
class DatagramArena(Arena):
    """An arena for datagrams; its columns are those of `Datagrams`."""

    start: NDArray[np.int64]
    length: NDArray[np.int32]
    claimed_len: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    sender_hi: NDArray[np.uint64]
    sender_lo: NDArray[np.uint64]
    sport: NDArray[np.int32]
    dport: NDArray[np.int32]

    COLUMNS = Datagrams.COLUMNS

    def batch(self, index: int, kernel_dropped: int) -> Datagrams:
        """Return what was filled in, over this memory."""
        columns = {name: getattr(self, name)[: self.rows] for name in self.COLUMNS}
        return Datagrams(
            arena=self.memory[: self.used], index=index, kernel_dropped=kernel_dropped, **columns
        )


@dataclass(slots=True, kw_only=True)
class PacketArena(Arena):
    """An arena for packets; its columns are some of `PacketBatch`."""

    start: NDArray[np.int64]
    caplen: NDArray[np.int32]
    wirelen: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    linktype: NDArray[np.int32]

    COLUMNS = {  # noqa: RUF012  declared as a class variable in the base class
        name: PacketBatch.COLUMNS[name]
        for name in ("start", "caplen", "wirelen", "at_ns", "linktype")
    }

    def batch(self, index: int) -> PacketBatch:
        """Return what was filled in, over this memory, numbered from `index` on."""
        columns = {name: getattr(self, name)[: self.rows] for name in self.COLUMNS}
        ordinal = np.arange(index, index + self.rows)
        return PacketBatch(
            arena=self.memory[: self.used], ordinal=ordinal, index=index, source=0, **columns
        )


A = TypeVar("A", bound=Arena)
Layout = list[tuple[str, np.dtype[Any]]]


class Arenas(Generic[A]):
    """A fixed number of arenas: free ones wait here, others are with whoever refers to them."""

    def __init__(self, kind: type[A], count: int, rows: int, bytes_: int) -> None:
        """Set memory aside; the system gives it page by page, when it is first written.

        What came back last is lent first, so that a light load stays in few pages and in caches.

        Args:
            kind: What they are for.
            count: Number of arenas.
            rows: Rows of each.
            bytes_: Bytes of each.
        """
        self.count = count
        self._kind, self._layout = kind, _wide_first(kind)
        self._rows = rows
        size = _size(self._layout, rows, bytes_)
        self._free = deque(mmap.mmap(-1, size) for _ in range(count))
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

    def take(self, wait_s: float) -> A | None:
        """Return an empty arena, or `None` when none comes back within `wait_s` seconds."""
        try:
            self._back.get(timeout=wait_s)
        except Empty:
            return None
        memory = self._free.pop()
        whole = np.frombuffer(memory, np.uint8)
        weakref.finalize(whole, self._give_back, memory).atexit = False
        return _laid_out(self._kind, self._layout, whole, self._rows)

    def _give_back(self, memory: mmap.mmap) -> None:
        self._free.append(memory)
        self._back.put(None)


def scratch(kind: type[A], rows: int, bytes_: int) -> A:
    """Return an arena of its own, to be filled over and over; no batch is to be made of it."""
    layout = _wide_first(kind)
    return _laid_out(kind, layout, np.empty(_size(layout, rows, bytes_), np.uint8), rows)


def _wide_first(kind: type[Arena]) -> Layout:
    """Return the columns in an order in which each is aligned."""
    columns = ((name, np.dtype(dtype)) for name, dtype in kind.COLUMNS.items())
    return sorted(columns, key=lambda column: -column[1].itemsize)


def _size(layout: Layout, rows: int, bytes_: int) -> int:
    widths = sum(dtype.itemsize for _, dtype in layout)
    return rows * widths + -(-bytes_ // 8) * 8


def _laid_out(kind: type[A], layout: Layout, whole: NDArray[np.uint8], rows: int) -> A:
    """Divide memory into bytes and columns."""
    at = whole.size - _size(layout, rows, 0)
    columns: dict[str, Any] = {}
    memory = whole[:at]
    for name, dtype in layout:
        end = at + rows * dtype.itemsize
        columns[name], at = whole[at:end].view(dtype), end
    return kind(memory=memory, **columns)
