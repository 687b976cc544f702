"""The loop of `models.device_watch`: frames of devices, one after another, each against its past.

Laws: those of `models.watch` and of `core.kernels`.

Sources: the window of sequence numbers seen is that of RFC 4303 §3.4.3 (anti-replay); cumulative
sums after E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954); entropy in bits per
byte after C. Shannon (1948); running moments after B. P. Welford (1962).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import (
    A2_f8,
    A2_i8,
    A2_u8,
    A_f8,
    A_i4,
    A_i8,
    A_u1,
    A_u4,
    A_u8,
    Tuple,
    b1,
    f8,
    i8,
    kernel,
    mix,
    none,
)
from core.keytable import NEWER, OLDEST, TABLE, find_or_insert_pair, oldest, remove
from models.watch_kernels import (
    BEGUN,
    HEARD_NS,
    IN_SECOND,
    LAST,
    LAST_NS,
    LATE_NS,
    MET_NS,
    OUT_T,
    RATE,
    RATED,
    SCANNED,
    SECOND,
    SECOND_NS,
    SECOND_ORDINAL,
    TOLD_COUNT,
    TOLD_FROM,
    begin,
    end_second,
    leak,
    tell,
)

# Rules in the order of `models.device_watch.RULES`.
FLOOD, REPLAY, SENDERS, SILENT, SIZE, ENTROPY = 0, 1, 2, 3, 4, 5
RULES = 6

# Of a device, numbers after those of its rate: highest sequence number, that of the run that went
# back, its length, the highest before a restart (-1: none), frames, what was heard at the last of
# them; and for each rule the window it was told in.
(TOP, BACK, BACK_RUN, LEFT, FRAMES, LAST_HEARD, TOLD) = range(RATED, RATED + 7)
INTS = TOLD + RULES
# Sums, after usual frames/s: mean and mean deviation of the gap, s; levels of strikes and of turns,
# with their times; then for size and entropy: values, mean, sum of squared deviations, both sums of
# Page, and the mean before a shift.
GAP, GAP_OFF, STRIKES, STRUCK_S, TURNS, TURNED_S, PAGE = 1, 2, 3, 4, 5, 6, 7
VALUES, MEAN, SQUARES, ABOVE, BELOW, WAS = 0, 1, 2, 3, 4, 5
PAGES = 6
SUMS = PAGE + 2 * PAGES
# Tags: sequence numbers seen below the highest, the last two senders, the file of its last frame.
SEEN, SENDER, SENDER_WAS, SOURCE = 0, 1, 2, 3
TAGS = 4

# Limits, as `models.device_watch` lays them out.
(STRIKES_MAX, TURNS_MAX, SILENT_S, SILENT_GAPS, SHIFT) = range(2, 7)

WINDOW_SEQS = 64
RESTART_RUN = 16
"""Frames in a row that go on from a number that went back make a restart."""
FORGIVEN_S = 10.0
"""One strike, or one turn, is forgiven in this time."""
GAP_ALPHA = 0.05
GAPS_MIN = 20.0
"""Frames before their gap is taken for regular."""
SCAN_NS = 10 * SECOND_NS
"""Packet time between two looks for silent devices."""
LEARN_MIN = 32.0
"""Values from which a mean is learnt before a shift against it is looked for."""
SLACK, FAR, FOLLOW = 1.0, 4.0, 256.0
"""Of a cumulative sum: deviations that are not counted, the most that one value counts, and the
values over which the mean follows slowly."""
ENTROPY_BYTES, ENTROPY_FRAMES = 256, 8
"""Bytes of a body that its entropy is taken of; and of every eighth body only."""
_LOGS = np.array([0.0, *(n * math.log2(n) for n in range(1, ENTROPY_BYTES + 1))])

DEVICE_T = Tuple((A2_i8, A2_f8, A2_u8))
FRAMES_T = Tuple((A_u1, A_i8, A_i8, A_u8, A_u8, A_u8, A_u8, A_i4, A_i8, A_i4, A_u4, A_u8, A_i8))


@kernel(f8(A_u1, i8, i8, A_i8), inline=True)
def entropy(arena: Any, at: Any, size: Any, counts: Any) -> Any:
    """Return the entropy of some bytes, in bits per byte; `counts` is zero and stays so."""
    for i in range(at, at + size):
        counts[arena[i]] += 1
    total = 0.0
    for i in range(at, at + size):
        total += _LOGS[counts[arena[i]]]
        counts[arena[i]] = 0
    return math.log2(size) - total / size


@kernel(b1(A2_f8, i8, i8, f8, f8, f8), inline=True)
def _shifts(sums: Any, slot: Any, at: Any, value: Any, least: Any, limit: Any) -> Any:
    """Take one value; tell whether the mean has shifted, and if so begin anew with it."""
    n = sums[slot, at + VALUES]
    mean = sums[slot, at + MEAN]
    if n < LEARN_MIN:
        n += 1.0
        sums[slot, at + VALUES] = n
        off = value - mean
        sums[slot, at + MEAN] = mean + off / n
        sums[slot, at + SQUARES] += off * (value - sums[slot, at + MEAN])
        return False
    spread = max(math.sqrt(sums[slot, at + SQUARES] / n), least)
    off = max(-FAR, min(FAR, (value - mean) / spread))
    sums[slot, at + ABOVE] = max(0.0, sums[slot, at + ABOVE] + off - SLACK)
    sums[slot, at + BELOW] = max(0.0, sums[slot, at + BELOW] - off - SLACK)
    if sums[slot, at + ABOVE] < limit and sums[slot, at + BELOW] < limit:
        sums[slot, at + MEAN] += off * spread / FOLLOW
        return False
    sums[slot, at + WAS] = mean
    for i in range(WAS):
        sums[slot, at + i] = 0.0
    sums[slot, at + VALUES] = 1.0
    sums[slot, at + MEAN] = value
    return True


@kernel(i8(A2_i8, A2_u8, i8, i8), inline=True)
def _strikes(ints: Any, tags: Any, slot: Any, seq: Any) -> Any:
    """Follow the sequence of a device by one number; return how many strikes it means.

    A number that goes back is no strike by itself, because devices restart. It is one when the
    higher numbers go on afterwards: two sequences then run at once, or one is played again.
    """
    ahead = (seq - ints[slot, TOP]) & 0xFFFFFFFF
    if ahead >= 1 << 31:
        ahead -= 1 << 32
    if ahead > 0:
        strikes = 1 if ints[slot, BACK_RUN] > 0 else 0
        ints[slot, BACK_RUN] = 0
        left = ints[slot, LEFT]
        if left >= 0 and 0 < seq - left <= WINDOW_SEQS and ahead > WINDOW_SEQS:
            # What was taken for a restart was none: the number before it goes on.
            strikes = RESTART_RUN
            ints[slot, LEFT] = -1
        one = np.uint64(1)
        if ahead < WINDOW_SEQS:
            tags[slot, SEEN] = (tags[slot, SEEN] << np.uint64(ahead)) | one
        else:
            tags[slot, SEEN] = one
        ints[slot, TOP] = seq
        return strikes
    if ahead > -WINDOW_SEQS:
        bit = np.uint64(1) << np.uint64(-ahead)
        if tags[slot, SEEN] & bit == np.uint64(0):
            tags[slot, SEEN] |= bit  # late, and not twice
            return 0
    if ints[slot, BACK_RUN] > 0 and 0 < seq - ints[slot, BACK] <= WINDOW_SEQS:
        ints[slot, BACK_RUN] += 1
        ints[slot, BACK] = seq
        if ints[slot, BACK_RUN] >= RESTART_RUN:
            ints[slot, LEFT] = ints[slot, TOP]
            ints[slot, TOP] = seq
            ints[slot, BACK_RUN] = 0
            tags[slot, SEEN] = np.uint64(1)
        return 0
    again = ints[slot, BACK_RUN]
    ints[slot, BACK] = seq
    ints[slot, BACK_RUN] = 1
    return 1 if again > 0 else 0


@kernel(none(TABLE, DEVICE_T, A_i8, A_f8, i8, i8, i8, OUT_T, A_i8))
def _look_for_silent(
    table: Any, devices: Any, scalars: Any, limits: Any, now: Any, window: Any, idle_ns: Any,
    out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Tell every device that is silent now, the one silent for longest first; forget idle ones."""
    ints, sums, tags = devices
    keys, _, links, state, _, _, _ = table
    slot = oldest(table)
    while slot >= 0 and now - ints[slot, LAST_NS] >= idle_ns:
        remove(table, slot)
        slot = oldest(table)
    slot = state[OLDEST]
    while slot >= 0 and now - ints[slot, LAST_NS] >= 5 * SECOND_NS:
        gap = sums[slot, GAP]
        heard = (scalars[HEARD_NS] - ints[slot, LAST_HEARD]) * 1e-9
        least = max(limits[SILENT_S], limits[SILENT_GAPS] * gap)
        # Reports whose gaps differ as much as they are long are not regular.
        regular = ints[slot, FRAMES] >= GAPS_MIN and sums[slot, GAP_OFF] <= 0.75 * gap
        if regular and heard >= least:
            tell(out, sizes, SILENT, window, ints[slot, LAST_NS], ints[slot, LAST_NS], 1,
                 ints[slot, SECOND_ORDINAL], keys[slot, 0], keys[slot, 1], tags[slot, SOURCE],
                 heard, least, gap)  # fmt: skip
        slot = int(links[slot, NEWER])


