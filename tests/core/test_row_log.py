"""The log of a table against the table itself: what is written, kept, and read back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import core.row_log
from core.dam import Dam
from core.keytable import KeyTable, find, find_or_insert, remove
from core.packing import Columns, unpack
from core.row_log import COPY_SLOTS, LOG_ROWS_PER_ROW, RECORDS_MAX, RowLog
from tests.frames import frame_batch
from tests.logs import Log


class Tally:
    """A core that counts touches of keys, and remembers what was true when a key came."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.table = KeyTable.create(capacity, 1, seed)
        self.touches = np.zeros((capacity, 2))
        self.born = np.zeros(capacity, np.int64)
        self.now = 0

    def touch(self, key: int) -> None:
        self.now += 1
        slot, _, fresh = find_or_insert(self.table.arrays(), np.array([key], np.uint64))
        if fresh:
            self.born[slot], self.touches[slot] = self.now, 0.0
        self.touches[slot] += (1.0, 1.0 / self.now)

    def remove(self, key: int) -> None:
        arrays = self.table.arrays()
        remove(arrays, find(arrays, np.array([key], np.uint64)))

    def touched_columns(self, slots: np.ndarray) -> Columns:
        return {"touches": self.touches[slots]}

    def whole_columns(self, slots: np.ndarray) -> Columns:
        return {"born": self.born[slots], "key": self.table.keys[slots]}

    def load(self, slots: np.ndarray, columns: Columns) -> None:
        if slots.size:
            self.table.place(columns["key"], slots)
            self.touches[slots], self.born[slots] = columns["touches"], columns["born"]

    def rows(self) -> list[tuple[int, ...]]:
        """All there is, the key touched longest ago first."""
        return [
            (int(self.table.keys[s, 0]), int(self.born[s]), *self.touches[s].tolist())
            for s in self.table.slots()
        ]


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let passes begin often and take many records."""
    with monkeypatch.context() as patch:
        patch.setattr(core.row_log, "COPY_SLOTS", 2)
        patch.setattr(core.row_log, "RECORDS_MAX", 7)
        yield


STEPS = st.lists(
    st.tuples(st.sampled_from("ttttttrwwwx"), st.integers(0, 11)), min_size=1, max_size=120
)


@pytest.mark.usefixtures("short_steps")
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 9), STEPS, st.integers(0, (1 << 64) - 1))
def test_records_put_together_are_the_table(
    capacity: int, steps: list[tuple[str, int]], seed: int
) -> None:
    """After any touches, removals, passes and restarts, with old records gone when they may."""
    live = Tally(capacity)
    rows, log = RowLog(live), Log()
    for kind, key in [*steps, ("x", 0)]:
        if kind == "t":
            live.touch(key)
        elif kind == "r":
            live.remove(key)
        else:
            log.write(rows)
            assert rows.unsaved == 0
            again = Tally(capacity, seed)
            other = RowLog(again)
            log.read(other)
            assert again.rows() == live.rows()
            again.now = live.now
            if kind == "x":
                live, rows = again, other


def busy(capacity: int, keys: int) -> tuple[Tally, RowLog, Log]:
    """A table with so many keys, all written."""
    live = Tally(capacity)
    for key in range(keys):
        live.touch(key)
    rows, log = RowLog(live), Log()
    log.write(rows)
    return live, rows, log


def test_a_record_costs_what_was_touched() -> None:
    """Of 5,000 keys one touched, none touched, and one removed: next to nothing each time."""
    live, rows, log = busy(5000, 5000)
    whole = len(log.records[0][1])
    live.touch(77)
    assert 0 < log.write(rows) < 400 < whole / 20
    assert log.write(rows) == 0
    live.remove(78)
    assert 0 < log.write(rows) < 400
    record = unpack(log.records[-1][1])
    assert (record["slots"].size, record["gone"].tolist()) == (0, [78])
    again = Tally(5000)
    log.read(RowLog(again))
    assert again.rows() == live.rows()


def test_keys_are_written_once_in_a_pass() -> None:
    """Touched again, a row comes without its key, until a pass copies it forward."""
    live, rows, log = busy(500, 500)
    wholes = []
    for _ in range(60):
        for key in range(500):
            live.touch(key)
        log.write(rows)
        wholes.append(int(unpack(log.records[-1][1])["whole"].sum()))
    assert set(wholes) == {0, 500}
    assert wholes.count(500) <= 60 * 500 // (LOG_ROWS_PER_ROW * 500 + COPY_SLOTS) + 1
    again = Tally(500)
    log.read(RowLog(again))
    assert again.rows() == live.rows()


@pytest.mark.usefixtures("short_steps")
def test_the_log_is_bounded_and_ends() -> None:
    """However long it goes on, records are few; and an idle table writes none."""
    rng = np.random.default_rng(1)
    live, rows, log = busy(64, 64)
    for _ in range(400):
        for key in rng.integers(0, 90, 5).tolist():
            live.touch(key)
        log.write(rows)
        # A pass of 32 records, after 7 records or 130 rows; the one before is kept meanwhile.
        assert len(log.records) <= 2 * (32 + 26 + 7)
    assert rows.keep_from > 300
    for _ in range(100):
        log.write(rows)
    before = rows.version
    for _ in range(100):
        log.write(rows)
    assert rows.version == before


def test_a_pass_begins_after_many_small_records() -> None:
    """A table of which one key is touched at a time does not leave a log without end."""
    live, rows, log = busy(2000, 2000)
    for _ in range(2 * RECORDS_MAX):
        live.touch(5)
        log.write(rows)
    assert rows.keep_from > 1
    assert len(log.records) <= RECORDS_MAX + 2


def test_a_resumed_log_is_copied_forward_at_once() -> None:
    """What an earlier run wrote is not needed any more after the first pass of the next."""
    live, rows, log = busy(50, 50)
    live.touch(1)
    log.write(rows)
    again = Tally(50)
    other = RowLog(again)
    log.read(other)
    again.touch(2)
    log.write(other)
    assert other.keep_from == 3
    third = Tally(50)
    log.read(RowLog(third))
    assert third.rows() == again.rows()


def test_owed_grows_with_what_is_touched_and_ends_with_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An estimate of the next record: none without arrivals, and never of more than there is."""
    live, rows, log = busy(1000, 600)
    assert rows.owed(0) == 0
    for key in range(400):
        live.touch(key)
    assert rows.unsaved == 400
    unseen = rows.owed(0)
    assert unseen < rows.owed(100) < rows.owed(600) == rows.owed(10_000)
    monkeypatch.setattr(core.row_log, "LOOK_ROWS", 300)
    rows.look()
    owed = rows.owed(0)
    assert owed < rows.owed(100) < rows.owed(600) == rows.owed(10_000)
    assert owed / 4 < log.write(rows) <= unseen


