"""The loop of `core.readings`: records of telemetry, as Penstock writes them, to columns.

Laws:

1. A record is taken here only if it is laid out just as `core.record_kernels` does, without escapes
   in its id, and its body is one strict JSON value. It is then sound JSON as a whole.
2. Any other is `OTHER`: it may be sound and laid out otherwise, which is for a JSON library to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.body import utf8_valid, validate
from core.frame import ID_LEN
from core.kernels import A_i4, A_i8, A_u1, A_u4, A_u8, i8, kernel, none
from core.text_key import pack_id

OTHER = 255
"""Not laid out as we do."""

SEQ_MAX = (1 << 32) - 1
TIME_NS_MAX = 9_100_000_000 * 1_000_000_000
"""Latest time of a record (the year 2258): later than any capture tells, with room to add to it."""

_ID, _SEQ = (np.frombuffer(text, np.uint8) for text in (b'{"id":"', b'","seq":'))
_DATA, _TIME = (np.frombuffer(text, np.uint8) for text in (b',"data":', b',"ts":'))
_NULL = np.frombuffer(b"null", np.uint8)
_QUOTE, _BACKSLASH, _END, _ZERO = 0x22, 0x5C, 0x7D, 0x30

_TEXT = A_u1.copy(readonly=True)

# What a record says: where its body lies and ends, its sequence number, its time.
_BODY, _BODY_END, _NUMBER, _AT = 0, 1, 2, 3
_FIELDS = 4


@kernel(i8(A_u1, i8, i8, _TEXT))
def _match(buf: Any, at: Any, end: Any, text: Any) -> Any:
    """Return the position after a text, or -1 when it is not there."""
    if at < 0 or end - at < text.size:
        return -1
    for i in range(text.size):
        if buf[at + i] != text[i]:
            return -1
    return at + text.size


@kernel(i8(A_u1, i8, i8, i8))
def _number(buf: Any, at: Any, end: Any, largest: Any) -> Any:
    """Return a number without leading zeros that fills a slice, or -1 when it is none."""
    size = end - at
    if size < 1 or size > 19 or (size > 1 and buf[at] == _ZERO):
        return -1
    value = np.uint64(0)
    for i in range(at, end):
        digit = int(buf[i]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * np.uint64(10) + np.uint64(digit)
    return np.int64(value) if value <= np.uint64(largest) else -1


@kernel(i8(A_u1, i8, i8, A_u8, A_i8))
def _record(buf: Any, start: Any, end: Any, key: Any, row: Any) -> Any:
    """Read one record into `key` and `row`; return 0, or `OTHER`."""
    at = _match(buf, start, end, _ID)
    if at < 0:
        return OTHER
    size = 0
    while at + size < end and buf[at + size] != _QUOTE:
        if buf[at + size] == _BACKSLASH or buf[at + size] < 0x20 or size == ID_LEN:
            return OTHER
        size += 1
    if not utf8_valid(buf, at, size):
        return OTHER
    pack_id(buf, at, size, key)
    number = _match(buf, at + size, end, _SEQ)
    at = number
    while at >= 0 and at < end and _ZERO <= buf[at] <= _ZERO + 9:
        at += 1
    body = _match(buf, at, end, _DATA)
    if body < 0:
        return OTHER
    row[_NUMBER] = _number(buf, number, at, SEQ_MAX)
    # From the other end, because only what follows the body says where it ends.
    if buf[end - 1] != _END:
        return OTHER
    time = end - 1
    while time > body and _ZERO <= buf[time - 1] <= _ZERO + 9:
        time -= 1
    row[_AT] = _number(buf, time, end - 1, TIME_NS_MAX)
    row[_BODY], row[_BODY_END] = body, time - _TIME.size
    if row[_NUMBER] < 0 or row[_AT] < 0 or row[_BODY_END] <= body:
        return OTHER
    return 0 if _match(buf, time - _TIME.size, end, _TIME) == time else OTHER


@kernel(
    none(A_u1, A_i8, A_i4, i8, A_u1, A_u8, A_u8, A_u4, A_i8, A_i4, A_i8), allocates=True
)  # fmt: skip
def read_telemetry(
    arena: Any, start: Any, length: Any, body_bytes_max: Any, reason: Any, key_hi: Any,
    key_lo: Any, seq: Any, body: Any, body_len: Any, at_ns: Any,
) -> None:  # fmt: skip
    """Read records; the columns of one that is `OTHER` are left as they are.

    Args:
        arena: `uint8`; holds the values.
        start: `(n,) int64`; where each begins.
        length: `(n,) int32`; its bytes.
        body_bytes_max: Largest body taken here; a larger one is `OTHER`.
        reason: `(n,) uint8`; written: 0 or `OTHER`.
        key_hi: `(n,) uint64`; written: the device id, as in `FrameBatch`.
        key_lo: `(n,) uint64`; likewise.
        seq: `(n,) uint32`; written.
        body: `(n,) int64`; written: where its body begins.
        body_len: `(n,) int32`; written: its bytes, 0 for `null`.
        at_ns: `(n,) int64`; written: its time, ns since the epoch, at most `TIME_NS_MAX`.
    """
    key = np.zeros(2, np.uint64)
    row = np.zeros(_FIELDS, np.int64)
    for i in range(start.size):
        found = _record(arena, start[i], start[i] + length[i], key, row)
        size = row[_BODY_END] - row[_BODY]
        if found == 0:
            if size == _NULL.size and _match(arena, row[_BODY], row[_BODY_END], _NULL) >= 0:
                size = 0
            elif size > body_bytes_max or not validate(arena, row[_BODY], size):
                found = OTHER
        reason[i] = found
        if found == 0:
            key_hi[i], key_lo[i] = key[0], key[1]
            seq[i], at_ns[i] = row[_NUMBER], row[_AT]
            body[i], body_len[i] = row[_BODY], size


@kernel(none(A_u1, A_i8, A_i4, A_u1))
def check_bodies(arena: Any, body: Any, body_len: Any, sound: Any) -> None:
    """Tell which slices of an arena are one strict JSON value each.

    Args:
        arena: `uint8`.
        body: `(n,) int64`; where each slice begins.
        body_len: `(n,) int32`; its bytes.
        sound: `(n,) uint8`; written: 1 or 0.
    """
    for i in range(body.size):
        sound[i] = 1 if validate(arena, body[i], body_len[i]) else 0