@kernel(none(A2_i8, A2_f8, A2_u8, i8, i8, i8))
def _meet(ints: Any, sums: Any, tags: Any, slot: Any, now: Any, seq: Any) -> None:
    """Begin with a device that is new."""
    for j in range(INTS):
        ints[slot, j] = -1
    for j in range(SUMS):
        sums[slot, j] = 0.0
    for j in range(TAGS):
        tags[slot, j] = np.uint64(0)
    ints[slot, MET_NS] = now
    ints[slot, BACK_RUN] = 0
    ints[slot, FRAMES] = 0
    ints[slot, TOP] = seq - 1
    ints[slot, SECOND] = now // SECOND_NS
    ints[slot, IN_SECOND] = 0


@kernel(none(DEVICE_T, A_f8, i8, i8, FRAMES_T, i8, OUT_T, A_i8), inline=True)
def _sequence(
    devices: Any, limits: Any, slot: Any, window: Any, frames: Any, i: Any, out: Any, sizes: Any
) -> None:
    """Look at the number of a frame, and at who sent it."""
    ints, sums, tags = devices
    _, _, clock_ns, key_hi, key_lo, peer_hi, peer_lo, _, _, _, seqs, source, ordinal = frames
    now, hi, lo = clock_ns[i], key_hi[i], key_lo[i]
    strikes = _strikes(ints, tags, slot, np.int64(seqs[i]))
    if strikes > 0:
        level = leak(sums, slot, STRIKES, now * 1e-9, FORGIVEN_S) + strikes
        sums[slot, STRIKES] = level
        if level >= limits[STRIKES_MAX] and ints[slot, TOLD + REPLAY] != window:
            ints[slot, TOLD + REPLAY] = window
            tell(out, sizes, REPLAY, window, now, now, 1, ordinal[i], hi, lo, source[i], level,
                 limits[STRIKES_MAX], float(seqs[i]))  # fmt: skip
    sender = mix(peer_hi[i] ^ mix(peer_lo[i]))
    if sender == tags[slot, SENDER]:
        return
    if sender == tags[slot, SENDER_WAS]:
        level = leak(sums, slot, TURNS, now * 1e-9, FORGIVEN_S) + 1.0
        sums[slot, TURNS] = level
        if level >= limits[TURNS_MAX] and ints[slot, TOLD + SENDERS] != window:
            ints[slot, TOLD + SENDERS] = window
            tell(out, sizes, SENDERS, window, now, now, 1, ordinal[i], hi, lo, source[i], level,
                 limits[TURNS_MAX], 0.0)  # fmt: skip
    tags[slot, SENDER_WAS] = tags[slot, SENDER]
    tags[slot, SENDER] = sender