def test_a_flood_of_new_keys_is_seen_coming() -> None:
    """After rows that took next to nothing, new ones are not taken to be as cheap."""
    rng = np.random.default_rng(1)
    dam = Dam(
        rate_hz=10**6, burst=10**6, queue_len_max=1, queue_bytes_max=1000,
        device_rate_hz=1000, device_burst=1000, devices_max=1 << 17,
    )  # fmt: skip
    rows, log = RowLog(dam), Log()

    def hear(keys: np.ndarray, at_ns: int) -> tuple[int, int]:
        for part in np.split(keys, 5):
            dam.arrive(frame_batch(at_ns=at_ns + np.zeros(part.size), key_hi=part, key_lo=part))
            rows.look()
        return rows.owed(0), log.write(rows)

    known = rng.integers(0, 1 << 60, 50_000)
    cheap = min(hear(known, second * 10**9)[1] for second in range(3))
    owed, written = hear(rng.integers(0, 1 << 60, 50_000), 3 * 10**9)
    assert written > 20 * cheap
    assert written <= owed < 4 * written


@pytest.mark.parametrize("damage", ["first", "middle", "capacity", "junk"])
def test_what_is_not_all_of_it_is_refused(damage: str) -> None:
    """Without the record that holds a key, or of another table, there is a `ValueError`."""
    live, rows, log = busy(100, 90)
    live.touch(1000)
    log.write(rows)
    for key in [*range(90), 1000]:
        live.touch(key)
    log.write(rows)
    if damage == "first":
        del log.records[0]
    elif damage == "middle":
        del log.records[1]
    elif damage == "junk":
        log.records[2] = (3, b"junk")
    other = Tally(99 if damage == "capacity" else 100)
    with pytest.raises(ValueError, match=r"keys|columns"):
        log.read(RowLog(other))
