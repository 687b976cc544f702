"""Datagrams: control messages and senders by hand, segments, cuts, counters that wrap."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.arenas import Arena, scratch
from core.datagrams import (
    BYTES,
    CONTROL_BYTES,
    DATAGRAMS,
    KERNEL_DROPPED,
    NAME_BYTES,
    PLACE_FIELDS,
    TALLY_FIELDS,
    TRUNCATED,
    Datagrams,
    add_drops,
    read_control,
    unpack,
)
from core.frame import device_frames, encode_frame
from core.host import key_text
from core.reasons import Reason
from tests.plain import printed, rest_passes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOT = 256
AT = 1_700_000_000_123_456_789
NAMED = struct.pack("=H", 2) + struct.pack("!H4s", 40_000, bytes([192, 0, 2, 7]))
NAMED_6 = struct.pack("=H", 10) + struct.pack("!HI16sI", 40_001, 0, bytes([0x20, 1, *range(14)]), 0)


def control(level: int, kind: int, data: bytes) -> bytes:
    padding = bytes(-len(data) % 8)
    return struct.pack("=Qii", 16 + len(data), level, kind) + data + padding


def timed(at_ns: int) -> bytes:
    return control(1, 35, struct.pack("=qq", *divmod(at_ns, 1_000_000_000)))


def found_in(raw: bytes, after: bytes = b"") -> list[int]:
    """Read control messages that others precede, and `after` follows."""
    before = timed(1)
    buffer = np.frombuffer(bytearray(before + raw + after), np.uint8)
    found = np.array([0, 0, -1])
    read_control(buffer, len(before), len(before) + len(raw), found)
    return list(map(int, found))


@dataclass
class Received:
    """What one call of `recvmmsg` left in its buffers."""

    messages: list[tuple[bytes, int, bytes, bytes]]  # what fits, whole length, name, control
    place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PLACE_FIELDS, np.int64))
    tally: NDArray[np.int64] = field(default_factory=lambda: np.zeros(TALLY_FIELDS, np.int64))

    def __post_init__(self) -> None:
        count = len(self.messages)
        self.words = np.zeros(8 * count, np.int64)
        self.halves = self.words.view(np.int32)
        self.names = np.zeros(NAME_BYTES * count, np.uint8)
        self.control = np.zeros(CONTROL_BYTES * count, np.uint8)
        self.slots = np.zeros(SLOT * count, np.uint8)
        for i, (data, size, name, raw) in enumerate(self.messages):
            self.slots[i * SLOT :][: len(data)] = np.frombuffer(data, np.uint8)
            self.names[i * NAME_BYTES :][: len(name)] = np.frombuffer(name, np.uint8)
            self.control[i * CONTROL_BYTES :][: len(raw)] = np.frombuffer(raw, np.uint8)
            self.words[8 * i + 5] = len(raw)
            self.halves[16 * i + 14] = size
        self.place[0] = count

    def into(self, arena: Arena, bytes_max: int = SLOT) -> int:
        self.place[3], self.place[4] = arena.rows, arena.used
        count = unpack(
            self.halves, self.words, self.names, self.control, self.slots, SLOT, SLOT, bytes_max,
            9999, self.place, self.tally, np.zeros(3, np.int64),
            np.zeros(2, np.uint64), arena.memory, *arena.columns.values(),
        )  # fmt: skip
        arena.rows, arena.used = int(self.place[3]), int(self.place[4])
        return int(count)


def batch_of(arena: Arena, index: int = 0) -> Datagrams:
    return Datagrams(index=index, kernel_dropped=0, **arena.filled())


def rows_of(arena: Arena) -> list[tuple[bytes, int]]:
    batch = batch_of(arena)
    return [
        (batch.arena[a : a + n].tobytes(), whole)
        for a, n, whole in zip(
            batch.start.tolist(), batch.length.tolist(), batch.claimed_len.tolist(), strict=True
        )
    ]


def test_control_messages_are_found_in_any_order() -> None:
    """Time, segment size and drops are read by level and type, among others that are not ours."""
    segment, drops = control(17, 104, struct.pack("=i", 1200)), control(1, 40, b"\xff" * 4)
    other = control(0, 2, b"12345")
    want = [AT, 1200, 0xFFFF_FFFF]
    assert found_in(timed(AT) + segment + drops) == want
    assert found_in(other + drops + other + segment + timed(AT)) == want
    assert found_in(b"") == [0, 0, -1]


EDGES = st.sampled_from([-1, 0, 999_999_999, 10**9, 8_999_999_999, 9_000_000_000, 2**63 - 1])
PIECES = (
    # Heads that claim too little, too much or just enough; times of any kind; anything.
    st.builds(
        struct.pack, st.just("=Qii"), st.sampled_from([0, 15, 16, 19, 20, 31, 32, 2**64 - 1]),
        st.sampled_from([1, 17]), st.sampled_from([35, 40, 104]),
    )
    | st.builds(struct.pack, st.just("=qq"), EDGES, EDGES)
    | st.binary(max_size=24)
)  # fmt: skip


@example(control(1, 40, b""))
@example(control(17, 104, b""))
@example(control(1, 35, bytes(8)))
@example(timed(9_000_000_000 * 10**9))
@example(timed(-1))
@given(st.lists(PIECES, max_size=5).map(b"".join))
def test_any_control_bytes_are_read(raw: bytes) -> None:
    """Whatever lies in a control buffer, reading ends inside it, and finds what can be meant."""
    want = found_in(raw)  # where the buffer ends with them: beyond it plain Python raises
    time, segment, drops = want
    assert 0 <= time < 9_000_000_000 * 10**9
    assert 0 <= segment < 2**32
    assert -1 <= drops < 2**32
    follow = [control(1, 40, b"\x07" * 4), control(17, 104, b"\x07" * 4), timed(AT), b"\xff" * 64]
    for after in follow:
        assert found_in(raw, after) == want
    # What was read before stands until another message says otherwise.
    assert found_in(timed(AT) + raw) == [time or AT, segment, drops]


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=2 * SLOT), st.binary(max_size=NAME_BYTES),
            st.binary(max_size=CONTROL_BYTES),
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_any_messages_add_up(sent: list[tuple[bytes, bytes, bytes]]) -> None:
    """Names and control bytes of any kind: all that was received is in rows and in the tally."""
    received = Received([(data[:SLOT], len(data), name, raw) for data, name, raw in sent])
    data = b"".join(each for each, *_ in sent)
    arena = scratch(Datagrams.COLUMNS, len(data) + len(sent), len(data) + 1)
    count = received.into(arena)
    rows = rows_of(arena)
    assert len(rows) == count == received.tally[DATAGRAMS]
    assert sum(whole for _, whole in rows) == len(data) == received.tally[BYTES]
    assert b"".join(row for row, _ in rows) == b"".join(each[:SLOT] for each, *_ in sent)
    assert received.tally[TRUNCATED] == sum(len(row) < whole for row, whole in rows)
    assert (received.place[1], received.place[2]) == (len(sent), 0)


def test_a_message_becomes_a_row() -> None:
    """Bytes, time, sender and ports of IPv4 and IPv6, and headers made ready again."""
    received = Received([(b"one", 3, NAMED, timed(AT)), (b"", 0, NAMED_6, timed(AT + 1))])
    arena = scratch(Datagrams.COLUMNS, 8, 1024)
    assert received.into(arena) == 2
    batch = batch_of(arena, 5)
    assert rows_of(arena) == [(b"one", 3), (b"", 0)]
    assert batch.at_ns.tolist() == [AT, AT + 1]
    assert batch.sport.tolist() == [40_000, 40_001]
    assert batch.dport.tolist() == [9999, 9999]
    hosts = zip(batch.sender_hi.tolist(), batch.sender_lo.tolist(), strict=True)
    texts = [key_text(hi, lo, is_device=False) for hi, lo in hosts]
    assert texts == ["192.0.2.7", "2001:1:203:405:607:809:a0b:c0d"]
    assert received.words[[5, 13]].tolist() == [CONTROL_BYTES] * 2
    assert received.halves[[2, 18]].tolist() == [NAME_BYTES] * 2


def test_a_message_without_time_takes_the_one_before() -> None:
    """A time is never zero once one was seen."""
    received = Received([(b"a", 1, NAMED, timed(AT)), (b"b", 1, NAMED, b"")])
    arena = scratch(Datagrams.COLUMNS, 8, 64)
    received.into(arena)
    assert arena.columns["at_ns"][:2].tolist() == [AT, AT]


@given(
    st.lists(st.tuples(st.binary(max_size=SLOT), st.integers(0, 90)), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(SLOT, 2 * SLOT),
)
def test_segments_are_the_same_however_arenas_cut_them(
    sent: list[tuple[bytes, int]], rows: int, bytes_: int
) -> None:
    """A message splits into its segments, the last one shorter; small arenas lose none of them."""
    want, messages = [], []
    for data, segment in sent:
        step = segment or max(1, len(data))
        want += [data[i : i + step] for i in range(0, max(1, len(data)), step)]
        gro = control(17, 104, struct.pack("=i", segment)) if segment else b""
        messages.append((data, len(data), NAMED, timed(AT) + gro))
    received, got = Received(messages), []
    while received.place[1] < received.place[0]:
        arena = scratch(Datagrams.COLUMNS, rows, bytes_)
        received.into(arena)
        got += [bytes_of for bytes_of, _ in rows_of(arena)]
    assert got == want


def test_what_was_cut_short_is_known() -> None:
    """A datagram longer than its slot, or than what is kept of one, says how long it was."""
    gro = control(17, 104, struct.pack("=i", 200))
    received = Received(
        [(b"x" * SLOT, 1000, NAMED, b""), (b"yyyy", 4, NAMED, b""), (b"z" * SLOT, 500, NAMED, gro)]
    )
    arena = scratch(Datagrams.COLUMNS, 8, 4096)
    assert received.into(arena) == 5
    lengths = [(len(data), whole) for data, whole in rows_of(arena)]
    assert lengths == [(SLOT, 1000), (4, 4), (200, 200), (SLOT - 200, 200), (0, 100)]
    assert received.tally[TRUNCATED] == 3
    short = Received([(b"yyyy", 4, NAMED, b"")])
    arena = scratch(Datagrams.COLUMNS, 8, 64)
    short.into(arena, bytes_max=3)
    assert rows_of(arena) == [(b"yyy", 4)]


def test_the_drop_counter_wraps() -> None:
    """A counter of 32 bits adds up over its wrap, and an older reading adds nothing."""
    tally = np.zeros(TALLY_FIELDS, np.int64)
    for seen, total in [
        (0, 0), (5, 5), (3, 5), (5, 5), (0x7FFF_FFFF, 0x7FFF_FFFF), (0xFFFF_FFFE, 0xFFFF_FFFE),
        (2, 0x1_0000_0002), (0xFFFF_FFFF, 0x1_0000_0002), (3, 0x1_0000_0003),
    ]:  # fmt: skip
        add_drops(tally, seen)
        assert tally[KERNEL_DROPPED] == total


def test_drops_reach_the_tally_with_the_message_that_tells() -> None:
    """Messages tell of the drops before them."""
    told = [control(1, 40, struct.pack("=I", n)) for n in (7, 9)]
    received = Received([(b"", 0, NAMED, b""), *((b"", 0, NAMED, raw) for raw in told)])
    received.into(scratch(Datagrams.COLUMNS, 8, 64))
    assert received.tally[KERNEL_DROPPED] == 9


def test_device_frames_are_taken_from_datagrams() -> None:
    """What `core.frame` makes of datagrams: frames of their senders, and reasons for the others."""
    frame = encode_frame("d-1", 7, b"{}")
    received = Received(
        [
            (frame, len(frame), NAMED, timed(AT)),
            (b"no", 2, NAMED, timed(AT)),
            (frame, 1000, NAMED_6, timed(AT)),
        ]
    )
    arena = scratch(Datagrams.COLUMNS, 8, 1024)
    received.into(arena)
    packets, headers = batch_of(arena, 100).as_packets(source=3)
    reason, frames = device_frames(packets, headers, 9999, 1024)
    assert reason.tolist() == [0, Reason.FRAME_SHORT, Reason.SNAPPED]
    assert frames.seq.tolist() == [7]
    assert frames.index.tolist() == [100]
    assert key_text(int(frames.peer_hi[0]), int(frames.peer_lo[0]), is_device=False) == "192.0.2.7"
    assert headers.ethertype.tolist() == [0x0800, 0x0800, 0x86DD]


def _digest() -> str:
    """Unpack messages of chance: any names and control bytes, sizes beyond their slots."""
    rng, messages = np.random.default_rng(11), []
    for _ in range(200):
        size = int(rng.integers(0, 2 * SLOT))
        data = rng.bytes(min(size, SLOT))
        gro = control(17, 104, struct.pack("=i", int(rng.integers(-2, 300))))
        drops = control(1, 40, rng.bytes(4))
        raw = b"".join(rng.permutation(np.array([gro, drops, timed(AT), b""], object)).tolist())
        raw = raw if rng.random() < 0.8 else rng.bytes(int(rng.integers(0, CONTROL_BYTES)))
        name = [NAMED, NAMED_6, rng.bytes(NAME_BYTES)][int(rng.integers(0, 3))]
        messages.append((data, size, name, raw))
    received, whole = Received(messages), hashlib.blake2b(digest_size=8)
    while received.place[1] < received.place[0]:
        arena = scratch(Datagrams.COLUMNS, 50, 4096)
        received.into(arena, bytes_max=200)
        batch = batch_of(arena)
        for column in ("arena", *batch.COLUMNS):
            whole.update(getattr(batch, column).tobytes())
    whole.update(received.tally.tobytes())
    return whole.hexdigest()


def test_plain_python_gives_the_same_answer() -> None:
    """With `NUMBA_DISABLE_JIT=1` every column and every sum is the same, and nothing warns.

    No test reads beyond an array either, where plain Python would raise.
    """
    assert printed(__file__) == _digest()
    rest_passes(__file__)


if __name__ == "__main__":
    print(_digest())
