"""Batches: columns over an arena."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batches import FrameBatch, PacketBatch, RecordBatch, concat, gather
from tests.records import ROWS, Row, records_of


def frames(bodies: list[bytes], before: int = 7) -> FrameBatch:
    """Make frames with these bodies, lying apart in a larger arena."""
    arena = bytearray(before)
    start = []
    for body in bodies:
        start.append(len(arena))
        arena += body + b"\xff" * 3
    columns: dict[str, Any] = {
        name: np.arange(len(bodies)).astype(dtype) for name, dtype in FrameBatch.COLUMNS.items()
    }
    columns["body"] = np.array(start, np.int64)
    columns["body_len"] = np.array([len(b) for b in bodies], np.int32)
    return FrameBatch(arena=np.frombuffer(arena, np.uint8), **columns)


def bodies_of(batch: FrameBatch) -> list[bytes]:
    """Read the bodies back."""
    pairs = zip(batch.body.tolist(), batch.body_len.tolist(), strict=True)
    return [batch.arena[at : at + size].tobytes() for at, size in pairs]


BODIES = st.lists(st.binary(max_size=40), max_size=12)


@given(BODIES, BODIES)
def test_concat_keeps_rows_and_bodies_and_nothing_else(one: list[bytes], two: list[bytes]) -> None:
    """Joined batches hold the same rows in order over an arena of the bodies alone."""
    joined = concat([frames(one), frames(two)])
    assert bodies_of(joined) == one + two
    assert joined.arena.size == sum(map(len, one + two))
    assert joined.ordinal.tolist() == [*range(len(one)), *range(len(two))]


@given(BODIES, st.data())
def test_take_selects_rows_over_the_same_arena(bodies: list[bytes], data: st.DataObject) -> None:
    """Rows are selected by index without touching the bytes."""
    batch = frames(bodies)
    rows = data.draw(st.lists(st.sampled_from(range(len(bodies))))) if bodies else []
    taken = batch.take(np.array(rows, np.int64))
    assert bodies_of(taken) == [bodies[i] for i in rows]
    assert taken.arena is batch.arena


@given(st.lists(ROWS, max_size=8), st.data())
def test_take_selects_records_with_their_texts(rows: list[Row], data: st.DataObject) -> None:
    """Selected by index or by slice, records are those rows alone, in that order."""
    batch = records_of("t", rows)
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))))) if rows else []
    for some, which in (
        (np.array(chosen, np.int64), chosen),
        (slice(1, None), range(len(rows))[1:]),
    ):
        taken, want = batch.take(some), records_of("t", [rows[i] for i in which])
        for name in ("values", "keys", *RecordBatch.COLUMNS):
            assert getattr(taken, name).tolist() == getattr(want, name).tolist()


def test_pickle_leaves_the_arena_behind() -> None:
    """A pickled slice carries its own bodies, not those of its neighbours."""
    batch = frames([b"a" * 1000] * 1000)
    raw = pickle.dumps(batch.take(slice(3, 5)))
    back = pickle.loads(raw)
    assert len(raw) < 5000
    assert bodies_of(back) == [b"a" * 1000] * 2
    assert back.ordinal.tolist() == [3, 4]


def test_columns_are_checked() -> None:
    """A wrong dtype or length is refused where the batch is made."""
    good = frames([b"x", b"y"])
    columns = {name: getattr(good, name) for name in FrameBatch.COLUMNS}
    with pytest.raises(TypeError, match="at_ns"):
        FrameBatch(arena=good.arena, **(columns | {"at_ns": good.at_ns.astype(np.int32)}))
    with pytest.raises(ValueError, match="seq"):
        FrameBatch(arena=good.arena, **(columns | {"seq": good.seq[:1]}))


def test_arrow_shares_the_memory_of_the_columns() -> None:
    """Columns become Arrow arrays without a copy."""
    batch = PacketBatch(
        arena=np.zeros(9, np.uint8),
        start=np.arange(3),
        caplen=np.arange(3, dtype=np.int32),
        wirelen=np.arange(3, dtype=np.int32),
        at_ns=np.arange(3) * 1000,
        linktype=np.ones(3, np.int32),
        ordinal=np.arange(3),
        index=0,
        source=1,
    )
    table = batch.to_arrow()
    assert table.column("at_ns").to_pylist() == [0, 1000, 2000]
    assert table.column("at_ns").buffers()[1].address == batch.at_ns.ctypes.data


def test_record_values_and_keys_come_apart() -> None:
    """Values and keys are split at their ends."""
    batch = RecordBatch(
        topic="t",
        values=np.frombuffer(bytearray(b"onethree"), np.uint8),
        value_end=np.array([3, 3, 8]),
        keys=np.frombuffer(bytearray(b"ab"), np.uint8),
        key_end=np.array([1, 1, 2]),
        at_ns=np.zeros(3, np.int64),
        source=np.zeros(3, np.uint64),
        ordinal=np.zeros(3, np.int64),
        seq=np.zeros(3, np.uint32),
    )
    assert batch.value_list() == [b"one", b"", b"three"]
    assert batch.key_list() == [b"a", b"", b"b"]


def test_gather_copies_slices_in_order() -> None:
    """Slices of an arena are laid one after another."""
    arena = np.frombuffer(bytearray(b"0123456789"), np.uint8)
    out = gather(arena, np.array([7, 0, 3]), np.array([2, 0, 3], np.int32))
    assert out.tobytes() == b"78345"
