"""Capture files made by hand, byte by byte, and read back as plain tuples."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from core.capture import CaptureDecoder, CaptureState, Packets, Status, sniff

SECOND_NS = 1_000_000_000
MICRO, NANO, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
PACKET_BYTES_MAX = 262_144


class Packet(NamedTuple):
    """What a capture says of one packet."""

    at_ns: int
    data: bytes
    wirelen: int
    linktype: int = 1


def packets(count: int, first: int = 0, size: int = 40) -> list[Packet]:
    """Return packets a millisecond apart, no two alike, some cut short by a snap length."""
    return [
        Packet(
            at_ns=1_600_000_000 * SECOND_NS + i * 1_000_000,
            data=struct.pack(">I", i) * (1 + i * 7 % (size // 4)),
            wirelen=4 * (1 + i * 7 % (size // 4)) + 1000 * (i % 3 == 0),
        )
        for i in range(first, first + count)
    ]


def pcap(
    content: list[Packet], order: str = "<", magic: int = MICRO, snaplen: int = 262_144
) -> bytes:
    """Write a classic capture of the link type of its first packet."""
    linktype = content[0].linktype if content else 1
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    unit = 1 if magic == NANO else 1000
    for p in content:
        seconds, rest = divmod(p.at_ns, SECOND_NS)
        parts.append(struct.pack(order + "4I", seconds, rest // unit, len(p.data), p.wirelen))
        if magic == MODIFIED:
            parts.append(struct.pack(order + "IHBB", 1, 0x0800, 0, 0))
        parts.append(p.data)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Write a pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<", major: int = 1, options: bytes = b"") -> bytes:
    """Write a section header block."""
    body = struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1) + options
    return block(0x0A0D0D0A, body, order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """Write an option of a block."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(
    order: str = "<",
    linktype: int = 1,
    snaplen: int = 0,
    resolution: int | None = None,
    offset_s: int | None = None,
) -> bytes:
    """Write an interface description block."""
    options = option(2, b"eth0", order)
    if resolution is not None:
        options += option(9, bytes([resolution]), order)
    if offset_s is not None:
        options += option(14, struct.pack(order + "q", offset_s), order)
    body = struct.pack(order + "HHI", linktype, 0, snaplen) + options + option(0, b"", order)
    return block(1, body, order)


def enhanced(data: bytes, stamp: int, wirelen: int, number: int = 0, order: str = "<") -> bytes:
    """Write an enhanced packet block."""
    head = struct.pack(order + "5I", number, stamp >> 32, stamp & 0xFFFFFFFF, len(data), wirelen)
    return block(6, head + data + bytes(-len(data) % 4) + option(1, b"a note", order), order)


def obsolete(data: bytes, stamp: int, wirelen: int, number: int = 0, order: str = "<") -> bytes:
    """Write a packet block of the obsolete kind, with a drop count."""
    head = struct.pack(order + "HHII", number, 7, stamp >> 32, stamp & 0xFFFFFFFF)
    return block(2, head + struct.pack(order + "II", len(data), wirelen) + data, order)


def simple(data: bytes, wirelen: int, order: str = "<") -> bytes:
    """Write a simple packet block."""
    return block(3, struct.pack(order + "I", wirelen) + data, order)


def pcapng(content: list[Packet], order: str = "<") -> bytes:
    """Write packets as pcapng of one interface with stamps in microseconds."""
    linktype = content[0].linktype if content else 1
    body = [enhanced(p.data, p.at_ns // 1000, p.wirelen, 0, order) for p in content]
    return section(order) + interface(order, linktype) + b"".join(body)


def rows(found: Packets, arena: bytes) -> list[Packet]:
    """Return decoded columns as tuples."""
    return [
        Packet(
            int(found.at_ns[i]),
            arena[found.start[i] : found.start[i] + found.caplen[i]],
            int(found.wirelen[i]),
            int(found.linktype[i]),
        )
        for i in range(found.count)
    ]


def decode(content: bytes) -> tuple[list[Packet], str]:
    """Decode a capture in one go; return its packets, and the damage or what `sniff` refuses."""
    state = sniff(content[:64])
    if isinstance(state, str):
        return [], state
    found, decoder = Packets.empty(len(content) // 12 + 1), decoder_of(state)
    buf = np.frombuffer(bytearray(content) or bytearray(1), np.uint8)
    status, at = decoder.decode(buf, state.offset, len(content), found)
    assert (status == Status.DAMAGED) == bool(decoder.damage)
    assert decoder.state.offset == at <= len(content)
    assert decoder.state.ordinal == found.count
    return rows(found, content), decoder.damage


def decoder_of(state: CaptureState) -> CaptureDecoder:
    """Return a decoder that starts from a state."""
    return CaptureDecoder(state, PACKET_BYTES_MAX)
