"""Window features against dictionaries: the same numbers, bit for bit, however arrivals are cut."""

from __future__ import annotations

import functools
import math
import operator
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batches import FrameBatch
from core.kernels import mix
from core.row_log import RowLog
from models.features import (
    NAMES,
    POPULATION_NAMES,
    UNITS,
    RowBatch,
    WindowFeatures,
    natural,
)
from models.window_kernels import ALPHA, SPREAD_OF_MIN, WINDOWS_MIN
from tests.frames import SECOND_NS, frame_batch, parts
from tests.logs import Log

WINDOW_NS, IDLE_S, START_NS = 100_000_000, 2, 1_700_000_000 * SECOND_NS
Arrival = tuple[int, int, int, int, int]
"""at_ns, key, peer, destination port, size."""
NOTHING = float("nan")


def frames(arrivals: list[Arrival]) -> FrameBatch:
    """Return arrivals as a batch."""
    at, key, peer, dport, size = zip(*arrivals, strict=True)
    return frame_batch(
        at_ns=at, key_hi=np.array(key) % 3, key_lo=key, peer_lo=peer, dport=dport, size=size,
        source=np.array(key) % 2,
    )  # fmt: skip


def total(values: Iterable[float]) -> float:
    """Add from left to right; Python's own `sum` compensates for rounding since 3.12."""
    return functools.reduce(operator.add, values, 0.0)


def spread(values: list[float]) -> float:
    """Return the standard deviation by the sums a window keeps."""
    if len(values) < SPREAD_OF_MIN:
        return NOTHING
    mean = total(values) / len(values)
    return math.log1p(math.sqrt(max(total(v * v for v in values) / len(values) - mean * mean, 0.0)))


def distinct(bits: set[int]) -> float:
    """Estimate by linear counting over 64 bits."""
    return math.log1p(64.0 * math.log(64.0 / max(64 - len(bits), 0.5)))


@dataclass
class Key:
    """What is remembered of a key."""

    last: int
    past: dict[str, tuple[float, int]] = field(default_factory=dict)

    def shift(self, name: str, value: float) -> float:
        mean, seen = self.past.get(name, (0.0, 0))
        self.past[name] = (mean + (value - mean) * (ALPHA if seen else 1.0), seen + 1)
        return value - mean if seen >= WINDOWS_MIN else NOTHING


@dataclass
class Slow:
    """The laws of the windows, one sentence a line."""

    keys_max: int
    now: int = 0
    window: int = -1
    known: int = 0
    new: int = 0
    keys: OrderedDict[int, Key] = field(default_factory=OrderedDict)
    open: dict[int, list[tuple[int, int, float | None, Arrival]]] = field(default_factory=dict)
    groups: list[tuple[int, list[float], list[tuple[Any, ...]]]] = field(default_factory=list)

    def arrive(self, ordinal: int, arrival: Arrival) -> None:
        at, key = arrival[:2]
        self.now = max(self.now, at)
        if self.now // WINDOW_NS != self.window or len(self.open) == self.keys_max:
            self.close()
            self.window = self.now // WINDOW_NS
            while self.keys:
                oldest, state = next(iter(self.keys.items()))
                if self.now - state.last < IDLE_S * SECOND_NS:
                    break
                del self.keys[oldest]
            self.known = len(self.keys)
        gap = None
        if key in self.keys:
            gap = (self.now - self.keys[key].last) * 1e-3
        else:
            self.new += 1
            if len(self.keys) == self.keys_max:
                self.keys.popitem(last=False)
            self.keys[key] = Key(self.now)
        self.keys.move_to_end(key)
        self.keys[key].last = self.now
        self.open.setdefault(key, []).append((ordinal, self.now, gap, arrival))

    def close(self) -> None:
        if not self.open:
            return
        rows = [(*self.row(key, seen),) for key, seen in self.open.items()]
        growth = math.log1p(self.new / self.known) if self.known else NOTHING
        population = [math.log1p(len(rows)), math.log1p(self.new), growth]
        self.groups.append((self.window * WINDOW_NS, population, rows))
        self.open, self.new = {}, 0

    def row(self, key: int, seen: list[tuple[int, int, float | None, Arrival]]) -> tuple[Any, ...]:
        gaps = [gap for _, _, gap, _ in seen if gap is not None]
        sizes = [float(arrival[4]) for *_, arrival in seen if arrival[4] > 0]
        peers = {int(mix(np.uint64(int(mix(np.uint64(a[2])))))) & 63 for *_, a in seen}
        ports = {int(mix(np.uint64(a[3]))) & 63 for *_, a in seen}
        rate = math.log1p(len(seen) * 1e9 / WINDOW_NS)
        size = math.log1p(total(sizes) / len(sizes)) if sizes else NOTHING
        state = self.keys[key]
        size_shift = state.shift("size", size) if sizes else NOTHING
        features = [
            rate, size, spread(sizes),
            math.log1p(total(gaps) / len(gaps)) if gaps else NOTHING, spread(gaps),
            distinct(peers), distinct(ports), state.shift("rate", rate), size_shift,
        ]  # fmt: skip
        return (features, key, len(seen), seen[0][1], seen[-1][1], key % 2, seen[0][0])


