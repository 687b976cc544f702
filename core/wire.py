"""Packets as they were on the wire: headers put round datagrams, and records of a capture file.

Laws:

1. A datagram becomes the packet of raw IP that it may have come in: addresses, ports and lengths
   are those of its headers; what a socket does not tell (time to live, identification, options,
   fragments) is fixed. Its checksums are right, unless it was cut short: then UDP has none.
2. What is written is a function of the rows alone; decoded again, it gives them back.

Not here: when that is done, which is for few packets or for a recording (`flows.deal`,
`connectors.recording`).

Source: RFC 791, RFC 8200, RFC 768, RFC 1071; draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A_i4, A_i8, A_u1, A_u8, i8, kernel, none, u8
from core.link import ETHERTYPE_IPV6, LINK_RAW, LINK_USER0
from core.protocols import PROTO_UDP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import HeaderBatch, PacketBatch

PCAP_SNAP_BYTES = 262_144
_IPV4_BYTES, _IPV6_BYTES, _UDP_BYTES = 20, 40, 8
_HOPS = 64


def as_raw(packets: PacketBatch, headers: HeaderBatch) -> PacketBatch:
    """Return datagrams as packets of raw IP; other packets as they are.

    Args:
        packets: Packets, all of one kind.
        headers: What their headers say.
    """
    if len(packets) == 0 or packets.linktype[0] != LINK_USER0:
        return packets
    head = np.where(headers.ethertype == ETHERTYPE_IPV6, _IPV6_BYTES, _IPV4_BYTES) + _UDP_BYTES
    caplen = (packets.caplen + head).astype(np.int32)
    end = np.cumsum(caplen, dtype=np.int64)
    start = end - caplen
    out = np.empty(int(end[-1]), np.uint8)
    _write_raw(
        packets.arena, packets.start, packets.caplen, packets.wirelen, headers.ethertype,
        headers.src_hi, headers.src_lo, headers.dst_hi, headers.dst_lo, headers.sport,
        headers.dport, start, out,
    )  # fmt: skip
    return replace(
        packets,
        arena=out,
        start=start,
        caplen=caplen,
        wirelen=(packets.wirelen + head).astype(np.int32),
        linktype=np.full(len(packets), LINK_RAW, np.int32),
    )


def pcap_head(linktype: int) -> bytes:
    """Return the head of a classic pcap file whose times are in nanoseconds."""
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, PCAP_SNAP_BYTES, linktype)


def pcap_records(packets: PacketBatch) -> NDArray[np.uint8]:
    """Return packets as records of such a file; times from 1970 to 2106 are held."""
    out = np.empty(16 * len(packets) + int(packets.caplen.sum(dtype=np.int64)), np.uint8)
    _write_pcap(packets.arena, packets.start, packets.caplen, packets.wirelen, packets.at_ns, out)
    return out


@kernel(none(A_u1, i8, u8, i8), inline=True)
def _put(out: Any, at: Any, value: Any, size: Any) -> None:
    """Write an integer of some bytes, big end first."""
    for i in range(size):
        out[at + i] = (value >> np.uint64(8 * (size - 1 - i))) & np.uint64(0xFF)


@kernel(none(A_u1, i8, i8), inline=True)
def _put_little(out: Any, at: Any, value: Any) -> None:
    """Write an integer of four bytes, little end first."""
    for i in range(4):
        out[at + i] = (value >> (8 * i)) & 0xFF


@kernel(i8(A_u1, i8, i8))
def _sum(data: Any, start: Any, end: Any) -> Any:
    """Add up bytes as numbers of 16 bits; the last one alone counts as the upper half."""
    total = 0
    for i in range(start, end - 1, 2):
        total += (int(data[i]) << 8) | int(data[i + 1])
    if (end - start) % 2 == 1:
        total += int(data[end - 1]) << 8
    return total


@kernel(i8(i8))
def _checksum(total: Any) -> Any:
    """Return the checksum that a sum stands for."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@kernel(none(A_u1, i8, i8, u8, u8, u8, u8))
