"""The kernels of `core.dam`: token buckets, and a queue that only knows the bytes of its frames.

Law: whatever int64 the times are, no sum or product here leaves an int64. The bounds that make it
so are `RATE_HZ_MAX` and `BURST_MAX`, which whoever fills `state` and `limits` has checked, with
rates of at least 1 where they are used.

Everything about one dam lies in a few int64 vectors, so that a call costs one pass over arrivals.
"""

from __future__ import annotations

from typing import Any

from core.kernels import A2_i8, A_i4, A_i8, A_u1, A_u8, b1, i8, kernel, none, u8
from core.keytable import TABLE, find_or_insert_pair
from core.reasons import Drop

DRAIN_NS = 10_000_000
"""Time between two chances of the queue to drain, ns."""
FRAME_OVERHEAD = 64
"""Bytes a queued frame counts beyond its body."""
TOKEN = 1_000_000_000
"""One frame in the unit tokens are counted in."""

RATE_HZ_MAX = 1_000_000
BURST_MAX = 100_000_000

# After so long any bucket is full: BURST_MAX tokens at 1 Hz take 1e17 ns.
_FILLED_NS = BURST_MAX * TOKEN
# Up to so long `rate * gap` fits an int64 whatever the rate.
_SHORT_NS = 1_000_000_000_000
LAST_TICK = (2**63 - 1) // DRAIN_NS

# Fields of `state`. COUNTS begins a vector over `Drop`.
SEEN, NOW, TOKENS, RATE, CAP, HEAD, DEPTH, BYTES, DEPTH_MAX = 0, 1, 2, 3, 4, 5, 6, 7, 8
RELEASED, RELEASED_BYTES, COUNTS = 9, 10, 11
FIELDS = COUNTS + len(Drop)
# Fields of `limits`.
LEN_MAX, BYTES_MAX, DEVICE_RATE, DEVICE_CAP = 0, 1, 2, 3

_PASSED, _QUEUED = int(Drop.PASSED), int(Drop.QUEUED)
_QUEUE_FULL, _QUEUE_BYTES = int(Drop.QUEUE_FULL), int(Drop.QUEUE_BYTES)
_DEVICE_RATE = int(Drop.DEVICE_RATE)


@kernel(i8(i8, i8, i8, i8, i8))
def refill(tokens: Any, cap: Any, rate_hz: Any, last_ns: Any, now_ns: Any) -> Any:
    """Return a bucket's tokens at `now_ns`, exact for any two times that do not step backwards."""
    if last_ns < 0 and now_ns > last_ns + _FILLED_NS:  # else the gap fits an int64
        return cap
    gap_ns = now_ns - last_ns
    if gap_ns > _SHORT_NS and gap_ns >= (cap - tokens + rate_hz - 1) // rate_hz:
        return cap
    return min(cap, tokens + rate_hz * gap_ns)


@kernel(none(A_i8, i8))
def _settle(state: Any, now_ns: Any) -> None:
    """Fill the bucket up to a time that is not before `NOW`."""
    state[TOKENS] = refill(state[TOKENS], state[CAP], state[RATE], state[NOW], now_ns)
    state[NOW] = now_ns


