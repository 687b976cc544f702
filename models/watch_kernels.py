"""What the loops of `models.device_watch` and `models.host_watch` have in common.

Laws: those of `models.watch` and of `core.kernels`.
"""

from __future__ import annotations

from typing import Any

from core.kernels import A2_f8, A2_i8, A2_u8, A_f8, A_i8, Tuple, f8, i8, kernel, none, u8

SECOND_NS = 1_000_000_000
LATE_NS = 100_000_000
"""As in `models.features`: so long behind the latest time nobody knows what else happened then."""

# Scalars of a shard: the latest time seen (-1: none), the time in which somebody was heard, when
# the table was last gone through, the first time seen.
NOW, HEARD_NS, SCANNED, BEGUN = 0, 1, 2, 3
SCALARS = 4

# Of a key, first among its numbers: time of its last packet, its second, packets in it that wait
# for no answer, the first of them, when it was met; and from when and how many were told last.
LAST_NS, SECOND, IN_SECOND, SECOND_ORDINAL, MET_NS, TOLD_FROM, TOLD_COUNT = 0, 1, 2, 3, 4, 5, 6
RATED = 7
RATE = 0
"""First among its sums: how many such packets a second are usual."""
FLOOD_HZ, FLOOD_FACTOR = 0, 1
"""First among the limits."""
RATE_ALPHA = 0.1
KNOWN_NS = 10 * SECOND_NS
"""Time for which a key must be known before its rate means anything, if it was met that soon after
the first packet of all; one that is met later begins from nothing."""

# What is seen, numbers: rule, window, first and last time, packets, ordinal of the first, a port.
RULE, WINDOW, FROM_NS, TO_NS, PACKETS, ORDINAL, PORT = 0, 1, 2, 3, 4, 5, 6
OUT_INTS = 7
# Tags: the key, the file, the other end. Values: as the rule has it, its threshold, and two more.
KEY_HI, KEY_LO, SOURCE, PEER_HI, PEER_LO = 0, 1, 2, 3, 4
OUT_TAGS = 5
VALUE, THRESHOLD, OTHER, LAST = 0, 1, 2, 3
OUT_VALUES = 4

OUT_T = Tuple((A2_i8, A2_u8, A2_f8))


@kernel(f8(A2_f8, i8, i8, f8, f8))
def leak(sums: Any, slot: Any, at: Any, now_s: Any, forgiven_s: Any) -> Any:
    """Return the level of a leaky bucket, less one for each `forgiven_s`; its time is beside it."""
    level = sums[slot, at] - (now_s - sums[slot, at + 1]) / forgiven_s
    sums[slot, at + 1] = now_s
    return max(level, 0.0)


@kernel(none(A_i8, i8), inline=True)
def begin(scalars: Any, now: Any) -> None:
    """Let it be the time of the next packet."""
    if scalars[NOW] < 0:
        scalars[BEGUN] = now
    else:
        scalars[HEARD_NS] += min(now - scalars[NOW], SECOND_NS)
    scalars[NOW] = now


@kernel(f8(A2_i8, A2_f8, i8, i8, i8, A_f8))
def end_second(ints: Any, sums: Any, slot: Any, second: Any, begun: Any, limits: Any) -> Any:
    """Begin another second of a key; return how much would have been too much, if it was.

    A second that was too much is not learnt, so that a flood does not become usual.
    """
    count, last = ints[slot, IN_SECOND], ints[slot, SECOND]
    ints[slot, SECOND] = second
    ints[slot, IN_SECOND] = 0
    least = max(limits[FLOOD_HZ], limits[FLOOD_FACTOR] * sums[slot, RATE])
    met = ints[slot, MET_NS]
    is_known = met - begun >= KNOWN_NS or last * SECOND_NS - met >= KNOWN_NS
    if is_known and count >= least:
        ints[slot, TOLD_FROM] = max(last * SECOND_NS, met)
        ints[slot, TOLD_COUNT] = count
        return least
    sums[slot, RATE] += RATE_ALPHA * (count - sums[slot, RATE])
    sums[slot, RATE] *= (1.0 - RATE_ALPHA) ** min(float(second - last - 1), 1000.0)
    return 0.0


@kernel(none(OUT_T, A_i8, i8, i8, i8, i8, i8, i8, u8, u8, u8, f8, f8, f8))
def tell(
    out: Any, sizes: Any, rule: Any, window: Any, first_ns: Any, last_ns: Any, packets: Any,
    ordinal: Any, key_hi: Any, key_lo: Any, source: Any, value: Any, threshold: Any, other: Any,
) -> None:  # fmt: skip
    """Write down what was seen; what there is no room for is only counted."""
    ints, tags, values = out
    at = sizes[0]
    if at == ints.shape[0]:
        sizes[1] += 1
        return
    sizes[0] = at + 1
    ints[at, RULE] = rule
    ints[at, WINDOW] = window
    ints[at, FROM_NS] = first_ns
    ints[at, TO_NS] = last_ns
    ints[at, PACKETS] = packets
    ints[at, ORDINAL] = ordinal
    ints[at, PORT] = 0
    tags[at, KEY_HI] = key_hi
    tags[at, KEY_LO] = key_lo
    tags[at, SOURCE] = source
    values[at, VALUE] = value
    values[at, THRESHOLD] = threshold
    values[at, OTHER] = other