def _put_ip(
    out: Any, at: Any, length: Any, src_hi: Any, src_lo: Any, dst_hi: Any, dst_lo: Any
) -> None:
    """Write a header of IPv4 round `length` bytes of UDP; of IPv6, where the upper halves say so.

    IPv4 hosts lie in the lower 32 bits (`core.host`).
    """
    if out[at] >> 4 == 6:
        _put(out, at, np.uint64(6 << 28), 4)
        _put(out, at + 4, np.uint64(length), 2)
        out[at + 6], out[at + 7] = PROTO_UDP, _HOPS
        _put(out, at + 8, src_hi, 8)
        _put(out, at + 16, src_lo, 8)
        _put(out, at + 24, dst_hi, 8)
        _put(out, at + 32, dst_lo, 8)
        return
    _put(out, at, np.uint64(0x4500), 2)
    _put(out, at + 2, np.uint64(_IPV4_BYTES + length), 2)
    _put(out, at + 4, np.uint64(0), 4)
    out[at + 8], out[at + 9] = _HOPS, PROTO_UDP
    _put(out, at + 10, np.uint64(0), 2)
    _put(out, at + 12, src_lo & np.uint64(0xFFFF_FFFF), 4)
    _put(out, at + 16, dst_lo & np.uint64(0xFFFF_FFFF), 4)
    _put(out, at + 10, np.uint64(_checksum(_sum(out, at, at + _IPV4_BYTES))), 2)


@kernel(
    none(A_u1, A_i8, A_i4, A_i4, A_i4, A_u8, A_u8, A_u8, A_u8, A_i4, A_i4, A_i8, A_u1)
)  # fmt: skip
def _write_raw(
    arena: Any, start: Any, length: Any, claimed_len: Any, ethertype: Any, src_hi: Any,
    src_lo: Any, dst_hi: Any, dst_lo: Any, sport: Any, dport: Any, out_start: Any, out: Any,
) -> None:  # fmt: skip
    """Write each datagram with its headers where it is to begin."""
    for i in range(start.size):
        at, is_v6 = out_start[i], ethertype[i] == ETHERTYPE_IPV6
        size, udp_len = length[i], claimed_len[i] + _UDP_BYTES
        out[at] = 0x60 if is_v6 else 0x45
        _put_ip(out, at, udp_len, src_hi[i], src_lo[i], dst_hi[i], dst_lo[i])
        udp = at + (_IPV6_BYTES if is_v6 else _IPV4_BYTES)
        _put(out, udp, np.uint64(sport[i]), 2)
        _put(out, udp + 2, np.uint64(dport[i]), 2)
        _put(out, udp + 4, np.uint64(udp_len), 2)
        _put(out, udp + 6, np.uint64(0), 2)
        body = udp + _UDP_BYTES
        into, bytes_ = out[body : body + size], arena[start[i] : start[i] + size]
        for j in range(size):
            into[j] = bytes_[j]
        if size == claimed_len[i]:
            # The pseudo-header: both addresses, the protocol and the length.
            total = _sum(out, at + (8 if is_v6 else 12), body + size) + PROTO_UDP + udp_len
            found = _checksum(total)
            # Zero would say that there is none (RFC 768).
            _put(out, udp + 6, np.uint64(found if found != 0 else 0xFFFF), 2)


@kernel(none(A_u1, A_i8, A_i4, A_i4, A_i8, A_u1))
def _write_pcap(arena: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, out: Any) -> None:
    """Write records of a pcap file, one after another."""
    at = 0
    for i in range(start.size):
        size = caplen[i]
        _put_little(out, at, at_ns[i] // 1_000_000_000)
        _put_little(out, at + 4, at_ns[i] % 1_000_000_000)
        _put_little(out, at + 8, size)
        _put_little(out, at + 12, wirelen[i])
        into, bytes_ = out[at + 16 : at + 16 + size], arena[start[i] : start[i] + size]
        for j in range(size):
            into[j] = bytes_[j]
        at += 16 + size
