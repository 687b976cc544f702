"""XXH64: a 64-bit hash of bytes, the same on every machine, that standard tools compute too.

It tells records of one packet apart (`core.cloudevents`); it is no defence against who wants two
records to look alike.

Law: the hash of a record is XXH64 of its value, seeded with XXH64 of its key (itself seeded
with 0), so that no byte can move from the key to the value unseen.

Source: xxHash fast digest algorithm (`xxhash_spec.md`), version 0.2.0, "XXH64".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.kernels import A_i8, A_u1, A_u8, i8, kernel, none, u8

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_SEED = np.uint64(0)

# What is hashed is only read, and may come from wherever.
_BYTES, _ENDS = A_u1.copy(readonly=True), A_i8.copy(readonly=True)

STRIPE = 32
"""Bytes taken at once, eight for each of four lanes."""


@kernel(u8(_BYTES, i8), inline=True)
def _le32(buf: Any, at: Any) -> Any:
    return (
        np.uint64(buf[at])
        | (np.uint64(buf[at + 1]) << np.uint64(8))
        | (np.uint64(buf[at + 2]) << np.uint64(16))
        | (np.uint64(buf[at + 3]) << np.uint64(24))
    )


@kernel(u8(_BYTES, i8), inline=True)
def _le64(buf: Any, at: Any) -> Any:
    return _le32(buf, at) | (_le32(buf, at + 4) << np.uint64(32))


@kernel(u8(u8, i8), inline=True)
def _left(x: Any, bits: Any) -> Any:
    """Rotate to the left."""
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel(u8(u8, u8), inline=True)
def _round(lane: Any, word: Any) -> Any:
    return _left(lane + word * _P2, 31) * _P1


@kernel(u8(u8, u8), inline=True)
def _merge(whole: Any, lane: Any) -> Any:
    return (whole ^ _round(np.uint64(0), lane)) * _P1 + _P4


@kernel(u8(_BYTES, i8, i8, u8))
def xxh64(buf: Any, start: Any, size: Any, seed: Any) -> Any:
    """Hash a slice.

    Args:
        buf: `uint8`.
        start: Where the slice begins.
        size: Its bytes.
        seed: Any `uint64`.

    Returns:
        The hash, `uint64`.
    """
    at = start
    end = start + size
    if size >= STRIPE:
        a = seed + _P1 + _P2
        b = seed + _P2
        c = seed
        d = seed - _P1
        while at + STRIPE <= end:
            # In a slice indexed from zero the compiler sees that eight bytes are one word, and the
            # hash is five times as fast as with `buf[at + 1]`.
            stripe = buf[at : at + STRIPE]
            a = _round(a, _le64(stripe, 0))
            b = _round(b, _le64(stripe, 8))
            c = _round(c, _le64(stripe, 16))
            d = _round(d, _le64(stripe, 24))
            at += STRIPE
        whole = _left(a, 1) + _left(b, 7) + _left(c, 12) + _left(d, 18)
        whole = _merge(_merge(_merge(_merge(whole, a), b), c), d)
    else:
        whole = seed + _P5
    whole = whole + np.uint64(size)
    while at + 8 <= end:
        whole = _left(whole ^ _round(np.uint64(0), _le64(buf, at)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        whole = _left(whole ^ (_le32(buf, at) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        whole = _left(whole ^ (np.uint64(buf[at]) * _P5), 11) * _P1
        at += 1
    whole = (whole ^ (whole >> np.uint64(33))) * _P2
    whole = (whole ^ (whole >> np.uint64(29))) * _P3
    return whole ^ (whole >> np.uint64(32))


@kernel(none(_BYTES, _ENDS, _BYTES, _ENDS, A_u8))
def hash_records(keys: Any, key_end: Any, values: Any, value_end: Any, out: Any) -> None:
    """Write the hash of each record: of its value, seeded with that of its key.

    Args:
        keys: `uint8`; keys one after another.
        key_end: `(n,) int64`; where each ends.
        values: `uint8`; values one after another.
        value_end: `(n,) int64`; where each ends.
        out: `(n,) uint64`; written.
    """
    key = 0
    value = 0
    for i in range(out.size):
        seed = xxh64(keys, key, key_end[i] - key, _SEED)
        out[i] = xxh64(values, value, value_end[i] - value, seed)
        key = key_end[i]
        value = value_end[i]
