"""Partitions: which partition of a topic the records of a key are in.

Law: the partition of a key is that of Java's default partitioner and of librdkafka's
`murmur2_random`: `(murmur2(key) & 0x7fffffff) % partitions`. An empty key is a key like any other.

Not here: records without a key; there are none.

Source: Apache Kafka, `org.apache.kafka.common.utils.Utils.murmur2`; A. Appleby, MurmurHash2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_i4, A_i8, A_u1, i8, kernel, none, u8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import RecordBatch

_M = np.uint64(0x5BD1E995)
_SEED = np.uint64(0x9747B28C)
_32_BITS = np.uint64(0xFFFFFFFF)
_NOT_NEGATIVE = np.uint64(0x7FFFFFFF)

# Keys are only read, and may come from wherever.
_KEYS, _ENDS = A_u1.copy(readonly=True), A_i8.copy(readonly=True)


@kernel(u8(_KEYS, i8, i8))
def murmur2(buf: Any, start: Any, size: Any) -> Any:
    """Hash a key as Kafka's clients do.

    Args:
        buf: `uint8`.
        start: Where the key begins.
        size: Its bytes.

    Returns:
        The hash, 32 bits in a `uint64`; Java reads them as a signed number.
    """
    whole = (_SEED ^ np.uint64(size)) & _32_BITS
    rest = size % 4
    end = start + size - rest
    for at in range(start, end, 4):
        word = (
            np.uint64(buf[at])
            | (np.uint64(buf[at + 1]) << np.uint64(8))
            | (np.uint64(buf[at + 2]) << np.uint64(16))
            | (np.uint64(buf[at + 3]) << np.uint64(24))
        )
        word = (word * _M) & _32_BITS
        word = ((word ^ (word >> np.uint64(24))) * _M) & _32_BITS
        whole = ((whole * _M) & _32_BITS) ^ word
    if rest > 0:
        for i in range(rest):
            whole = whole ^ (np.uint64(buf[end + i]) << np.uint64(8 * i))
        whole = (whole * _M) & _32_BITS
    whole = ((whole ^ (whole >> np.uint64(13))) * _M) & _32_BITS
    return whole ^ (whole >> np.uint64(15))


@kernel(none(_KEYS, _ENDS, i8, A_i4))
def _choose(keys: Any, key_end: Any, partitions: Any, out: Any) -> None:
    """Write the partition of each key."""
    start = 0
    for i in range(out.size):
        positive = murmur2(keys, start, key_end[i] - start) & _NOT_NEGATIVE
        out[i] = np.int64(positive) % partitions
        start = key_end[i]


def partitions_of(batch: RecordBatch, partitions: int) -> NDArray[np.int32]:
    """Return the partition of each record, `(n,) int32`.

    Args:
        batch: Any records.
        partitions: How many there are, at least 1.
    """
    out = np.zeros(len(batch), np.int32)
    if partitions > 1:
        _choose(batch.keys, batch.key_end, partitions, out)
    return out
