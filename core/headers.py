"""Packet headers: from the bytes of a link layer to one row of addresses, ports and lengths.

Laws:

1. Any bytes whatever give a row: columns, or one named rejection (`core.reasons`). A rejected row
   holds nothing else: its columns are zero, `proto` is -1 and its payload is empty at its start.
2. A cursor walks each packet. Before a byte is read, the cursor is compared with `end`, and `end`
   only ever shrinks: captured bytes, then an 802.3 length, then an IP length, then a UDP length.
3. A packet cut by the snap length is sound when its headers are whole. A header cut short is a
   rejection by that layer, whoever cut it.
4. Lengths: `payload_len` counts captured bytes within all claims, so it leaves out the padding of
   Ethernet; `claimed_len` is what the innermost length field claims.

Choices: an IP length of 0 means all that was captured (segmentation offload, jumbograms). ICMP
needs the 4 bytes all its messages share (RFC 792, RFC 4443 §2.1). SCTP, DCCP and UDP-Lite have
ports when 4 bytes of them are there and no rejection of their own. A chain of more than 16 IPv6
headers is a rejection. An atomic IPv6 fragment (RFC 6946) is no fragment. A frame of a length
(802.3) without LLC is rejected.

Not here: the link layer (`core.link`), reassembly, tunnels (IP in IP, GRE, MPLS, PPPoE), checksums,
what the payload says.

Sources: RFC 791, 8200, 8504 (IP); RFC 826 (ARP); RFC 792, 4443 (ICMP); RFC 9293 (TCP); RFC 768,
2675 (UDP, jumbograms).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.batches import HeaderBatch, PacketBatch
from core.host import IPV4_MAPPED
from core.kernels import A_i4, A_i8, A_u1, A_u8, be16, be_word, i8, kernel, none
from core.link import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    HOST_DST,
    HOST_SRC,
    ROW_CLAIM,
    ROW_DPORT,
    ROW_END,
    ROW_ETHERTYPE,
    ROW_FIELDS,
    ROW_FLAGS,
    ROW_FRAGMENT,
    ROW_PAYLOAD,
    ROW_PROTO,
    ROW_SPORT,
    read_link,
    set_mac,
)
from core.protocols import (
    PROTO_DCCP,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    PROTO_UDP_LITE,
)
from core.reasons import Reason

IPV6_HEADERS_MAX = 16

# Kernels see plain integers: an IntEnum would be compiled as an enum type in each of them.
_LINK_HEADER = int(Reason.LINK_HEADER)
_IPV4_HEADER, _IPV6_HEADER = int(Reason.IPV4_HEADER), int(Reason.IPV6_HEADER)
_ARP_HEADER, _ICMP_HEADER = int(Reason.ARP_HEADER), int(Reason.ICMP_HEADER)
_TCP_HEADER, _UDP_HEADER = int(Reason.TCP_HEADER), int(Reason.UDP_HEADER)

_MAPPED = IPV4_MAPPED << np.uint64(32)


@kernel(none(A_u1, i8, A_u8, i8))
def _set_ipv4(arena: Any, at: Any, host: Any, which: Any) -> None:
    """Take four bytes as an IPv4-mapped address of source or destination."""
    host[which] = np.uint64(0)
    host[which + 1] = _MAPPED | be_word(arena, at, 4)


@kernel(i8(A_u1, i8, A_i8, A_u8))
def _arp(arena: Any, at: Any, row: Any, host: Any) -> Any:
    """Read ARP: who asks is the source, who is asked for the destination."""
    left = row[ROW_END] - at
    if left < 8:
        return _ARP_HEADER
    hlen, plen = int(arena[at + 4]), int(arena[at + 5])
    size = 8 + 2 * (hlen + plen)
    if left < size:
        return _ARP_HEADER
    sender, target = at + 8, at + 8 + hlen + plen
    if plen == 4 and be16(arena, at + 2) == ETHERTYPE_IPV4:
        _set_ipv4(arena, sender + hlen, host, HOST_SRC)
        _set_ipv4(arena, target + hlen, host, HOST_DST)
    elif hlen == 6:
        set_mac(arena, sender, host, HOST_SRC)
        set_mac(arena, target, host, HOST_DST)
    row[ROW_PAYLOAD] = at
    row[ROW_CLAIM] = at + size
    row[ROW_END] = at + size
    return 0


@kernel(i8(A_u1, i8, A_i8))
def _tcp(arena: Any, at: Any, row: Any) -> Any:
    """Read a TCP header."""
    left = row[ROW_END] - at
    if left < 20:
        return _TCP_HEADER
    size = (int(arena[at + 12]) >> 4) * 4
    if size < 20 or size > left:
        return _TCP_HEADER
    row[ROW_FLAGS] = int(arena[at + 13])
    row[ROW_PAYLOAD] = at + size
    return 0


@kernel(i8(A_u1, i8, A_i8))
def _udp(arena: Any, at: Any, row: Any) -> Any:
    """Read a UDP header; over IPv6 a length of 0 stands for the rest (RFC 2675 §4)."""
    if row[ROW_END] - at < 8:
        return _UDP_HEADER
    size = be16(arena, at + 4)
    row[ROW_PAYLOAD] = at + 8
    if size == 0 and row[ROW_ETHERTYPE] == ETHERTYPE_IPV6:
        return 0
    if size < 8:
        return _UDP_HEADER
    row[ROW_CLAIM] = at + size
    row[ROW_END] = min(row[ROW_END], row[ROW_CLAIM])
    return 0


@kernel(i8(A_u1, i8, A_i8))
def _transport(arena: Any, at: Any, row: Any) -> Any:
    """Read the transport header of a whole datagram or a first fragment; return a reason or 0."""
    row[ROW_PAYLOAD] = at
    proto, left = row[ROW_PROTO], row[ROW_END] - at
    reason = 0
    if proto == PROTO_TCP:
        reason = _tcp(arena, at, row)
    elif proto == PROTO_UDP:
        reason = _udp(arena, at, row)
    elif proto in (PROTO_ICMP, PROTO_ICMPV6):
        if left < 4:
            return _ICMP_HEADER
        row[ROW_SPORT], row[ROW_DPORT] = int(arena[at]), int(arena[at + 1])
        return 0
    elif proto not in (PROTO_DCCP, PROTO_SCTP, PROTO_UDP_LITE):
        return 0
    if reason == 0 and left >= 4:
        row[ROW_SPORT], row[ROW_DPORT] = be16(arena, at), be16(arena, at + 2)
    return reason


@kernel(i8(A_u1, i8, A_i8, A_u8))
def _ipv4(arena: Any, at: Any, row: Any, host: Any) -> Any:
    """Read IPv4 and what it carries; return a reason or 0."""
    left = row[ROW_END] - at
    if left < 20 or (int(arena[at]) >> 4) != 4:
        return _IPV4_HEADER
    size, total = (int(arena[at]) & 15) * 4, be16(arena, at + 2)
    if size < 20 or size > left or 0 < total < size:
        return _IPV4_HEADER
    if total > 0:
        row[ROW_CLAIM] = at + total
        row[ROW_END] = min(row[ROW_END], row[ROW_CLAIM])
    row[ROW_PROTO] = int(arena[at + 9])
    _set_ipv4(arena, at + 12, host, HOST_SRC)
    _set_ipv4(arena, at + 16, host, HOST_DST)
    # More-fragments and the offset: anything but 0 marks a piece, an offset a later one.
    piece = be16(arena, at + 6) & 0x3FFF
    row[ROW_FRAGMENT] = 1 if piece else 0
    if piece & 0x1FFF:
        row[ROW_PAYLOAD] = at + size
        return 0
    return _transport(arena, at + size, row)


@kernel(i8(A_u1, i8, i8, A_i8))
def _extensions(arena: Any, at: Any, following: Any, row: Any) -> Any:
    """Walk the IPv6 extension headers; return where they end, or a negative reason.

    Args:
        arena: `uint8`.
        at: Where the first header after the fixed one begins.
        following: Its protocol number.
        row: Gets the protocol behind the chain, and the payload when that is a later fragment.
    """
    walked = 0
    while True:
        is_fragment, is_ah = following == 44, following == 51
        is_option = following in (0, 43, 60, 135)
        row[ROW_PROTO] = following
        if not (is_fragment or is_ah or is_option):
            return at
        left = row[ROW_END] - at
        walked += 1
        if left < 8 or walked > IPV6_HEADERS_MAX:
            return -_IPV6_HEADER
        following, size = int(arena[at]), 8
        if is_ah:
            size = (int(arena[at + 1]) + 2) * 4
        elif is_option:
            size = (int(arena[at + 1]) + 1) * 8
        if size > left:
            return -_IPV6_HEADER
        if is_fragment:
            piece = be16(arena, at + 2)
            row[ROW_FRAGMENT] |= 1 if piece & 0xFFF9 else 0
            if piece & 0xFFF8:
                # What follows is the middle of something: it cannot be walked.
                row[ROW_PROTO], row[ROW_PAYLOAD] = following, at + size
                return 0
        at += size


@kernel(i8(A_u1, i8, A_i8, A_u8))
def _ipv6(arena: Any, at: Any, row: Any, host: Any) -> Any:
    """Read IPv6, its extension headers and what it carries; return a reason or 0."""
    if row[ROW_END] - at < 40 or (int(arena[at]) >> 4) != 6:
        return _IPV6_HEADER
    total, following = be16(arena, at + 4), int(arena[at + 6])
    if total > 0 or following == 59:
        row[ROW_CLAIM] = at + 40 + total
        row[ROW_END] = min(row[ROW_END], row[ROW_CLAIM])
    host[HOST_SRC], host[HOST_SRC + 1] = be_word(arena, at + 8, 8), be_word(arena, at + 16, 8)
    host[HOST_DST], host[HOST_DST + 1] = be_word(arena, at + 24, 8), be_word(arena, at + 32, 8)
    # `row[ROW_PAYLOAD]` is still -1 unless the walk ended in a later fragment.
    at = _extensions(arena, at + 40, following, row)
    if at < 0:
        return -at
    if row[ROW_PAYLOAD] >= 0:
        return 0
    return _transport(arena, at, row)


@kernel(i8(A_u1, i8, i8, A_i8, A_u8))
def _packet(arena: Any, at: Any, linktype: Any, row: Any, host: Any) -> Any:
    """Read all headers of one packet into `row` and `host`; return its reason."""
    at = read_link(arena, at, linktype, row, host)
    if at < 0:
        return -at
    kind = row[ROW_ETHERTYPE]
    if kind == ETHERTYPE_IPV4:
        return _ipv4(arena, at, row, host)
    if kind == ETHERTYPE_IPV6:
        return _ipv6(arena, at, row, host)
    if kind == ETHERTYPE_ARP:
        return _arp(arena, at, row, host)
    row[ROW_PAYLOAD] = at
    return 0


@kernel(
    none(
        *(A_u1, A_i8, A_i4, A_i4),
        *(A_u1, A_i4, A_u8, A_u8, A_u8, A_u8, A_i4, A_i4, A_i4, A_u1, A_u1, A_i8, A_i4, A_i4),
    ),
    allocates=True,
)
def _decode(
    arena: Any,
    start: Any,
    caplen: Any,
    linktype: Any,
    reason: Any,
    ethertype: Any,
    src_hi: Any,
    src_lo: Any,
    dst_hi: Any,
    dst_lo: Any,
    proto: Any,
    sport: Any,
    dport: Any,
    tcp_flags: Any,
    fragment: Any,
    payload: Any,
    payload_len: Any,
    claimed_len: Any,
) -> None:
    """Fill the columns of `HeaderBatch`, whatever they hold before."""
    row = np.zeros(ROW_FIELDS, np.int64)
    host = np.zeros(4, np.uint64)
    for i in range(start.size):
        at, size = int(start[i]), int(caplen[i])
        reason[i] = tcp_flags[i] = fragment[i] = 0
        ethertype[i] = sport[i] = dport[i] = payload_len[i] = claimed_len[i] = 0
        src_hi[i] = src_lo[i] = dst_hi[i] = dst_lo[i] = 0
        proto[i] = -1
        payload[i] = at
        if at < 0 or size < 0 or size > arena.size - at:
            reason[i] = _LINK_HEADER
            continue
        row[:] = 0
        host[:] = 0
        row[ROW_PROTO] = row[ROW_PAYLOAD] = -1
        row[ROW_END] = row[ROW_CLAIM] = at + size
        rejected = _packet(arena, at, int(linktype[i]), row, host)
        if rejected:
            reason[i] = rejected
            continue
        ethertype[i] = row[ROW_ETHERTYPE]
        src_hi[i], src_lo[i] = host[HOST_SRC], host[HOST_SRC + 1]
        dst_hi[i], dst_lo[i] = host[HOST_DST], host[HOST_DST + 1]
        proto[i] = row[ROW_PROTO]
        sport[i], dport[i] = row[ROW_SPORT], row[ROW_DPORT]
        tcp_flags[i], fragment[i] = row[ROW_FLAGS], row[ROW_FRAGMENT]
        payload[i] = row[ROW_PAYLOAD]
        payload_len[i] = row[ROW_END] - row[ROW_PAYLOAD]
        claimed_len[i] = row[ROW_CLAIM] - row[ROW_PAYLOAD]


def decode_headers(packets: PacketBatch) -> HeaderBatch:
    """Decode the headers of every packet.

    Args:
        packets: `n` packets of any link types.

    Returns:
        `n` rows. A row with a reason has no other content; `payload … payload + payload_len` lies
        inside the packet in every row.

    Source: see the module.
    """
    columns = HeaderBatch.unset(len(packets))
    _decode(
        packets.arena,
        np.ascontiguousarray(packets.start),
        np.ascontiguousarray(packets.caplen),
        np.ascontiguousarray(packets.linktype),
        *(getattr(columns, name) for name in HeaderBatch.COLUMNS),
    )
    return columns
