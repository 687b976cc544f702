"""Packets and frames made by hand, for the tests of what is counted, scored and encoded."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import FrameBatch, HeaderBatch, PacketBatch
from core.frame import device_frames
from core.scenario import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.scenario import Plan

SECOND_NS = 1_000_000_000
PORT = 9999
MAPPED = 0xFFFF << 32
"""Low half of the IPv4-mapped address 0.0.0.0."""
ETHERNET = bytes.fromhex("0200000000020200000000010800")


def udp_packet(
    payload: bytes,
    *,
    dport: int = PORT,
    sport: int = 4242,
    source: int = 0x0A000001,
    udp_len: int | None = None,
    piece: int = 0,
    proto: int = 17,
) -> bytes:
    """Build Ethernet, IPv4 and UDP round a payload.

    Args:
        payload: Bytes of the datagram.
        dport: Destination port.
        sport: Source port.
        source: Source address.
        udp_len: Length the UDP header claims; the true one when left out.
        piece: Flags and offset of fragmentation.
        proto: IP protocol.
    """
    claimed = 8 + len(payload) if udp_len is None else udp_len
    udp = struct.pack(">4H", sport, dport, claimed, 0) + payload
    ip = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, piece, 64, proto, 0, source, 0x0A0000FE
    )
    return bytes.fromhex("0200000000020200000000010800") + ip + udp


def packet_batch(
    packets: Sequence[bytes], *, snaplen: int = 1 << 18, index: int = 0
) -> PacketBatch:
    """Lay Ethernet packets, a millisecond apart, between bytes that belong to none."""
    kept = [packet[:snaplen] for packet in packets]
    caplen = np.array([len(packet) for packet in kept], np.int32)
    gap = b"\xa5" * 5
    n = len(kept)
    return PacketBatch(
        arena=np.frombuffer(bytearray(b"".join(gap + packet for packet in kept) + gap), np.uint8),
        start=np.cumsum(caplen.astype(np.int64) + len(gap)) - caplen,
        caplen=caplen,
        wirelen=np.array([len(packet) for packet in packets], np.int32),
        at_ns=1_700_000_000 * SECOND_NS + np.arange(index, index + n) * 1_000_000,
        linktype=np.ones(n, np.int32),
        ordinal=np.arange(index, index + n),
        index=index,
        source=0xFEED_0000_0000_BEEF,
    )


def frame_batch(arena: bytes = b"", **given: Any) -> FrameBatch:
    """Return frames of the columns given; others are zero, or count up."""
    n = len(next(iter(given.values())))
    columns: dict[str, Any] = {
        name: np.array(given[name], kind) if name in given else np.zeros(n, kind)
        for name, kind in FrameBatch.COLUMNS.items()
    }
    for name in {"ordinal", "index"} - set(given):
        columns[name] = np.arange(n)
    if "clock_ns" not in given:
        columns["clock_ns"] = columns["at_ns"]
    return FrameBatch(arena=np.frombuffer(bytearray(arena or b"\0"), np.uint8), **columns)


def device_batch(rows: Sequence[tuple[bytes, int, bytes, int]]) -> FrameBatch:
    """Return device frames by id, sequence number, body and time, behind bytes that are nobody's.

    Args:
        rows: Ids have at most 16 bytes.
    """
    ids = [int.from_bytes(row[0].ljust(16, b"\0"), "big") for row in rows]
    sizes = np.array([len(row[2]) for row in rows], np.int64)
    return frame_batch(
        b"??" + b"".join(row[2] for row in rows),
        at_ns=[row[3] for row in rows],
        key_hi=[i >> 64 for i in ids],
        key_lo=[i & (2**64 - 1) for i in ids],
        seq=[row[1] for row in rows],
        body=2 + np.cumsum(sizes) - sizes,
        body_len=sizes,
    )


def parts(frames: FrameBatch, cuts: Sequence[int]) -> list[FrameBatch]:
    """Cut frames at the places given, which may repeat and lie anywhere."""
    n = len(frames)
    ends = sorted({min(cut, n) for cut in cuts} | {0, n})
    if len(ends) == 1:
        return [frames]
    return [frames.take(slice(a, b)) for a, b in itertools.pairwise(ends)]


def plan_frames(plan: Plan, index: int = 0) -> FrameBatch:
    """Return the well-formed device frames of a plan, as if its payloads had come as datagrams."""
    n = len(plan)
    packets = PacketBatch(
        arena=plan.arena,
        start=plan.start,
        caplen=plan.length,
        wirelen=plan.length,
        at_ns=plan.at_ns,
        linktype=np.ones(n, np.int32),
        ordinal=np.arange(index, index + n),
        index=index,
        source=7,
    )
    headers = HeaderBatch.empty(n)
    headers.proto[:], headers.dport[:] = 17, PORT
    headers.payload[:] = plan.start
    headers.payload_len[:] = headers.claimed_len[:] = plan.length
    headers.src_lo[:] = MAPPED + 0x0A000000 + plan.device.astype(np.uint64)
    return device_frames(packets, headers, PORT, 65_000)[1]


def traffic_frames(traffic: Traffic) -> Iterator[FrameBatch]:
    """Yield the frames of a scenario slice by slice."""
    index = 0
    for plan in traffic.slices():
        yield plan_frames(plan, index)
        index += len(plan)