@kernel(i8(A_i8, A_i8, A_i8, i8, i8))
def drain(state: Any, ring: Any, released_at: Any, count: Any, last_tick: Any) -> Any:
    """Release queued frames at every boundary after `NOW` up to `last_tick * DRAIN_NS`.

    Boundaries at which nothing can leave are jumped over, so that the work is O(1) per frame.

    Args:
        state: The dam's; changed in place.
        ring: Bytes of the queued frames.
        released_at: `int64`; receives the times of releases, from `count` on.
        count: Releases already there.
        last_tick: `floor(time / DRAIN_NS)`; at most `LAST_TICK`.

    Returns:
        `count` plus the frames released.
    """
    tick = state[NOW] // DRAIN_NS + 1
    while state[DEPTH] > 0 and tick <= last_tick:
        _settle(state, tick * DRAIN_NS)
        frames = min(state[TOKENS] // TOKEN, state[DEPTH])
        if frames == 0:
            wait_ns = (TOKEN - state[TOKENS] + state[RATE] - 1) // state[RATE]
            tick += (wait_ns + DRAIN_NS - 1) // DRAIN_NS
            continue
        for _ in range(frames):
            state[BYTES] -= ring[state[HEAD]]
            state[HEAD] = (state[HEAD] + 1) % ring.size
            released_at[count] = state[NOW]
            count += 1
        state[DEPTH] -= frames
        state[TOKENS] -= frames * TOKEN
        tick += 1
    return count


@kernel(i8(A_i8, A_i8, A_i8, i8, i8))
def advance(state: Any, ring: Any, released_at: Any, count: Any, at_ns: Any) -> Any:
    """Let time pass up to `max(NOW, at_ns)`, and drain; arguments and result as in `drain`."""
    if state[SEEN] == 0:
        state[SEEN] = 1
        state[NOW] = at_ns
    now_ns = max(state[NOW], at_ns)
    if state[DEPTH] > 0:
        count = drain(state, ring, released_at, count, now_ns // DRAIN_NS)
    _settle(state, now_ns)
    return count


@kernel(b1(TABLE, A2_i8, A_i8, i8, u8, u8))
def _device_passes(
    table: Any, buckets: Any, limits: Any, now_ns: Any, key_hi: Any, key_lo: Any
) -> Any:
    """Spend a token of a device, whose bucket is `tokens, last_ns` in the row of its slot."""
    slot, _, fresh = find_or_insert_pair(table, key_hi, key_lo)
    tokens = limits[DEVICE_CAP]
    if not fresh:
        tokens = refill(
            buckets[slot, 0], limits[DEVICE_CAP], limits[DEVICE_RATE], buckets[slot, 1], now_ns
        )
    passes = tokens >= TOKEN
    buckets[slot, 0] = tokens - TOKEN if passes else tokens
    buckets[slot, 1] = now_ns
    return passes


@kernel(i8(A_i8, A_i8, A_i8, i8))
def _mark(state: Any, limits: Any, ring: Any, size: Any) -> Any:
    """Judge one arrival of `size` bytes at `NOW`, and queue it or spend its token."""
    if state[DEPTH] == 0 and state[TOKENS] >= TOKEN:
        state[TOKENS] -= TOKEN
        return _PASSED
    if state[DEPTH] >= limits[LEN_MAX]:
        return _QUEUE_FULL
    if state[BYTES] + size > limits[BYTES_MAX]:
        return _QUEUE_BYTES
    ring[(state[HEAD] + state[DEPTH]) % ring.size] = size
    state[BYTES] += size
    state[DEPTH] += 1
    state[DEPTH_MAX] = max(state[DEPTH_MAX], state[DEPTH])
    return _QUEUED


@kernel(i8(A_i8, A_i4, A_u8, A_u8, A_i8, A_i8, A_i8, TABLE, A2_i8, A_u1, A_i8))
def judge(
    at_ns: Any, body_len: Any, key_hi: Any, key_lo: Any,
    state: Any, limits: Any, ring: Any, table: Any, buckets: Any,
    marks: Any, released_at: Any,
) -> Any:  # fmt: skip
    """Judge arrivals in order, draining at every boundary they cross.

    Args:
        at_ns: `(n,) int64`; column of a `FrameBatch`, as are the next three.
        body_len: `(n,) int32`.
        key_hi: `(n,) uint64`.
        key_lo: `(n,) uint64`.
        state: `(FIELDS,) int64`; fields of this module, changed in place, as all that follows.
        limits: `(4,) int64`; `LEN_MAX`, `BYTES_MAX`, `DEVICE_RATE`, `DEVICE_CAP`.
        ring: `(max(1, LEN_MAX),) int64` at least; bytes of each queued frame, from `HEAD` on.
        table: `KeyTable.arrays()` of two words.
        buckets: `(capacity, 2) int64`; tokens and time of the device in each slot.
        marks: `(n,) uint8`; receives the mark of each arrival.
        released_at: `(DEPTH + n,) int64`; receives the time each release happened.

    Returns:
        How many frames were released, counted from the head of (queue + accepted arrivals).
    """
    count = 0
    for i in range(at_ns.size):
        count = advance(state, ring, released_at, count, at_ns[i])
        mark = _DEVICE_RATE
        if limits[DEVICE_RATE] == 0 or _device_passes(
            table, buckets, limits, state[NOW], key_hi[i], key_lo[i]
        ):
            mark = _mark(state, limits, ring, int(body_len[i]) + FRAME_OVERHEAD)
        marks[i] = mark
        state[COUNTS + mark] += 1
        if mark == _PASSED:
            released_at[count] = state[NOW]
            count += 1
    return count
