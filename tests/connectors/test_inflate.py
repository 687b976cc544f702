"""Inflating: members, padding, every cut and every kind of damage."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.inflate import Inflater
from core.errors import SourceError

TEXT = b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(300))
PACKED = gzip.compress(TEXT, 6, mtime=0)


def inflated(packed: bytes, portion: int = 1 << 18, count: int = 1 << 16) -> tuple[bytes, str]:
    """Inflate all there is, fed in portions; return it and the damage."""
    at = 0

    def take(most: int) -> bytes:
        nonlocal at
        part = packed[at : at + min(most, portion)]
        at += len(part)
        return part

    inflater, out = Inflater(take), b""
    try:
        while part := inflater.read(count):
            assert len(part) <= count
            out += part
    except SourceError as error:
        with pytest.raises(SourceError):
            inflater.read(1)
        return out, str(error)
    assert inflater.read(1) == b""
    return out, ""


@given(
    texts=st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    portion=st.integers(1, 300),
    count=st.integers(1, 300),
    padding=st.integers(0, 600),
)
def test_members_follow_one_another(
    texts: list[bytes], portion: int, count: int, padding: int
) -> None:
    """Any members, zero-padded, in any portions, inflate to their contents joined."""
    packed = b"".join(gzip.compress(t, mtime=0) + bytes(padding) for t in texts)
    assert inflated(packed, portion, count) == (b"".join(texts), "")


def test_every_cut_hands_out_what_came_before() -> None:
    """Cut anywhere, gzip yields as much as zlib can make of it, then says where it ended."""
    for cut in range(1, len(PACKED)):
        z = zlib.decompressobj(31)
        want = z.decompress(PACKED[:cut])
        assert inflated(PACKED[:cut]) == (want, "ends inside its gzip data")
    second, damage = inflated(PACKED + PACKED[:-1])
    assert (second, damage) == (TEXT * 2, "ends inside its gzip data")


@settings(max_examples=50)
@given(where=st.integers(12, len(PACKED) - 1), flip=st.integers(1, 255), portion=st.integers(1, 99))
def test_damage_costs_only_what_lies_behind_it(where: int, flip: int, portion: int) -> None:
    """A changed byte leaves all that was deflated before it, in whatever portions it came."""
    packed = bytearray(PACKED)
    packed[where] ^= flip
    safe = zlib.decompressobj(31).decompress(PACKED[:where])
    whole, damage = inflated(bytes(packed))
    assert whole.startswith(safe)
    assert damage
    assert inflated(bytes(packed), portion) == (whole, damage)


def test_checksums_are_compared() -> None:
    """A wrong checksum is damage, told after the whole content."""
    packed = PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:]
    text, damage = inflated(packed)
    assert text == TEXT
    assert damage == "its gzip data is damaged (incorrect data check)"


@pytest.mark.parametrize("tail", [b"garbage", b"\x1f", b"\0\0\0x"])
def test_what_follows_and_is_no_gzip_is_damage(tail: bytes) -> None:
    """The content is handed out whole before what follows is complained of."""
    text, damage = inflated(PACKED + tail)
    assert text == TEXT
    assert "not gzip follows" in damage


def test_a_bomb_is_inflated_as_asked_for() -> None:
    """A few kilobytes that inflate to 64 MiB are handed out in the portions asked for."""
    packed = gzip.compress(bytes(64 << 20), 9, mtime=0)
    at = [0]

    def take(most: int) -> bytes:
        part = packed[at[0] : at[0] + most]
        at[0] += len(part)
        return part

    inflater, total = Inflater(take), 0
    while part := inflater.read(1 << 16):
        assert len(part) <= 1 << 16
        total += len(part)
    assert total == 64 << 20


@settings(max_examples=200)
@given(noise=st.binary(max_size=200), portion=st.integers(1, 50))
def test_any_bytes_inflate_or_are_damage(noise: bytes, portion: int) -> None:
    """Noise behind a gzip header ends in data, in damage, or both; never otherwise."""
    _, damage = inflated(PACKED[:10] + noise, portion)
    assert damage or len(noise) >= 8
