"""The loops of `models.features`: arrivals into open rows, open rows into closed ones.

Laws: those of `models.features` and of `core.kernels`.

Source: EWMA as in J. S. Hunter, "The exponentially weighted moving average" (1986).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import (
    A2_f8,
    A2_i8,
    A2_u8,
    A_i4,
    A_i8,
    A_u8,
    Tuple,
    f8,
    i8,
    kernel,
    mix,
    none,
    u8,
)
from core.keytable import LIVE, TABLE, find_or_insert_pair, oldest, remove

FEATURES = 9
# Of the population: logarithms of keys and of keys never seen before, and its growth.
KEYS, NEW, GROWTH = 0, 1, 2
POPULATION = 3

# Scalars of a shard: the latest time seen, the window it is in (-1: none), rows open now, rows
# closed so far, keys first seen in this window, keys remembered when it began.
NOW, WINDOW, OPEN, CLOSED, NEW_KEYS, KNOWN = 0, 1, 2, 3, 4, 5
SCALARS = 6

# Sums of an open row: sizes, squared sizes, number of sizes; gaps in µs, squared gaps, number of
# gaps. A frame without a body has no size, as a first packet has no gap.
SIZE, SIZE2, SIZED, GAP, GAP2, GAPS = 0, 1, 2, 3, 4, 5
SUMS = 6
# Its counts: packets, first and last time, ordinal of the first packet, slot of the key.
PACKETS, FIRST_NS, LAST_NS, ORDINAL, SLOT = 0, 1, 2, 3, 4
COUNTS = 5
# Its tags: the key, the file of the first packet, sketches of peers and of ports.
KEY_HI, KEY_LO, SOURCE, PEERS, PORTS = 0, 1, 2, 3, 4
TAGS = 5
# History of a key: EWMA of the logarithms of rate and size, windows with a rate and with a size.
RATE_EWMA, SIZE_EWMA, RATED_WINDOWS, SIZED_WINDOWS = 0, 1, 2, 3
HISTORY = 4

ALPHA = 0.1
SPREAD_OF_MIN = 5
"""Values before their spread means anything: that of two may be next to nothing by chance, which is
a very low number as a logarithm."""
WINDOWS_MIN = 3
"""Windows of history before a shift against it means anything."""

SLOTS_T = Tuple((A_i8, A_i8, A2_f8, A_i8))
OPEN_T = Tuple((A2_f8, A2_i8, A2_u8))
OUT_T = Tuple((A2_f8, A2_i8, A2_u8, A_i8, A_i8, A2_f8))
FRAMES_T = Tuple((A_i8, A_u8, A_u8, A_u8, A_u8, A_i4, A_i4, A_u8, A_i8))


@kernel(f8(u8))
def _distinct(sketch: Any) -> Any:
    """Estimate how many different things set the bits of a 64-bit sketch (linear counting)."""
    empty = 0
    for i in range(64):
        if (sketch >> np.uint64(i)) & np.uint64(1) == np.uint64(0):
            empty += 1
    return 64.0 * math.log(64.0 / max(empty, 0.5))


@kernel(f8(f8, f8, f8))
def _spread(total: Any, squares: Any, count: Any) -> Any:
    """Return the standard deviation from sums, guarding against rounding below zero."""
    mean = total / count
    return math.sqrt(max(squares / count - mean * mean, 0.0))


@kernel(f8(A2_f8, i8, i8, f8))
def _shift(history: Any, slot: Any, which: Any, value: Any) -> Any:
    """Return how far a value lies above a key's past, NaN while that is short, and add it to it."""
    seen = history[slot, which + RATED_WINDOWS]
    shift = value - history[slot, which]
    history[slot, which] += shift * (ALPHA if seen > 0.0 else 1.0)
    history[slot, which + RATED_WINDOWS] = seen + 1.0
    return shift if seen >= WINDOWS_MIN else np.nan


@kernel(none(OPEN_T, i8, i8, A2_f8, A2_f8, i8))
def _row(open_rows: Any, r: Any, window_ns: Any, history: Any, features: Any, at: Any) -> None:
    """Write the features of open row `r`, and take it into the history of its key."""
    sums, counts, tags = open_rows
    packets = float(counts[r, PACKETS])
    rate = math.log1p(packets * 1e9 / window_ns)
    slot = counts[r, SLOT]
    features[at, 0] = rate
    features[at, 1] = np.nan
    features[at, 2] = np.nan
    features[at, 8] = np.nan
    sized = sums[r, SIZED]
    if sized > 0.0:
        size = math.log1p(sums[r, SIZE] / sized)
        features[at, 1] = size
        if sized >= SPREAD_OF_MIN:
            features[at, 2] = math.log1p(_spread(sums[r, SIZE], sums[r, SIZE2], sized))
        features[at, 8] = _shift(history, slot, SIZE_EWMA, size)
    gaps = sums[r, GAPS]
    features[at, 3] = math.log1p(sums[r, GAP] / gaps) if gaps > 0.0 else np.nan
    features[at, 4] = np.nan
    if gaps >= SPREAD_OF_MIN:
        features[at, 4] = math.log1p(_spread(sums[r, GAP], sums[r, GAP2], gaps))
    features[at, 5] = math.log1p(_distinct(tags[r, PEERS]))
    features[at, 6] = math.log1p(_distinct(tags[r, PORTS]))
    features[at, 7] = _shift(history, slot, RATE_EWMA, rate)


