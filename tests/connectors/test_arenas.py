"""Arenas: lent, and back when the last array over them is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from connectors.arenas import Arenas
from core.datagrams import Datagrams

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_an_arena_comes_back_with_its_last_array() -> None:
    """Any slice of any column keeps an arena from being written again; nothing else does."""
    arenas = Arenas(Datagrams.COLUMNS, 1, rows=3, bytes_=13)
    arena = arenas.take(0)
    assert arena is not None
    arena.rows = arena.used = 2
    arena.columns["length"][:2] = 7
    batch = Datagrams(index=0, kernel_dropped=0, **arena.filled())
    kept = batch.take(slice(1, 2)).length
    assert arenas.take(0) is None
    del arena, batch
    assert arenas.free == 0
    assert kept.tolist() == [7]
    del kept
    assert arenas.free == 1


def test_columns_share_no_byte() -> None:
    """What is written to one column or to the bytes changes no other, whatever the sizes."""
    arena = Arenas(Datagrams.COLUMNS, 1, rows=5, bytes_=13).take(0)
    assert arena is not None
    parts: list[NDArray[Any]] = [arena.memory, *arena.columns.values()]
    for number, part in enumerate(parts):
        assert part.flags.aligned
        part[:] = number
    assert [np.unique(part).tolist() for part in parts] == [[n] for n in range(len(parts))]
    assert arena.memory.size >= 13
    assert {part.size for part in parts[1:]} == {5}