@kernel(none(DEVICE_T, A_f8, i8, i8, FRAMES_T, i8, A_i8, OUT_T, A_i8), inline=True)
def _shape(
    devices: Any, limits: Any, slot: Any, window: Any, frames: Any, i: Any, counts: Any, out: Any,
    sizes: Any,
) -> None:  # fmt: skip
    """Look at the size of a body, and at the entropy of every eighth."""
    ints, sums, _ = devices
    arena, _, clock_ns, key_hi, key_lo, _, _, size, body, body_len, _, source, ordinal = frames
    now, hi, lo = clock_ns[i], key_hi[i], key_lo[i]
    before = sizes[0]
    value = float(size[i])
    least = max(2.0, 0.02 * sums[slot, PAGE + MEAN])
    if _shifts(sums, slot, PAGE, value, least, limits[SHIFT]):
        tell(out, sizes, SIZE, window, now, now, 1, ordinal[i], hi, lo, source[i], limits[SHIFT],
             limits[SHIFT], sums[slot, PAGE + WAS])  # fmt: skip
        for j in range(before, sizes[0]):
            out[2][j, LAST] = value
    if body_len[i] == 0 or ints[slot, FRAMES] % ENTROPY_FRAMES != 0:
        return
    before = sizes[0]
    value = entropy(arena, body[i], min(np.int64(body_len[i]), ENTROPY_BYTES), counts)
    if _shifts(sums, slot, PAGE + PAGES, value, 0.1, limits[SHIFT]):
        tell(out, sizes, ENTROPY, window, now, now, 1, ordinal[i], hi, lo, source[i],
             limits[SHIFT], limits[SHIFT], sums[slot, PAGE + PAGES + WAS])  # fmt: skip
        for j in range(before, sizes[0]):
            out[2][j, LAST] = value


