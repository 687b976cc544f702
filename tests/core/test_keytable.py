"""The bounded key table against an `OrderedDict` that says what LRU means."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.keytable import (
    FREE,
    HOME,
    NEWER,
    NEWEST,
    OLDER,
    OLDEST,
    KeyTable,
    find,
    find_or_insert,
    find_or_insert_pair,
    oldest,
    remove,
)
from tests.plain import printed

MAX = (1 << 64) - 1
Key = tuple[int, ...]

words = st.one_of(st.integers(0, 5), st.integers(0, MAX), st.sampled_from([1 << 32, 1 << 63, MAX]))
seeds = st.integers(0, MAX)


def row(key: Key) -> np.ndarray:
    return np.array(key, np.uint64)


def keys_of(table: KeyTable) -> list[Key]:
    """The live keys, the one touched longest ago first."""
    return [tuple(int(w) for w in table.keys[slot]) for slot in table.slots()]


def check(table: KeyTable) -> None:
    """Hold every invariant of the arrays."""
    slots = table.slots().tolist()
    assert len(set(slots)) == len(slots) == len(table)
    assert table.index.size >= 2 * table.capacity
    assert sorted((table.index[table.index > 0] - 1).tolist()) == sorted(slots)
    ends = [-1, *slots, -1]
    for i, slot in enumerate(slots):
        assert table.links[slot, OLDER] == ends[i]
        assert table.links[slot, NEWER] == ends[i + 2]
        assert 0 <= table.links[slot, HOME] < table.index.size
        assert find(table.arrays(), table.keys[slot]) == slot
    assert (table.state[OLDEST], table.state[NEWEST]) == (ends[1], ends[-2])
    free = table.state[FREE]
    while free >= 0:
        assert free not in slots
        free = table.links[free, NEWER]


class Model:
    """LRU as everybody would write it, with a value that remembers when a key was inserted."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: OrderedDict[Key, int] = OrderedDict()
        self.touched: set[Key] = set()  # since the last changes()

    def touch(self, key: Key, value: int) -> tuple[int, Key | None]:
        self.touched.add(key)
        if key in self.rows:
            self.rows.move_to_end(key)
            return self.rows[key], None
        evicted = None
        if len(self.rows) == self.capacity:
            evicted, _ = self.rows.popitem(last=False)
        self.rows[key] = value
        return value, evicted


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[str, Key]]]:
    capacity, width = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 5]))
    pool = draw(st.lists(st.tuples(*[words] * width), min_size=1, max_size=16, unique=True))
    kinds = st.sampled_from(["touch", "touch", "touch", "remove", "expire", "changes", "place"])
    steps = draw(st.lists(st.tuples(kinds, st.sampled_from(pool)), max_size=80))
    return capacity, width, steps


