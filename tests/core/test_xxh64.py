"""XXH64 against published hashes, and against the specification in plain integers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.xxh64 import hash_records, xxh64
from tests.plain import rest_passes
from tests.records import ROWS, Row, records_of

MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579,
    2870177450012600261,
)  # fmt: skip


def hashed(data: bytes, seed: int = 0) -> int:
    """Hash a slice whose neighbours must not be read."""
    buf = np.frombuffer(b"\xff" + data + b"\xff" * 32, np.uint8)
    return int(xxh64(buf, 1, len(data), np.uint64(seed)))


def slow(data: bytes, seed: int) -> int:
    """Hash by the seven steps of the specification."""

    def left(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    def step(lane: int, word: int) -> int:
        return left((lane + word * P2) & MASK, 31) * P1 & MASK

    lanes = [seed + P1 + P2, seed + P2, seed, seed - P1]
    lanes = [lane & MASK for lane in lanes]
    stripes, rest = data[: len(data) // 32 * 32], data[len(data) // 32 * 32 :]
    for words in struct.iter_unpack("<4Q", stripes):
        lanes = [step(lane, word) for lane, word in zip(lanes, words, strict=True)]
    whole = seed + P5
    if stripes:
        turned = zip(lanes, (1, 7, 12, 18), strict=True)
        whole = sum(left(lane, bits) for lane, bits in turned) & MASK
        for lane in lanes:
            whole = ((whole ^ step(0, lane)) * P1 + P4) & MASK
    whole = (whole + len(data)) & MASK
    while len(rest) >= 8:
        whole = (left(whole ^ step(0, int.from_bytes(rest[:8], "little")), 27) * P1 + P4) & MASK
        rest = rest[8:]
    if len(rest) >= 4:
        word = int.from_bytes(rest[:4], "little")
        whole = (left(whole ^ word * P1 & MASK, 23) * P2 + P3) & MASK
        rest = rest[4:]
    for octet in rest:
        whole = left(whole ^ octet * P5 & MASK, 11) * P1 & MASK
    whole = (whole ^ whole >> 33) * P2 & MASK
    whole = (whole ^ whole >> 29) * P3 & MASK
    return whole ^ whole >> 32


@pytest.mark.parametrize(
    ("data", "seed", "wanted"),
    [
        (b"", 0, 0xEF46DB3751D8E999),
        (b"", 0xF00DF00DF00DF00D, 0x013F6A1BB39C1087),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"abc", 0, 0x44BC2CF5AD770999),
        (b"xxhash", 20141025, 13067679811253438005),
        (b"Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_published_hashes(data: bytes, seed: int, wanted: int) -> None:
    """What other implementations publish: nothing, a letter, a word, more than a stripe."""
    assert hashed(data, seed) == slow(data, seed) == wanted


@given(st.binary(max_size=150), st.integers(0, MASK))
@example(bytes(range(128)), MASK)
def test_any_bytes_hash_as_specified(data: bytes, seed: int) -> None:
    """Every length, with whole stripes and any rest, under any seed."""
    assert hashed(data, seed) == slow(data, seed)


@given(st.lists(ROWS, max_size=5))
def test_a_record_is_its_value_seeded_with_its_key(rows: list[Row]) -> None:
    """Each row by itself, whoever its neighbours are; and no byte can move from key to value."""
    batch = records_of("t", rows)
    out = np.empty(len(rows), np.uint64)
    hash_records(batch.keys, batch.key_end, batch.values, batch.value_end, out)
    assert out.tolist() == [slow(row.value, slow(row.key, 0)) for row in rows]
    assert slow(b"bc", slow(b"a", 0)) != slow(b"c", slow(b"ab", 0))


def test_plain_python_hashes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