def reference(arrivals: list[Arrival], keys_max: int) -> list[Any]:
    """Return the groups the reference closes, and those open at the end."""
    slow = Slow(keys_max)
    for ordinal, arrival in enumerate(arrivals):
        slow.arrive(ordinal, arrival)
    slow.close()
    return slow.groups


def groups(batches: list[RowBatch | None]) -> list[Any]:
    """Return closed rows group by group, as the reference writes them."""
    found = []
    for b in batches:
        if b is None:
            continue
        rows = list(zip(b.features.tolist(), b.key_lo.tolist(), b.count.tolist(),
                        b.first_ns.tolist(), b.last_ns.tolist(), b.source.tolist(),
                        b.ordinal.tolist(), strict=True))  # fmt: skip
        assert (b.key_hi == b.key_lo % 3).all()
        begin = 0
        for end, window, population in zip(b.group_end.tolist(), b.window_ns.tolist(),
                                           b.population.tolist(), strict=True):  # fmt: skip
            found.append((window, population, rows[begin:end]))
            begin = end
        assert begin == len(b)
    return found


def windows(keys_max: int, *, track: bool = False, seed: int = 1) -> WindowFeatures:
    """Return windows without arrivals."""
    return WindowFeatures(
        window_ns=WINDOW_NS, keys_max=keys_max, key_idle_s=IDLE_S, seed=seed, track=track
    )


def same(found: list[Any], wanted: list[Any]) -> None:
    """Compare exactly, save that NaN equals NaN."""
    np.testing.assert_equal(found, wanted)


# Within a window, over its boundary, over many windows, over the idle time, and back.
MOVES = st.integers(0, 20_000_000) | st.sampled_from(
    [0, WINDOW_NS, 7 * WINDOW_NS, 3 * SECOND_NS, -WINDOW_NS, -SECOND_NS, 10**15]
)
ARRIVALS = st.lists(
    st.tuples(MOVES, st.integers(1, 6), st.integers(0, 9), st.integers(0, 9),
              st.integers(0, 1500) | st.just(0)),
    min_size=1, max_size=80,
).map(
    lambda moves: [
        (int(at), *rest)
        for at, (_, *rest) in zip(
            np.cumsum([START_NS] + [m[0] for m in moves])[1:].tolist(), moves, strict=True
        )
    ]
)  # fmt: skip
CUTS = st.lists(st.integers(0, 80), max_size=6)


@given(ARRIVALS, CUTS, st.integers(1, 7))
def test_any_arrivals_in_any_batches_are_the_rows_of_the_reference(
    arrivals: list[Arrival], cuts: list[int], keys_max: int
) -> None:
    """Gaps, steps back, eviction and boundaries inside batches, bit for bit."""
    live = windows(keys_max)
    found = [live.update(part) for part in parts(frames(arrivals), cuts)]
    assert live.keys <= keys_max
    same(groups([*found, live.finish()]), reference(arrivals, keys_max))


@given(ARRIVALS, st.integers(0, 80))
def test_rows_closed_in_a_prefix_are_those_of_the_whole(arrivals: list[Arrival], cut: int) -> None:
    """What comes later changes no window that has closed."""
    cut = max(1, min(cut, len(arrivals)))
    prefix = groups([windows(5).update(frames(arrivals[:cut]))])
    whole = groups([windows(5).update(frames(arrivals))])
    same(whole[: len(prefix)], prefix)


@given(ARRIVALS, CUTS, st.integers(0, 2**64 - 1))
def test_a_snapshot_goes_on_as_if_nothing_had_happened(
    arrivals: list[Arrival], cuts: list[int], seed: int
) -> None:
    """Restored under another seed, the windows close the same rows, those closed before too."""
    *begun, rest = parts(frames(arrivals), cuts)
    live, other = windows(4), windows(4, seed=seed)
    rows, log = RowLog(live), Log()
    for part in begun:
        live.update(part)
        log.write(rows)
    other.restore(live.snapshot())
    log.read(RowLog(other))
    assert other.keys == live.keys
    same(groups([other.update(rest), other.finish()]), groups([live.update(rest), live.finish()]))


