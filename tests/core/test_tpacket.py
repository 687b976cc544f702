"""Blocks of TPACKET_V3 laid out by hand: walked, resumed, tags put back, and never believed."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.arenas import Arena, scratch
from core.bpf import MEM_WORDS
from core.tpacket import (
    BLOCK,
    BYTES,
    COLUMNS,
    FILTERED,
    LEFT,
    LOST,
    PACKETS,
    PLACE_FIELDS,
    ROWS,
    TALLY_FIELDS,
    TRUNCATED,
    USED,
    walk,
)
from tests.plain import printed

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES, SNAPLEN = 1024, 200
SECOND = 1_700_000_000
ANYTHING = np.zeros((0, 4), np.int64)
MACS = bytes(range(12))
VALID, TPID_VALID = 1 << 4, 1 << 6

Beside = tuple[int, int, int]  # status, tag, its protocol


def packet(data: bytes, wire: int, at: int, beside: Beside = (0, 0, 0), *, last: bool) -> bytes:
    """Lay out one packet as the kernel does."""
    size = -(-(80 + len(data)) // 8) * 8
    status, tci, tpid = beside
    head = struct.pack(
        "=6I2H2I2H8x", 0 if last else size, SECOND, at, len(data), wire, status, 80, 94,
        0, tci, tpid, 0,
    )  # fmt: skip
    return (head.ljust(80, b"\0") + data).ljust(size, b"\0")


def block(packets: list[tuple[bytes, Beside]], status: int = 1) -> bytes:
    """Lay out one block."""
    body = b"".join(
        packet(data, len(data), i, beside, last=i == len(packets) - 1)
        for i, (data, beside) in enumerate(packets)
    )
    head = struct.pack("=6IQ4I", 1, 0, status, len(packets), 48, 48 + len(body), 1, 0, 0, 0, 0)
    return (head + body).ljust(BLOCK_BYTES, b"\0")


@dataclass
class Rung:
    """A ring, and how far it was walked."""

    blocks: bytes
    tags: int = 1
    program: NDArray[np.int64] = field(default_factory=lambda: ANYTHING)
    place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PLACE_FIELDS, np.int64))
    tally: NDArray[np.int64] = field(default_factory=lambda: np.zeros(TALLY_FIELDS, np.int64))

    def __post_init__(self) -> None:
        self.words = np.frombuffer(bytearray(self.blocks), np.uint32)
        self.place[LEFT] = -1

    def into(self, arena: Arena) -> bool:
        """Walk on."""
        self.place[ROWS], self.place[USED] = arena.rows, arena.used
        done = walk(
            self.words.view(np.uint8), self.words, BLOCK_BYTES,
            np.array([SNAPLEN, 7, self.tags]), self.program, np.zeros(MEM_WORDS, np.int64),
            self.place, self.tally, arena.memory, *arena.columns.values(),
        )  # fmt: skip
        arena.rows, arena.used = int(self.place[ROWS]), int(self.place[USED])
        return bool(done)

    def statuses(self) -> list[int]:
        """Return whose the blocks are: 0 the kernel's."""
        return [int(word) for word in self.words[2 :: BLOCK_BYTES // 4]]


def rows_of(arena: Arena) -> list[tuple[bytes, int, int, int]]:
    filled = arena.filled()
    columns = (filled[name].tolist() for name in COLUMNS)
    return [
        (filled["arena"][a : a + n].tobytes(), wire, at, link)
        for a, n, wire, at, link in zip(*columns, strict=True)
    ]


def plain(*data: bytes) -> list[tuple[bytes, Beside]]:
    return [(each, (0, 0, 0)) for each in data]


def test_blocks_are_taken_in_turn_and_given_back() -> None:
    """Each block that is ours is copied and returned; the first that is not ends the walk."""
    rung = Rung(block(plain(b"one", b"three")) + block([]) + block(plain(b"xx"), status=0))
    arena = scratch(COLUMNS, 8, 1024)
    assert rung.into(arena)
    at = SECOND * 1_000_000_000
    assert rows_of(arena) == [(b"one", 3, at, 7), (b"three", 5, at + 1, 7)]
    assert rung.statuses() == [0, 0, 0]
    assert rung.place[BLOCK] == 2
    rung.words[2 * BLOCK_BYTES // 4 + 2] = 1
    assert rung.into(arena)
    assert rows_of(arena)[2:] == [(b"xx", 2, at, 7)]
    assert rung.place[BLOCK] == 0
    assert rung.tally[[PACKETS, BYTES, LOST]].tolist() == [3, 10, 0]


@pytest.mark.parametrize(("rows", "bytes_"), [(1, 1024), (8, 200), (2, 300)])
def test_a_full_arena_ends_the_walk_and_another_goes_on(rows: int, bytes_: int) -> None:
    """A block that was taken in part stays ours until the rest is taken; nothing is taken twice."""
    data = [bytes([i]) * 150 for i in range(4)]
    rung = Rung(block(plain(*data)) + block(plain(*data), status=0))
    got = []
    for turn in range(4):
        arena = scratch(COLUMNS, rows, bytes_)
        done = rung.into(arena)
        got += [row[0] for row in rows_of(arena)]
        assert rung.statuses()[0] == (0 if done else 1)
        if done:
            break
        assert turn < 3
    assert got == data


@pytest.mark.parametrize(
    ("beside", "tag"),
    [
        ((VALID, 5, 0), "81000005"),
        ((VALID | TPID_VALID, 0x2007, 0x88A8), "88a82007"),
        ((VALID | TPID_VALID, 0, 0x8100), "81000000"),
        ((0, 9, 0), "81000009"),
    ],
)
def test_tags_are_put_back(beside: Beside, tag: str) -> None:
    """A tag beside a packet lies behind the addresses again, and counts in both lengths."""
    data = MACS + b"\x08\x00body"
    want = MACS + bytes.fromhex(tag) + b"\x08\x00body"
    arena = scratch(COLUMNS, 8, 1024)
    Rung(block([(data, beside)]) + block([], 0)).into(arena)
    assert [row[:2] for row in rows_of(arena)] == [(want, len(want))]
    without = scratch(COLUMNS, 8, 1024)
    Rung(block([(data, beside)]) + block([], 0), tags=0).into(without)
    assert [row[:2] for row in rows_of(without)] == [(data, len(data))]


def test_a_packet_is_cut_with_its_tag() -> None:
    """The snap length counts the tag, and what was cut is known."""
    data = MACS + b"\x08\x00" + bytes(SNAPLEN - 14)
    rung = Rung(block([(data, (VALID, 1, 0)), (data, (0, 0, 0))]) + block([], 0))
    arena = scratch(COLUMNS, 8, 1024)
    rung.into(arena)
    assert arena.columns["caplen"][:2].tolist() == [SNAPLEN, SNAPLEN]
    assert arena.columns["wirelen"][:2].tolist() == [SNAPLEN + 4, SNAPLEN]
    assert rung.tally[TRUNCATED] == 1


def test_tagged_packets_are_judged_whole() -> None:
    """A filter is asked about packets whose tag was put back, and about no others."""
    vlan = np.array([(0x28, 0, 0, 14), (0x15, 0, 1, 5), (6, 0, 0, 1), (6, 0, 0, 0)], np.int64)
    data = MACS + b"\x08\x00body"
    packets = [(data, (VALID, 5, 0)), (data, (VALID, 6, 0)), (data, (0, 0, 0))]
    rung = Rung(block(packets) + block([], 0), program=vlan)
    arena = scratch(COLUMNS, 8, 1024)
    rung.into(arena)
    assert [row[0][12:16].hex() for row in rows_of(arena)] == ["81000005", "0800626f"]
    assert rung.tally[[PACKETS, FILTERED]].tolist() == [2, 1]


def put(blocks: bytes, at: int, shape: str, value: int) -> bytes:
    whole = bytearray(blocks)
    struct.pack_into(shape, whole, at, value)
    return bytes(whole)


@pytest.mark.parametrize(
    ("at", "shape", "value"),
    [
        (16, "=I", BLOCK_BYTES - 40),  # the first packet too near the end
        (16, "=I", 4),
        (16, "=I", 0xFFFF_FFF0),
        (16, "=I", 50),
        (48 + 12, "=I", 2000),  # more bytes than the block has
        (48 + 12, "=I", 0xFFFF_FFFF),
        (48 + 24, "=H", 20),  # the packet inside its own header
        (48 + 24, "=H", 0xFFFF),
    ],
)
def test_offsets_are_not_believed(at: int, shape: str, value: int) -> None:
    """What would lead out of a block ends it; its packets count as lost, and the next come."""
    blocks = put(block(plain(b"one", b"two")), at, shape, value) + block(plain(b"next"))
    rung = Rung(blocks + block([], 0))
    arena = scratch(COLUMNS, 8, 1024)
    rung.into(arena)
    assert [row[0] for row in rows_of(arena)] == [b"next"]
    assert rung.tally[LOST] == 2
    assert rung.statuses() == [0, 0, 0]


def test_a_packet_that_follows_itself_ends() -> None:
    """However many packets a block claims, it is walked in bounded time."""
    blocks = put(put(block(plain(b"one")), 12, "=I", 0xFFFF_FFFF), 48, "=I", 0)
    rung = Rung(blocks + block([], 0))
    arena = scratch(COLUMNS, 100, 4096)
    assert rung.into(arena)
    assert rung.tally[PACKETS] == BLOCK_BYTES // 48


def walked(seed: int) -> str:
    """Walk rings of which some bytes are wrong; return a digest of what came out."""
    random = np.random.default_rng(seed)
    digest = hashlib.blake2b()
    for _ in range(150):
        sizes = random.integers(0, 120, 4)
        packets: list[tuple[bytes, Beside]] = [
            (bytes(random.bytes(int(n))), (int(random.integers(0, 128)), int(n) & 7, 0))
            for n in sizes
        ]
        raw = np.frombuffer(bytearray(block(packets) * 2), np.uint8)
        for at in random.integers(0, 400, int(random.integers(0, 6))):
            raw[at] = random.integers(0, 256)
        raw[8] = 1
        rung = Rung(raw.tobytes())
        for _ in range(6):
            arena = scratch(COLUMNS, 5, 300)
            done = rung.into(arena)
            digest.update(repr((done, rows_of(arena), rung.place[:3], rung.tally)).encode())
    return digest.hexdigest()


@given(st.binary(min_size=2 * BLOCK_BYTES, max_size=2 * BLOCK_BYTES))
def test_any_bytes_are_walked(raw: bytes) -> None:
    """Whatever is in a ring, rows lie inside the arena, and the walk ends."""
    rung = Rung(put(raw, 8, "=I", 1))
    arena = scratch(COLUMNS, 64, 1024)
    rung.into(arena)
    assert arena.rows <= 64
    assert arena.used == arena.filled()["caplen"].sum() <= 1024


def test_plain_python_walks_alike() -> None:
    """The kernel takes what plain Python takes, of sound rings and of broken ones."""
    assert printed(__file__) == walked(11)


if __name__ == "__main__":
    print(walked(11))
