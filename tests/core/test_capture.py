"""Decoding of pcap and pcapng: every format, every cut, any bytes, any portions."""

from __future__ import annotations

import pickle
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.capture import (
    BLOCK_BYTES_MAX,
    INTERFACES_MAX,
    CaptureDecoder,
    CaptureState,
    Packets,
    Status,
    sniff,
)
from core.capture_kernels import SECONDS_MAX
from tests import captures as make
from tests.captures import MICRO, MODIFIED, NANO, SECOND_NS, Packet

ORDERS = ("<", ">")
SOME = make.packets(7)


def mixed(order: str = "<") -> tuple[bytes, list[Packet]]:
    """Return pcapng with everything in it, and what it says."""
    other = ">" if order == "<" else "<"
    raw = b"\x45" * 21
    content = [
        make.section(order, options=make.option(4, b"tests", order)),
        make.interface(order),
        make.block(5, bytes(20), order),
        make.enhanced(b"first", 1_600_000_000_000_001, 5, 0, order),
        make.interface(order, linktype=101, snaplen=16, resolution=9, offset_s=100),
        make.enhanced(raw, 1_600_000_000 * SECOND_NS + 7, 1500, 1, order),
        make.block(0x0BAD, b"unknown", order),
        make.obsolete(b"old", 1_600_000_001_000_000, 3, 0, order),
        make.simple(b"plain", 5, order),
        make.section(other),
        make.interface(other, linktype=113, resolution=0x80 | 10),
        make.enhanced(b"cooked", (1_600_000_002 << 10) + 512, 6, 0, other),
    ]
    base = 1_600_000_000 * SECOND_NS
    said = [
        Packet(base + 1000, b"first", 5, 1),
        Packet(base + 100 * SECOND_NS + 7, raw, 1500, 101),
        Packet(base + SECOND_NS, b"old", 3, 1),
        Packet(0, b"plain", 5, 1),
        Packet(base + 2 * SECOND_NS + SECOND_NS // 2, b"cooked", 6, 113),
    ]
    return b"".join(content), said


CAPTURES = {
    "pcap": make.pcap(SOME),
    "pcap-big": make.pcap(SOME, ">", NANO),
    "modified": make.pcap(SOME, "<", MODIFIED),
    "pcapng": mixed("<")[0],
    "pcapng-big": mixed(">")[0],
}


def oracle(content: bytes, folder: Path) -> list[str]:
    """Print packets with tcpdump, one line of stamp, lengths and bytes each."""
    path = folder / "oracle.cap"
    path.write_bytes(content)
    command = ["tcpdump", "-nn", "-tt", "--nano", "-xx", "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if line.startswith("\t0x"):
            lines[-1] += line.split(":", 1)[1].replace(" ", "")
        else:
            lines.append(line.split()[0] + " ")
    return lines


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("magic", [MICRO, NANO, MODIFIED])
def test_classic_captures_say_what_was_written(order: str, magic: int, tmp_path: Path) -> None:
    """Both byte orders, microseconds, nanoseconds and the modified format; libpcap agrees."""
    content = make.pcap(SOME, order, magic)
    assert make.decode(content) == (SOME, "")
    stamps = [f"{p.at_ns // SECOND_NS}.{p.at_ns % SECOND_NS:09d} {p.data.hex()}" for p in SOME]
    assert oracle(content, tmp_path) == stamps


@pytest.mark.parametrize("order", ORDERS)
def test_pcapng_sections_interfaces_and_kinds_of_packets(order: str) -> None:
    """Interfaces and their resolutions belong to a section; unknown blocks are stepped over."""
    content, said = mixed(order)
    assert make.decode(content) == (said, "")


@pytest.mark.parametrize(
    ("resolution", "stamp", "want_ns"),
    [
        (None, 1_600_000_000_123_456, 1_600_000_000_123_456_000),
        (0, 1_600_000_000, 1_600_000_000_000_000_000),
        (9, 1_600_000_000_123_456_789, 1_600_000_000_123_456_789),
        (10, 16_000_000_001_234_567_890, 1_600_000_000_123_456_789),
        (18, 3_123_456_789_987_654_321, 3_123_456_789),
        (19, 5, 0),
        (0x80, 1_600_000_000, 1_600_000_000_000_000_000),
        (0x80 | 20, (1_600_000_000 << 20) + (1 << 18), 1_600_000_000_250_000_000),
        (0x80 | 33, (1_600_000_000 << 33) + 1, 1_600_000_000_000_000_000),
        (0x80 | 40, (15_000_000 << 40) + (3 << 38), 15_000_000_750_000_000),
        (0x80 | 62, (3 << 62) + (1 << 61), 3_500_000_000),
        (0x80 | 63, 5, 0),
        (0xFF, 5, 0),
    ],
)
def test_resolutions_of_time_stamps(resolution: int | None, stamp: int, want_ns: int) -> None:
    """Powers of ten and of two become ns, cut off; what no 64 bits can hold is unknown, 0."""
    head = make.section() + make.interface(resolution=resolution)
    found, damage = make.decode(head + make.enhanced(b"x", stamp, 1))
    assert (found[0].at_ns, damage) == (want_ns, "")


@given(
    exponent=st.integers(0, 127),
    binary=st.booleans(),
    stamp=st.integers(0, 2**64 - 1),
    offset_s=st.integers(-(2**63), 2**63 - 1),
)
def test_time_stamps_are_exact_and_bounded(
    exponent: int, binary: bool, stamp: int, offset_s: int
) -> None:
    """Any stamp at any resolution and offset is the exact fraction, clamped to 1970 … 2255."""
    head = make.section() + make.interface(resolution=exponent | 0x80 * binary, offset_s=offset_s)
    found, damage = make.decode(head + make.enhanced(b"x", stamp, 1))
    at_ns = found[0].at_ns
    assert damage == ""
    assert 0 <= at_ns < (SECONDS_MAX + 1) * SECOND_NS
    known = exponent <= (62 if binary else 18)
    seconds, rest = divmod(Fraction(stamp, (2 if binary else 10) ** exponent), 1)
    moved = (min(int(seconds), SECONDS_MAX) if known else 0) + offset_s
    if 0 <= moved < SECONDS_MAX and abs(offset_s) <= 10**10:
        fraction_ns = int(rest * SECOND_NS) if known else 0
        assert abs(at_ns - moved * SECOND_NS - fraction_ns) <= 1


def test_simple_packets_are_cut_by_the_snap_length() -> None:
    """A simple packet block has no captured length of its own: the first interface has one."""
    head = make.section() + make.interface(snaplen=6)
    found, damage = make.decode(head + make.simple(b"abcdef", 900))
    assert [(p.data, p.wirelen) for p in found] == [(b"abcdef", 900)]
    assert damage == ""


def test_more_captured_than_the_snap_length_is_fine() -> None:
    """The snap length of a file's header is not held against its packets."""
    assert make.decode(make.pcap(SOME, snaplen=8)) == (SOME, "")


@pytest.mark.parametrize("name", CAPTURES)
def test_every_cut_gives_the_packets_before_it(name: str) -> None:
    """A capture cut at any byte gives a whole number of its packets, in order, and no damage."""
    content = CAPTURES[name]
    whole, _ = make.decode(content)
    counts = []
    for cut in range(len(content)):
        found, reason = make.decode(content[:cut])
        assert found == whole[: len(found)]
        assert bool(reason) == isinstance(sniff(content[:cut]), str)
        counts.append(len(found))
    assert counts == sorted(counts)
    assert set(counts) == set(range(len(whole)))


@given(data=st.data())
def test_portions_change_nothing(data: st.DataObject) -> None:
    """Any portions of bytes, any room for packets and a pickled state give the same packets."""
    content = CAPTURES[data.draw(st.sampled_from(sorted(CAPTURES)))]
    whole, _ = make.decode(content)
    state = sniff(content)
    assert isinstance(state, CaptureState)
    found: list[Packet] = []
    end = state.offset
    while True:
        room = data.draw(st.integers(1, 4), label="room")
        out = Packets.empty(room)
        decoder = make.decoder_of(pickle.loads(pickle.dumps(state)))
        arena = content[state.offset : end]
        buf = np.frombuffer(bytearray(arena) or bytearray(1), np.uint8)
        status, _ = decoder.decode(buf, 0, len(arena), out)
        state = decoder.state
        found += make.rows(out, arena)
        assert status != Status.DAMAGED
        if status == Status.MORE:
            if end == len(content):
                break
            end = min(len(content), end + data.draw(st.integers(1, 90), label="step"))
    assert found == whole
    assert state.ordinal == len(whole)
    assert state.offset == len(content)


def damaged(kind: int, body: bytes) -> bytes:
    return make.section() + make.interface() + make.block(kind, body)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (make.pcap([]) + struct.pack("<4I", 0, 0, 262_145, 1) + bytes(99), "impossible length"),
        (damaged(6, struct.pack("<5I", 9, 0, 0, 0, 0)), "never described"),
        (make.section() + make.simple(b"x", 1), "never described"),
        (damaged(6, struct.pack("<5I", 0, 0, 0, 50, 50) + bytes(8)), "impossible length"),
        (damaged(6, bytes(8)), "impossible length"),
        (damaged(2, bytes(8)), "impossible length"),
        (damaged(3, b""), "impossible length"),
        (make.section() + struct.pack("<3I", 5, 11, 11), "impossible length"),
        (make.section() + struct.pack("<4I", 5, 14, 0, 14), "impossible length"),
        (make.section() + struct.pack("<4I", 5, 16, 0, 12), "impossible length"),
        (make.section() + struct.pack("<3I", 5, BLOCK_BYTES_MAX + 4, 0), "impossible length"),
        (make.section() + struct.pack("<5I", 1, 16, 0, 0, 16), "claims 16 bytes"),
        (make.section() + struct.pack("<6I", 1, 20, 1, 0, 24, 0), "two lengths"),
        (make.section() + make.section(major=2), "version 2"),
        (make.section() + b"\n\r\r\n" + bytes(20), "byte-order magic"),
    ],
)  # fmt: skip
def test_damage_has_a_name_and_ends_the_file(content: bytes, what: str) -> None:
    """What cannot be is said, and nothing behind it is believed."""
    found, damage = make.decode(content + make.enhanced(b"later", 1, 5))
    assert found == []
    assert what in damage


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "empty"),
        (b"abc", "too few"),
        (b"GIF89a", "not a pcap"),
        (make.pcap([])[:23], "ends inside its pcap header"),
        (b"\xd4\xc3\xb2\xa1\x03" + bytes(19), "version 3"),
        (make.section()[:27], "ends inside its pcapng"),
        (b"\n\r\r\n" + bytes(24), "byte-order magic"),
    ],
)
def test_what_is_no_capture_is_told_why(head: bytes, what: str) -> None:
    """A head that is no capture's gets a sentence, never a state."""
    reason = sniff(head)
    assert isinstance(reason, str)
    assert what in reason