@kernel(none(OPEN_T, i8, i8, A2_f8, A2_f8))
def settle(open_rows: Any, rows: Any, window_ns: Any, history: Any, scratch: Any) -> None:
    """Take the first so many open rows into the history of their keys, as `close` does."""
    for r in range(rows):
        _row(open_rows, r, window_ns, history, scratch, 0)


@kernel(none(SLOTS_T, OPEN_T, A_i8, i8, OUT_T, A_i8))
def close(slots: Any, open_rows: Any, scalars: Any, window_ns: Any, out: Any, sizes: Any) -> None:
    """Close every open row as one group; `sizes` counts the rows and groups written to `out`.

    The key of an open row still has its slot: it was touched after the rows before were closed,
    and only as many touched since then as the table has slots could have pushed it out.
    """
    rows = scalars[OPEN]
    if rows == 0:
        return
    features, out_counts, out_tags, group_end, group_window, population = out
    counts, tags = open_rows[1], open_rows[2]
    for r in range(rows):
        at = sizes[0] + r
        _row(open_rows, r, window_ns, slots[2], features, at)
        for i in range(COUNTS):
            out_counts[at, i] = counts[r, i]
        for i in range(TAGS):
            out_tags[at, i] = tags[r, i]
        slots[0][counts[r, SLOT]] = -1
    group = sizes[1]
    sizes[0] += rows
    group_end[group] = sizes[0]
    group_window[group] = scalars[WINDOW]
    new, known = float(scalars[NEW_KEYS]), float(scalars[KNOWN])
    population[group, KEYS] = math.log1p(float(rows))
    population[group, NEW] = math.log1p(new)
    population[group, GROWTH] = math.log1p(new / known) if known > 0.0 else np.nan
    sizes[1] += 1
    scalars[CLOSED] += rows
    scalars[OPEN] = 0
    scalars[NEW_KEYS] = 0


@kernel(i8(TABLE, SLOTS_T, OPEN_T, A_i8, u8, u8))
def _open_row(table: Any, slots: Any, open_rows: Any, scalars: Any, hi: Any, lo: Any) -> Any:
    """Return the open row of a key in the current window, opening one if need be."""
    slot_window, slot_row, history, slot_last = slots
    slot, _, fresh = find_or_insert_pair(table, hi, lo)
    if fresh:
        slot_window[slot] = -1
        slot_last[slot] = -1
        for i in range(HISTORY):
            history[slot, i] = 0.0
        scalars[NEW_KEYS] += 1
    if slot_window[slot] == scalars[WINDOW]:
        return slot_row[slot]
    sums, counts, tags = open_rows
    r = scalars[OPEN]
    scalars[OPEN] += 1
    slot_window[slot] = scalars[WINDOW]
    slot_row[slot] = r
    for i in range(SUMS):
        sums[r, i] = 0.0
    counts[r, PACKETS] = 0
    counts[r, SLOT] = slot
    tags[r, KEY_HI] = hi
    tags[r, KEY_LO] = lo
    tags[r, PEERS] = np.uint64(0)
    tags[r, PORTS] = np.uint64(0)
    return r


@kernel(none(TABLE, SLOTS_T, OPEN_T, A_i8, i8, i8, FRAMES_T, A_i8, OUT_T, A_i8))
def arrive(
    table: Any, slots: Any, open_rows: Any, scalars: Any, window_ns: Any, idle_ns: Any,
    frames: Any, row_of: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Count arrivals into open rows, closing windows as packet time leaves them behind.

    `row_of` receives the number each arrival's row will have among all rows ever closed.
    """
    at_ns, key_hi, key_lo, peer_hi, peer_lo, size, dport, source, ordinal = frames
    sums, counts, tags = open_rows
    for i in range(at_ns.size):
        now = max(scalars[NOW], at_ns[i])
        scalars[NOW] = now
        window = now // window_ns
        if window != scalars[WINDOW] or scalars[OPEN] == counts.shape[0]:
            close(slots, open_rows, scalars, window_ns, out, sizes)
            scalars[WINDOW] = window
            slot = oldest(table)
            while slot >= 0 and now - slots[3][slot] >= idle_ns:
                remove(table, slot)
                slot = oldest(table)
            scalars[KNOWN] = table[3][LIVE]
        r = _open_row(table, slots, open_rows, scalars, key_hi[i], key_lo[i])
        slot = counts[r, SLOT]
        last = slots[3][slot]
        slots[3][slot] = now
        if last >= 0:
            gap = (now - last) * 1e-3
            sums[r, GAP] += gap
            sums[r, GAP2] += gap * gap
            sums[r, GAPS] += 1.0
        if counts[r, PACKETS] == 0:
            counts[r, FIRST_NS] = now
            counts[r, ORDINAL] = ordinal[i]
            tags[r, SOURCE] = source[i]
        counts[r, PACKETS] += 1
        counts[r, LAST_NS] = now
        if size[i] > 0:
            bytes_counted = float(size[i])
            sums[r, SIZE] += bytes_counted
            sums[r, SIZE2] += bytes_counted * bytes_counted
            sums[r, SIZED] += 1.0
        peer = mix(peer_hi[i] ^ mix(peer_lo[i]))
        tags[r, PEERS] |= np.uint64(1) << (peer & np.uint64(63))
        port = mix(np.uint64(dport[i]))
        tags[r, PORTS] |= np.uint64(1) << (port & np.uint64(63))
        row_of[i] = scalars[CLOSED] + r