def check_changes(table: KeyTable, model: Model, before: dict[int, Key]) -> dict[int, Key]:
    """Ask what changed, hold it against the model, and return the key of each slot."""
    after = dict(zip(table.slots().tolist(), keys_of(table), strict=True))
    counts = (0, table.unsaved // 2, table.unsaved)
    lately = [table.recent(count) for count in counts]
    touched, fresh, gone = table.changes()
    for (slots, is_fresh), count in zip(lately, counts, strict=True):
        first = touched.size - count
        assert slots.tolist() == touched[first:].tolist()
        assert is_fresh.tolist() == fresh[first:].tolist()
    assert [after[slot] for slot in touched.tolist()] == [
        key for key in model.rows if key in model.touched
    ]
    assert {s for s, key in after.items() if before.get(s) != key} <= set(touched[fresh].tolist())
    assert len(set(gone.tolist())) == gone.size
    assert before.keys() - after.keys() <= set(gone.tolist())
    assert not after.keys() & set(gone.tolist())
    model.touched.clear()
    assert [each.size for each in table.changes()] == [0, 0, 0]
    return after


@settings(max_examples=150, deadline=None)
@given(histories(), seeds, seeds)
def test_table_is_an_lru(
    history: tuple[int, int, list[tuple[str, Key]]], seed: int, other: int
) -> None:
    """Any history of touches, removals and restorations equals the model's, whatever the seed."""
    capacity, width, steps = history
    table, model = KeyTable.create(capacity, width, seed), Model(capacity)
    values = np.zeros(capacity, np.int64)
    before: dict[int, Key] = {}
    for now, (kind, key) in enumerate(steps):
        arrays = table.arrays()
        if kind == "touch":
            slot, evicted, fresh = find_or_insert(arrays, row(key))
            if fresh:
                values[slot] = now
            value, lost = model.touch(key, now)
            assert values[slot] == value
            assert fresh == (value == now)
            assert evicted == (lost is not None)
            assert lost is None or lost == tuple(int(w) for w in table.evicted)
        elif kind == "remove":
            slot = find(arrays, row(key))
            assert (slot >= 0) == (key in model.rows)
            assert remove(arrays, slot) == (model.rows.pop(key, None) is not None)
            assert find(arrays, row(key)) == -1
        elif kind == "expire":
            slot = oldest(arrays)
            assert (slot >= 0) == bool(model.rows)
            if slot >= 0:
                assert model.rows.popitem(last=False)[1] == values[slot]
                assert remove(arrays, slot)
        elif kind == "changes":
            before = check_changes(table, model, before)
        else:
            slots = table.slots()
            rows, table = table.keys[slots], KeyTable.create(capacity, width, other)
            table.place(rows, slots)
            before = dict(zip(slots.tolist(), keys_of(table), strict=True))
            model.touched.clear()
        assert keys_of(table) == list(model.rows)
        assert table.unsaved == len(model.touched & set(model.rows))
        assert values[table.slots()].tolist() == list(model.rows.values())
        check(table)


def churn(seed: int) -> list[tuple[int, bool, bool]]:
    """A long history of a table of pairs: results of every touch, with removals between."""
    rng = np.random.default_rng(3)
    table = KeyTable.create(64, 2, seed)
    arrays, seen = table.arrays(), []
    for i, key in enumerate(rng.integers(0, 150, 3000).astype(np.uint64)):
        slot, evicted, fresh = find_or_insert_pair(arrays, key * np.uint64(1 << 20), key)
        seen.append((int(slot), bool(evicted), bool(fresh)))
        if i % 3 == 0:
            remove(arrays, int(rng.integers(-2, 70)))
    check(table)
    return seen


def test_many_removals_leave_the_index_whole() -> None:
    """After thousands of touches and removals all invariants hold, and no result shows the seed."""
    assert churn(1) == churn(2) == churn(MAX)


def test_plain_python_gives_the_same() -> None:
    """With `NUMBA_DISABLE_JIT=1` the same history gives the same results, and no warning."""
    assert printed(__file__) == str(churn(5))


def test_chosen_keys_do_not_pile_up() -> None:
    """Keys that differ in few bits, as an attacker or a subnet has them, spread over the index."""
    for seed in range(4):
        for shift in (0, 16, 32, 48):
            table = KeyTable.create(4096, 2, seed)
            for i in range(4096):
                find_or_insert_pair(table.arrays(), np.uint64(i << shift & MAX), np.uint64(0))
            homes = np.bincount(table.links[:, HOME], minlength=table.index.size)
            assert homes.max() <= 12


def test_what_changed_costs_what_changed() -> None:
    """Of a full table only what was touched, replaced and removed since is told, in order."""
    table = KeyTable.create(1000, 1, 1)
    arrays = table.arrays()
    for key in range(1000):
        find_or_insert(arrays, row((key,)))
    table.changes()
    find_or_insert(arrays, row((7,)))
    slot, evicted, _ = find_or_insert(arrays, row((5000,)))
    find_or_insert(arrays, row((3,)))
    remove(arrays, find(arrays, row((9,))))
    touched, fresh, gone = table.changes()
    assert evicted
    assert touched.tolist() == [7, slot, 3]
    assert fresh.tolist() == [False, True, False]
    assert gone.tolist() == [9]


def test_arguments_out_of_bounds_are_refused() -> None:
    """Capacity, words, seed, and what is to be placed where are checked, each by name."""
    for name, arguments in {
        "capacity": (0, 2, 1), "words": (4, 0, 1), "seed": (4, 2, 1 << 64),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            KeyTable.create(*arguments)
    table = KeyTable.create(4, 2, 0)
    with pytest.raises(ValueError, match="rows"):
        table.place(np.zeros((1, 5), np.uint64), np.zeros(1, np.int64))
    for slots in ([0, 0], [4, 0], [-1, 0]):
        with pytest.raises(ValueError, match="slots"):
            table.place(np.zeros((2, 2), np.uint64), np.array(slots))


def test_removing_nothing_changes_nothing() -> None:
    """Slots out of range, never used or already free are refused."""
    table = KeyTable.create(4, 2, 9)
    arrays = table.arrays()
    assert oldest(arrays) == -1
    slot, _, _ = find_or_insert_pair(arrays, np.uint64(1), np.uint64(2))
    assert not any(remove(arrays, s) for s in (-1, slot + 1, 4, 1 << 40))
    assert remove(arrays, slot)
    assert not remove(arrays, slot)
    assert len(table) == 0
    check(table)


if __name__ == "__main__":
    print(churn(5))