def test_many_interfaces_cost_no_more_than_their_bytes() -> None:
    """The interface table is bounded, and grows in linear time up to its bound."""
    one = make.block(1, struct.pack("<HHI", 1, 0, 0))
    last = make.enhanced(b"x", 0, 1, INTERFACES_MAX - 1)
    found, damage = make.decode(make.section() + one * INTERFACES_MAX + last)
    assert (len(found), damage) == (1, "")
    _, damage = make.decode(make.section() + one * (INTERFACES_MAX + 1))
    assert "interfaces" in damage


HEADS = (
    b"",
    make.pcap([]),
    make.pcap([], ">", NANO),
    make.pcap([], "<", MODIFIED),
    make.section() + make.interface(),
    make.section(">") + make.interface(">", resolution=0x8A),
)


def inside(out: Packets, at: int, end: int) -> bool:
    """Tell whether all packets lie in the bytes that were given, one after another."""
    start, size = out.start[: out.count], out.caplen[: out.count].astype(np.int64)
    ends = start + size
    return bool(
        (size >= 0).all()
        and (start >= at).all()
        and (ends <= end).all()
        and (start[1:] >= ends[:-1]).all()
    )


@settings(max_examples=300)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300), at=st.integers(0, 9))
def test_any_bytes_decode_inside_their_bounds(head: bytes, tail: bytes, at: int) -> None:
    """Any bytes give packets, a wish for more or damage; never an exception or a foreign byte."""
    content = head + tail
    state = sniff(content)
    if isinstance(state, str):
        return
    buf = np.frombuffer(bytes(at) + content + b"\xff" * 64, np.uint8).copy()
    out, decoder = Packets.empty(8), CaptureDecoder(state, 64)
    begin, end = at + state.offset, at + len(content)
    status, reached = decoder.decode(buf, begin, end, out)
    assert begin <= reached <= end
    assert inside(out, begin, end)
    assert (out.caplen[: out.count] <= 64).all()
    assert (out.at_ns[: out.count] >= 0).all()
    assert (status == Status.FULL) <= (out.count == 8)
    blind = np.concatenate([buf[:end], np.zeros(64, np.uint8)])
    again, other = CaptureDecoder(state, 64), Packets.empty(8)
    assert again.decode(blind, begin, end, other) == (status, reached)


@settings(max_examples=100)
@given(
    name=st.sampled_from(sorted(CAPTURES)),
    where=st.integers(0, 10_000),
    what=st.integers(0, 255),
)
def test_a_changed_byte_never_raises(name: str, where: int, what: int) -> None:
    """A capture with one byte changed is decoded as far as it makes sense."""
    content = bytearray(CAPTURES[name])
    content[where % len(content)] = what
    make.decode(bytes(content))
