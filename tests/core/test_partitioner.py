"""Partitions: the hashes of Kafka's own test, and those of the algorithm in plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.partitioner import murmur2, partitions_of
from tests.plain import rest_passes
from tests.records import ROWS, Row, records_of


def signed(key: bytes) -> int:
    """Hash a key that lies among others, and read the result as Java does."""
    buf = np.frombuffer(b"\xff" + key + b"\xff\xff\xff\xff", np.uint8)
    found = int(murmur2(buf, 1, len(key)))
    assert 0 <= found < 2**32
    return found - 2**32 if found >= 2**31 else found


def slow(key: bytes) -> int:
    """Hash as MurmurHash2 is written down, four bytes at a time and then the rest."""
    m, mask = 0x5BD1E995, 2**32 - 1
    whole = 0x9747B28C ^ len(key)
    words = len(key) // 4
    for i in range(words):
        word = int.from_bytes(key[4 * i : 4 * i + 4], "little") * m & mask
        word = (word ^ word >> 24) * m & mask
        whole = whole * m & mask ^ word
    if key[4 * words :]:
        whole = (whole ^ int.from_bytes(key[4 * words :], "little")) * m & mask
    whole = (whole ^ whole >> 13) * m & mask
    return whole ^ whole >> 15


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hashes_of_kafka(key: bytes, wanted: int) -> None:
    """The cases of Kafka's own `UtilsTest.testMurmur2`."""
    assert signed(key) == wanted
    assert slow(key) == wanted % 2**32


@given(st.lists(ROWS, max_size=8), st.integers(1, 10_000))
def test_a_key_has_one_partition_whoever_is_beside_it(rows: list[Row], partitions: int) -> None:
    """Any keys, empty ones too, in a batch as alone: the positive half of the hash, divided."""
    batch = records_of("t", rows)
    batch.keys.flags.writeable = batch.key_end.flags.writeable = False
    found = partitions_of(batch, partitions).tolist()
    assert found == [(slow(row.key) & 0x7FFFFFFF) % partitions for row in rows]
    assert all(0 <= each < partitions for each in found)


def test_keys_counted_up_spread_over_the_partitions() -> None:
    """Each of eight partitions has its share of devices, within 10 %."""
    batch = records_of("t", [Row(b"dev-%06d" % i, b"") for i in range(8_000)])
    assert all(900 < size < 1_100 for size in np.bincount(partitions_of(batch, 8)))


def test_plain_python_chooses_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
