"""Contacts of a host: who it called, how often, and how even the intervals between calls were.

Laws: those of `models.watch` and of `core.kernels`.

Sources: running moments after B. P. Welford (1962); the coefficient of variation is
that of K. Pearson (1896).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import (
    A2_f8,
    A2_i8,
    A_f8,
    A_i4,
    A_i8,
    A_u1,
    A_u8,
    Tuple,
    b1,
    f8,
    i8,
    kernel,
    mix,
    none,
    u8,
)
from core.keytable import TABLE, find_or_insert_pair
from models.watch_kernels import LAST, OUT_T, PEER_HI, PEER_LO, PORT, SECOND_NS, leak, tell

BRUTE, BEACON = 3, 4
"""Rules, in the order of `models.host_watch.RULES`."""

# Of a contact, numbers: whether its call failed so far, its second; when it was last called, from
# which port; its last packet; calls since the bucket was empty, the first of them, when told.
(STATE, CALLED_SECOND, CALLED_NS, SPORT, HEARD, TRIES, TRY_NS, TRY_ORDINAL, TOLD_SECOND,
 LAST_CONTACT) = range(10)  # fmt: skip
CONTACT_INTS = 10
UNKNOWN, ANSWERED = 0, 1
# Sums: level of a leaky bucket, and its time; intervals between calls: number, mean, squares.
LEVEL, LEVEL_S, INTERVALS, MEAN, SQUARES = 0, 1, 2, 3, 4
CONTACT_SUMS = 5

# Limits, as `models.host_watch` lays them out.
SCAN_CALLS, TRIES_MAX, TRY_FORGIVEN_S, BEACON_CALLS, BEACON_S, BEACON_JITTER = range(2, 8)

UNEVEN = 2.5
"""An interval so many times longer or shorter than the mean begins a new series."""

CONTACT_T = Tuple((A2_i8, A2_f8))
FRAMES_T = Tuple(
    (A_i8, A_i8, A_u8, A_u8, A_u8, A_u8, A_i4, A_i4, A_i4, A_i4, A_u1, A_u8, A_i8)
)  # fmt: skip


@kernel(i8(TABLE, CONTACT_T, u8, u8, u8, u8, i8, i8))
def contact(
    table: Any, contacts: Any, hi: Any, lo: Any, peer_hi: Any, peer_lo: Any, kind: Any, now: Any
) -> Any:
    """Return the slot of a contact; its state is -1 when it is the first."""
    a = mix(hi ^ mix(lo ^ np.uint64(kind)))
    b = mix(peer_hi ^ mix(peer_lo ^ a))
    slot, _, fresh = find_or_insert_pair(table, a ^ mix(b), b)
    ints, sums = contacts
    if fresh:
        for j in range(CONTACT_INTS):
            ints[slot, j] = 0
        for j in range(CONTACT_SUMS):
            sums[slot, j] = 0.0
        ints[slot, STATE] = -1
        ints[slot, CALLED_NS] = now
    ints[slot, LAST_CONTACT] = now
    return slot


@kernel(b1(A2_i8, A2_f8, i8, i8, i8, A_f8))
def _is_brute(ints: Any, sums: Any, at: Any, now: Any, ordinal: Any, limits: Any) -> Any:
    """Count one more connection to a login service; tell whether they are too many."""
    level = leak(sums, at, LEVEL, now * 1e-9, limits[TRY_FORGIVEN_S])
    if level == 0.0:
        ints[at, TRIES] = 0
        ints[at, TRY_NS] = now
        ints[at, TRY_ORDINAL] = ordinal
    sums[at, LEVEL] = level + 1.0
    ints[at, TRIES] += 1
    if level + 1.0 < limits[TRIES_MAX] or ints[at, TOLD_SECOND] == now // SECOND_NS:
        return False
    ints[at, TOLD_SECOND] = now // SECOND_NS
    return True


@kernel(b1(A2_f8, i8, f8, A_f8))
def _is_even(sums: Any, at: Any, interval: Any, limits: Any) -> Any:
    """Take one interval between calls; tell whether they are as even as those of a timer."""
    n, mean = sums[at, INTERVALS], sums[at, MEAN]
    if n > 0.0 and (interval > UNEVEN * mean or interval * UNEVEN < mean):
        n, mean = 0.0, 0.0
        sums[at, SQUARES] = 0.0
    n += 1.0
    off = interval - mean
    mean += off / n
    sums[at, INTERVALS], sums[at, MEAN] = n, mean
    sums[at, SQUARES] += off * (interval - mean)
    if n < limits[BEACON_CALLS] or mean < limits[BEACON_S]:
        return False
    return math.sqrt(sums[at, SQUARES] / n) <= limits[BEACON_JITTER] * mean


@kernel(none(CONTACT_T, A_f8, A_u1, i8, i8, i8, b1, FRAMES_T, i8, OUT_T, A_i8))
def repeat(
    contacts: Any, limits: Any, logins: Any, at: Any, now: Any, window: Any, is_tcp: Any,
    frames: Any, i: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Judge one more call of a contact: how many there were, and how even their intervals."""
    _, _, key_hi, key_lo, peer_hi, peer_lo, _, _, dport, _, _, source, ordinal = frames
    ints, sums = contacts
    told = sizes[0]
    if is_tcp and logins[dport[i]] != 0 and _is_brute(ints, sums, at, now, ordinal[i], limits):
        tell(out, sizes, BRUTE, window, ints[at, TRY_NS], now, ints[at, TRIES],
             ints[at, TRY_ORDINAL], key_hi[i], key_lo[i], source[i], sums[at, LEVEL],
             limits[TRIES_MAX], 0.0)  # fmt: skip
        # Those were told; the next count their own.
        ints[at, TRIES] = 0
        ints[at, TRY_NS] = now
        ints[at, TRY_ORDINAL] = ordinal[i]
    interval = (now - ints[at, CALLED_NS]) * 1e-9
    ints[at, CALLED_NS] = now
    if interval > 0.0 and _is_even(sums, at, interval, limits):
        jitter = math.sqrt(sums[at, SQUARES] / sums[at, INTERVALS]) / sums[at, MEAN]
        before = sizes[0]
        tell(out, sizes, BEACON, window, now, now, 1, ordinal[i], key_hi[i], key_lo[i], source[i],
             sums[at, INTERVALS], limits[BEACON_CALLS], sums[at, MEAN])  # fmt: skip
        for j in range(before, sizes[0]):
            out[2][j, LAST] = jitter
    for j in range(told, sizes[0]):
        out[0][j, PORT] = dport[i]
        out[1][j, PEER_HI] = peer_hi[i]
        out[1][j, PEER_LO] = peer_lo[i]
