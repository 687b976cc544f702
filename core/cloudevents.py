"""CloudEvents: who a record is, as the attributes that go along with it as headers.

Laws:

1. Attributes are functions of the record alone: a record that is delivered again has the same.
2. `source` and `id` together name one record. Where at most one record of a topic speaks of one
   packet (`core.topics`), the packet's file and number do; else a hash of key and value is added.
3. What differs from row to row is written by kernels into one buffer, and what does not is shared.

Not here: the list of headers of a message (`core.outgoing`).

Source: CloudEvents 1.0.2, and its Kafka protocol binding, binary content mode; RFC 3339; calendar
arithmetic after H. Hinnant, "chrono-compatible low-level date algorithms".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_i8, A_u1, A_u8, i8, kernel, none
from core.text_out import (
    DECIMAL_BYTES_MAX,
    HEX_U64_BYTES,
    write_copy,
    write_decimal,
    write_hex_u64,
    write_literal,
)
from core.topics import TOPICS
from core.xxh64 import hash_records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import RecordBatch

SPEC_VERSION = b"1.0"
SOURCE = "urn:penstock:capture:"
"""Followed by the identity of a file, 16 hexadecimal digits."""
TIME_BYTES = 30
"""`2026-01-01T00:00:00.000000000Z`; the years of an `int64` of ns are 1677 … 2262."""

_SECOND_NS = 1_000_000_000
_DAY_S = 86_400
_ZERO, _MINUS, _COLON, _POINT, _T, _Z = b"0-:.TZ"
_LF = 10
_PREFIX_BYTES = 20
"""All of a time but its ns and the `Z`."""

# Columns are only read, and may come from wherever.
_READ_U1, _READ_I8 = A_u1.copy(readonly=True), A_i8.copy(readonly=True)


@kernel(none(A_u1, i8, i8, i8))
def _write_digits(out: Any, at: Any, value: Any, digits: Any) -> None:
    """Write a number that is not negative with its leading zeros."""
    ten = np.uint64(10)  # which divides twice as fast as the signed one
    rest = np.uint64(value)
    for i in range(at + digits - 1, at - 1, -1):
        out[i] = _ZERO + np.int64(rest % ten)
        rest = rest // ten


@kernel(none(A_u1, i8, i8))
def _write_second(out: Any, at: Any, second: Any) -> None:
    """Write `2026-01-01T00:00:00.` for a second since the epoch."""
    # Years begin in March here, so that the day that may be missing is their last.
    day = second // _DAY_S + 719_468
    era, of_era = day // 146_097, day % 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    of_month = of_year - (153 * month + 2) // 5
    year += era * 400
    if month < 10:
        month += 3
    else:
        month -= 9
        year += 1
    of_day = second % _DAY_S
    _write_digits(out, at, year, 4)
    _write_digits(out, at + 5, month, 2)
    _write_digits(out, at + 8, of_month + 1, 2)
    _write_digits(out, at + 11, of_day // 3_600, 2)
    _write_digits(out, at + 14, of_day // 60 % 60, 2)
    _write_digits(out, at + 17, of_day % 60, 2)
    out[at + 4] = out[at + 7] = _MINUS
    out[at + 10] = _T
    out[at + 13] = out[at + 16] = _COLON
    out[at + 19] = _POINT


@kernel(none(_READ_I8, A_u1))
def write_times(at_ns: Any, out: Any) -> None:
    """Write each time by RFC 3339, in UTC, with nine decimals.

    Args:
        at_ns: `(n,) int64`; ns since the epoch, any.
        out: `(n * TIME_BYTES,) uint8`; written, one time after another.
    """
    at = 0
    last = 0
    for i in range(at_ns.size):
        second = at_ns[i] // _SECOND_NS
        if i > 0 and second == last:
            write_copy(out, at, out, at - TIME_BYTES, _PREFIX_BYTES)
        else:
            _write_second(out, at, second)
            last = second
        _write_digits(out, at + _PREFIX_BYTES, at_ns[i] % _SECOND_NS, 9)
        out[at + TIME_BYTES - 1] = _Z
        at += TIME_BYTES


@kernel(i8(_READ_U1, _READ_I8, A_u8, A_u1))
def write_ids(topic: Any, ordinal: Any, hashes: Any, out: Any) -> Any:
    """Write `<topic>:<ordinal>`, or `<topic>:<ordinal>:<hash>`, and a line feed after each.

    Args:
        topic: `uint8`; the name of the topic.
        ordinal: `(n,) int64`; number of the packet.
        hashes: `(n,) uint64`, or empty where the packet is enough.
        out: `uint8`; room for `n` times the topic, a number, a hash and three characters.

    Returns:
        The position after the last line feed.
    """
    at = 0
    for i in range(ordinal.size):
        at = write_literal(out, at, topic)
        out[at] = _COLON
        at = write_decimal(out, at + 1, ordinal[i])
        if hashes.size > 0:
            out[at] = _COLON
            at = write_hex_u64(out, at + 1, hashes[i])
        out[at] = _LF
        at += 1
    return at


def ids(batch: RecordBatch) -> list[bytes]:
    """Return the id of each record: `<topic>:<ordinal>`, and a hash where that is not enough.

    Args:
        batch: Records of a topic of `core.topics.TOPICS`.
    """
    count = len(batch)
    hashes = np.empty(0 if TOPICS[batch.topic].one_per_packet else count, np.uint64)
    if hashes.size:
        hash_records(batch.keys, batch.key_end, batch.values, batch.value_end, hashes)
    topic = np.frombuffer(batch.topic.encode(), np.uint8)
    row_bytes_max = topic.size + DECIMAL_BYTES_MAX + HEX_U64_BYTES + 3
    out = np.empty(count * row_bytes_max, np.uint8)
    size = write_ids(topic, batch.ordinal, hashes, out)
    # Taking a text apart at its line feeds is three times as fast as slicing it.
    return out[:size].tobytes().split(b"\n")[:-1]


def times(at_ns: NDArray[np.int64]) -> list[bytes]:
    """Return each time by RFC 3339, in UTC, with nine decimals.

    Args:
        at_ns: `(n,) int64`; ns since the epoch.
    """
    out = np.empty(at_ns.size * TIME_BYTES, np.uint8)
    write_times(at_ns, out)
    found: list[bytes] = out.view(f"S{TIME_BYTES}").tolist()
    return found


def source_name(source: int) -> bytes:
    """Return the source of the records of a file, a URN."""
    return f"{SOURCE}{source:016x}".encode()
