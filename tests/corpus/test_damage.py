"""Real captures, damaged: cut anywhere, with bytes flipped, and two spliced into one.

The pairs of capture and damage are drawn with a fixed seed, so that a failure can be repeated.
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.corpus.runs import MODES, inflated, replayed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus

PAIRS = 200
BYTES_MAX = 200_000
"""Larger captures are left out: their damage is no other, and takes longer."""
FLIPS_MAX = 64
SEED = 20_111


def cut(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Keep the head of a capture."""
    del other
    return data[: chance.randrange(len(data))]


def flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Change a few bytes, half the time near the front, where the file's own headers are."""
    del other
    out = bytearray(data)
    reach = min(len(out), 200) if chance.random() < 0.5 else len(out)
    for _ in range(chance.randint(1, FLIPS_MAX)):
        out[chance.randrange(reach)] ^= chance.randint(1, 255)
    return bytes(out)


def splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Go on, from anywhere in a capture, with another one from anywhere."""
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def drop(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Leave out a few bytes, so that every later record is read off by some."""
    del other
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randint(1, 40) :]


def repack(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Compress a capture, then cut or change the compressed bytes."""
    packed = gzip.compress(data, 1)
    return chance.choice((cut, flip, splice))(chance, packed, other)


DAMAGES = (cut, flip, splice, drop, repack)


@pytest.mark.slow
def test_damaged_captures_never_raise_and_always_add_up(
    captures: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever happened to a capture, it is read as far as it goes, or named as unreadable."""
    chance = random.Random(SEED)
    small = [name for name, path in captures.items() if path.stat().st_size <= BYTES_MAX]
    path = tmp_path / "damaged.pcap"
    outcomes: Counter[str] = Counter()
    for number in range(PAIRS):
        first, second = chance.sample(small, 2)
        damage = DAMAGES[number % len(DAMAGES)]
        path.write_bytes(damage(chance, inflated(captures[first]), inflated(captures[second])))
        summary, notices = replayed(path, by=MODES[number // len(DAMAGES) % 2])
        files = summary.files
        assert files.read + files.unreadable == 1, (first, second, damage.__name__)
        assert files.truncated <= files.read
        assert summary.packets_in == 0 or files.read
        assert all(str(path) in line for line in notices)
        if files.unreadable or files.truncated:
            assert notices, (first, second, damage.__name__)
        outcomes["unreadable"] += files.unreadable
        outcomes["truncated"] += files.truncated
        outcomes["packets"] += summary.packets_in
        outcomes["malformed"] += sum(summary.malformed.values())
    assert min(outcomes[each] for each in ("unreadable", "truncated")) > 10, outcomes
    assert outcomes["packets"] > outcomes["malformed"] > 50, outcomes