@kernel(
    none(TABLE, DEVICE_T, A_i8, A_f8, i8, i8, b1, FRAMES_T, OUT_T, A_i8), allocates=True
)  # fmt: skip
def watch_devices(
    table: Any, devices: Any, scalars: Any, limits: Any, window_ns: Any, idle_ns: Any,
    has_seq: Any, frames: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Look at frames in their order; write what is seen to `out`, and count it in `sizes`."""
    (_, at_ns, clock_ns, key_hi, key_lo, peer_hi, peer_lo, size, _, _, seqs, source,
     ordinal) = frames  # fmt: skip
    ints, sums, tags = devices
    counts = np.zeros(256, np.int64)
    slot = np.int64(-1)
    for i in range(at_ns.size):
        now = clock_ns[i]
        if now - at_ns[i] >= LATE_NS:
            continue
        begin(scalars, now)
        window = now // window_ns
        if now // SCAN_NS != scalars[SCANNED]:
            scalars[SCANNED] = now // SCAN_NS
            _look_for_silent(
                table, devices, scalars, limits, now, window, idle_ns, out, sizes
            )  # fmt: skip
        hi, lo, seq = key_hi[i], key_lo[i], np.int64(seqs[i])
        slot, _, fresh = find_or_insert_pair(table, hi, lo)
        if fresh:
            _meet(ints, sums, tags, slot, now, seq)
            tags[slot, SENDER] = mix(peer_hi[i] ^ mix(peer_lo[i]))
        else:
            gap = (now - ints[slot, LAST_NS]) * 1e-9
            share = max(GAP_ALPHA, 1.0 / (ints[slot, FRAMES] + 1.0))
            sums[slot, GAP] += share * (gap - sums[slot, GAP])
            sums[slot, GAP_OFF] += share * (abs(gap - sums[slot, GAP]) - sums[slot, GAP_OFF])
        if now // SECOND_NS != ints[slot, SECOND]:
            last = ints[slot, LAST_NS]
            least = end_second(ints, sums, slot, now // SECOND_NS, scalars[BEGUN], limits)
            if least > 0.0:
                tell(out, sizes, FLOOD, window, ints[slot, TOLD_FROM], last,
                     ints[slot, TOLD_COUNT], ints[slot, SECOND_ORDINAL], hi, lo, tags[slot, SOURCE],
                     float(ints[slot, TOLD_COUNT]), least, sums[slot, RATE])  # fmt: skip
        ints[slot, LAST_NS] = now
        ints[slot, LAST_HEARD] = scalars[HEARD_NS]
        ints[slot, FRAMES] += 1
        if ints[slot, IN_SECOND] == 0:
            ints[slot, SECOND_ORDINAL] = ordinal[i]
        ints[slot, IN_SECOND] += 1
        tags[slot, SOURCE] = source[i]
        if has_seq:
            _sequence(devices, limits, slot, window, frames, i, out, sizes)
        if size[i] > 0:
            _shape(devices, limits, slot, window, frames, i, counts, out, sizes)