def test_a_window_that_closes_touches_nothing() -> None:
    """Of 300 keys one speaks in the next window: one row is written, and all are restored."""
    rng = np.random.default_rng(1)

    def window(number: int, keys: int) -> FrameBatch:
        n = 4 * keys
        return frame_batch(
            at_ns=START_NS + number * WINDOW_NS + np.sort(rng.integers(0, WINDOW_NS, n)),
            key_hi=np.arange(n) % keys % 3, key_lo=np.arange(n) % keys,
            size=rng.integers(0, 900, n),
        )  # fmt: skip

    live, other, third = windows(400), windows(400, seed=3), windows(400, seed=4)
    rows, log = RowLog(live), Log()
    sizes = []
    for number, keys in enumerate([300, 300, 300, 1]):
        live.update(window(number, keys))
        sizes.append(log.write(rows))
    assert 0 < sizes[-1] < sizes[-2] / 10
    other.restore(live.snapshot())
    log.read(RowLog(other))
    third.restore(other.snapshot())
    log.read(RowLog(third))
    later = window(4, 300)
    told = [groups([each.update(later), each.finish()]) for each in (live, other, third)]
    same(told[1], told[0])
    same(told[2], told[0])


def test_rows_that_are_missing_are_refused() -> None:
    """Windows that say that rows are open, and a log that does not hold them, do not fit."""
    live = windows(8)
    rows, log = RowLog(live), Log()
    live.update(frames([(START_NS, 1, 1, 1, 9)]))
    log.write(rows)
    live.update(frames([(START_NS, 2, 1, 1, 9)]))
    other = windows(8)
    other.restore(live.snapshot())
    with pytest.raises(ValueError, match="not the 2 rows"):
        log.read(RowLog(other))


@given(ARRIVALS, CUTS)
def test_every_packet_is_traced_to_its_row(arrivals: list[Arrival], cuts: list[int]) -> None:
    """Each packet comes back once, with the row whose key and window are its own."""
    live = windows(4, track=True)
    batches = [live.update(part) for part in parts(frames(arrivals), cuts)]
    seen = []
    for b in [*batches, live.finish()]:
        if b is None:
            continue
        assert np.bincount(b.packet_row, minlength=len(b)).tolist() == b.count.tolist()
        for index, row in zip(b.packet_index.tolist(), b.packet_row.tolist(), strict=True):
            assert arrivals[index][1] == b.key_lo[row]
            assert b.ordinal[row] <= index
            seen.append(index)
    assert sorted(seen) == list(range(len(arrivals)))


def test_what_is_not_known_is_nan() -> None:
    """A single packet has no gap, no spread, no past and no known population; none is zero."""
    rows = windows(4).update(frames([(START_NS, 1, 1, 1, 0), (START_NS + WINDOW_NS, 1, 1, 1, 9)]))
    assert rows is not None
    known = dict(zip(NAMES, rows.features[0].tolist(), strict=True))
    assert {n for n, v in known.items() if math.isnan(v)} == {
        "size_mean", "size_spread", "gap_mean", "gap_spread", "rate_shift", "size_shift"
    }  # fmt: skip
    assert math.isnan(rows.population[0, POPULATION_NAMES.index("growth")])


def test_values_come_back_in_their_units() -> None:
    """Ten packets a window of 0.1 s are 100 packets/s; 1000 bytes are 1000 bytes."""
    arrivals = [(START_NS + i * 10_000_000, 1, i % 2, 1, 1000) for i in range(11)]
    rows = windows(4).update(frames(arrivals))
    assert rows is not None
    units = dict(zip(NAMES, UNITS, strict=True))
    values = {n: natural(j, float(rows.features[0, j])) for j, n in enumerate(NAMES)}
    assert units["rate"] == "packets/s"
    assert values["rate"] == pytest.approx(100.0)
    assert units["size_mean"] == "bytes"
    assert values["size_mean"] == pytest.approx(1000.0)
    assert units["size_spread"] == "bytes"
    assert values["size_spread"] == pytest.approx(0.0)
    assert units["gap_mean"] == "µs"
    assert values["gap_mean"] == pytest.approx(10_000.0)
    assert units["peers"] == "hosts"
    assert values["peers"] == pytest.approx(2.0, rel=0.02)
    assert natural(NAMES.index("rate_shift"), math.log(3.0)) == pytest.approx(3.0)


def test_every_packet_of_a_new_source() -> None:
    """Keys and rows stay within the table, and every packet is in a row that closed."""
    n, most = 20_000, 128
    live = windows(most)
    batch = frame_batch(at_ns=START_NS + np.arange(n), key_lo=np.arange(n), size=np.ones(n))
    rows = live.update(batch)
    assert rows is not None
    assert np.diff(rows.group_end).max() <= most
    last = live.finish()
    assert last is not None
    assert live.keys == most
    assert int(rows.count.sum()) + int(last.count.sum()) == n
    rows_log, log = RowLog(live), Log()
    assert log.write(rows_log) < most * 100


def test_no_arrivals_close_nothing() -> None:
    """Empty batches and an empty end have no rows."""
    live = windows(4)
    nothing = frames([(START_NS, 1, 1, 1, 1)]).take(slice(0, 0))
    assert live.update(nothing) is None
    assert live.finish() is None
