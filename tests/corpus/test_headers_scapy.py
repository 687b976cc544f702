"""Headers of real captures: what Penstock decodes is what scapy dissects, or the reason is listed.

For the first 200 packets of every capture the network layer, addresses, protocol, ports, fragment
mark, payload and claimed length of both are compared. Scapy reads the files and dissects the
packets; nothing here shares code with `core.capture` or `core.headers`.
"""

from __future__ import annotations

import collections
import ipaddress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from scapy.error import Scapy_Exception
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    _ICMPv6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import (
    ARP,
    LLC,
    SNAP,
    CookedLinux,
    CookedLinuxV2,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    Loopback,
)
from scapy.layers.sctp import SCTP
from scapy.packet import NoPayload, Packet, Padding, Raw
from scapy.utils import RawPcapReader

from core.batches import PacketBatch
from core.headers import decode_headers
from core.link import LINK_TYPES
from core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.corpus

PACKETS_MAX = 200
LINK_TYPE_BITS = 0x03FF_FFFF  # the rest of the field of classic pcap tells of a checksum (FCS)

DISSECTORS: dict[int, type[Packet]] = {
    0: Loopback,
    1: Ether,
    108: Loopback,
    113: CookedLinux,
    276: CookedLinuxV2,
    228: IP,
    229: IPv6,
}
BELOW = (Ether, Dot3, CookedLinux, CookedLinuxV2, Loopback, Dot1Q, Dot1AD, LLC, SNAP)
CHAIN = (IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, AH)
CHAIN_NUMBERS = (0, 43, 44, 51, 60, 135)


class Row(NamedTuple):
    """What both sides say of one packet; `rejected` stands for any malformed header."""

    src: str = ""
    dst: str = ""
    proto: int = -1
    sport: int = 0
    dport: int = 0
    tcp_flags: int = 0
    fragment: bool = False
    payload: bytes = b""
    claimed_len: int = 0
    rejected: str = ""


# File → packets that differ, and why. Any other difference, and any that went away, is a failure.
CHAIN_TOO_LONG = "more than 16 IPv6 extension headers: Penstock stops, scapy walks on"
NO_DCCP = "scapy does not dissect DCCP and knows no ports of it"
NO_FAMILY = "scapy takes IPv6 over null from the family of this machine only, not 24, 28 and 30"
EXPLAINED = {
    "fragments/suricata-verify__ipv6-malformed-fragments-11_frag-11.pcap": (1, CHAIN_TOO_LONG),
    "fragments/suricata-verify__ipv6-malformed-fragments-12_frag-12.pcap": (1, CHAIN_TOO_LONG),
    "malformed/gopacket__pcap_test_loopback.pcap": (24, NO_FAMILY),
    "malformed/pcapplusplus__PcapExamples_null_loopback.pcap": (1, NO_FAMILY),
    "ipv6/tcpdump__tests_dccp_partial_csum_v6_longer.pcap": (9, NO_DCCP),
    "malformed/tcpdump__tests_dccp_options-oobr.pcap": (7, NO_DCCP),
}


def captures(folder: Path) -> list[Path]:
    """Name every capture of the corpus."""
    found = sorted(p for p in (folder / "captures").rglob("*") if p.is_file())
    return [p for p in found if ".pcap" in p.name]


def packets(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield ordinal, link type and bytes of a capture's first packets, as scapy reads them."""
    try:
        with RawPcapReader(str(path)) as reader:
            for ordinal, (data, meta) in enumerate(islice(reader, PACKETS_MAX)):
                link = getattr(meta, "linktype", None)
                yield ordinal, (reader.linktype if link is None else link) & LINK_TYPE_BITS, data
    except (Scapy_Exception, EOFError):
        return


def ours(found: list[tuple[int, int, bytes]]) -> list[Row]:
    """Decode packets with the kernels under test."""
    caplen = np.array([len(data) for _, _, data in found], np.int32)
    batch = PacketBatch(
        arena=np.frombuffer(bytearray(b"".join(data for _, _, data in found)), np.uint8),
        start=np.cumsum(caplen.astype(np.int64)) - caplen,
        caplen=caplen,
        wirelen=caplen.copy(),
        at_ns=np.zeros(len(found), np.int64),
        linktype=np.array([link for _, link, _ in found], np.int32),
        ordinal=np.arange(len(found), dtype=np.int64),
        index=0,
        source=0,
    )
    got = decode_headers(batch)
    rows = []
    for i in range(len(found)):
        if got.reason[i]:
            rows.append(Row(rejected=Reason(int(got.reason[i])).name))
            continue
        at, size = int(got.payload[i]), int(got.payload_len[i])
        rows.append(
            Row(
                src=written(int(got.src_hi[i]), int(got.src_lo[i]), int(got.proto[i])),
                dst=written(int(got.dst_hi[i]), int(got.dst_lo[i]), int(got.proto[i])),
                proto=int(got.proto[i]),
                sport=int(got.sport[i]),
                dport=int(got.dport[i]),
                tcp_flags=int(got.tcp_flags[i]),
                fragment=bool(got.fragment[i]),
                payload=batch.arena[at : at + size].tobytes(),
                claimed_len=int(got.claimed_len[i]),
            )
        )
    return rows


def written(hi: int, lo: int, proto: int) -> str:
    """Write an address of two words; nothing when a packet that is not IP has none."""
    if hi == 1:
        return mac(lo.to_bytes(6))
    return ip(ipaddress.IPv6Address(hi << 64 | lo)) if proto >= 0 or hi or lo else ""


def ip(address: Any) -> str:
    """Write an IP address, an IPv4-mapped one as the IPv4 address it stands for."""
    whole = ipaddress.ip_address(address)
    return str(getattr(whole, "ipv4_mapped", None) or whole)


def mac(address: str | bytes) -> str:
    """Write a MAC; scapy gives bytes when ARP resolves something it does not know."""
    return address.hex(":") if isinstance(address, bytes) else address


def rest(layer: Packet) -> bytes:
    """Return the bytes scapy handed to the layer above, without padding."""
    above = layer.payload
    return b"" if isinstance(above, (NoPayload, Padding)) else above.original


def theirs(link: int, data: bytes) -> Row:
    """Dissect a packet with scapy and tell it in the same terms."""
    first = DISSECTORS.get(link) or (IPv6 if data[:1] and data[0] >> 4 == 6 else IP)
    if len(data) < {Ether: 14, CookedLinux: 16, CookedLinuxV2: 20}.get(first, 1):
        return Row(rejected="LINK_HEADER")  # scapy fills up a short header with defaults
    layer: Packet = first(data)
    src = dst = ""
    kind = {IP: 0x0800, IPv6: 0x86DD}.get(first, 0)
    claimed = 0
    while isinstance(layer, BELOW):
        below, layer = layer, layer.payload
        if isinstance(below, (Ether, Dot3)):
            src, dst = below.src, below.dst
        elif isinstance(below, (CookedLinux, CookedLinuxV2)) and below.lladdrlen == 6:
            src = mac(bytes(below.src[:6]))
        if isinstance(layer, LLC):
            claimed = below.len if isinstance(below, Dot3) else below.type
        if isinstance(below, LLC) and not (isinstance(layer, SNAP) and layer.OUI == 0):
            return Row(src, dst, payload=below.original, claimed_len=claimed)
        kind = below.fields.get("type", below.fields.get("proto", below.fields.get("code", 0)))
    missing = {0x0800: (IP, "IPV4"), 0x86DD: (IPv6, "IPV6"), 0x0806: (ARP, "ARP")}.get(kind)
    if missing and not isinstance(layer, missing[0]):
        return Row(rejected=f"{missing[1]}_HEADER")
    for dissected, tell in ((ARP, of_arp), (IP, of_ipv4), (IPv6, of_ipv6)):
        if isinstance(layer, dissected):
            return tell(layer)
    payload = b"" if isinstance(layer, (NoPayload, Padding)) else layer.original
    return Row(src, dst, payload=payload, claimed_len=len(payload))


def of_arp(layer: Any) -> Row:
    """Tell scapy's ARP."""
    size = 8 + 2 * (layer.hwlen + layer.plen)
    if size > len(layer.original):
        return Row(rejected="ARP_HEADER")
    row = Row(payload=layer.original[:size], claimed_len=size)
    if layer.plen == 4 and layer.ptype == 0x0800:
        return row._replace(src=layer.psrc, dst=layer.pdst)
    return row._replace(src=mac(layer.hwsrc), dst=mac(layer.hwdst))


def of_ipv4(layer: Any) -> Row:
    """Tell scapy's IPv4 and the transport above it."""
    size = layer.ihl * 4
    claimed = layer.len - size if layer.len else len(layer.original) - size
    piece = bool(layer.flags.MF or layer.frag)
    row = Row(layer.src, layer.dst, layer.proto, fragment=piece, claimed_len=claimed)
    if layer.version != 4 or layer.ihl < 5 or claimed < 0 or size > len(layer.original):
        return Row(rejected="IPV4_HEADER")
    return of_transport(row, layer, looked_into=layer.frag == 0)


def of_ipv6(layer: Any) -> Row:
    """Tell scapy's IPv6, its extension headers and the transport above them."""
    src, dst = ip(layer.src), ip(layer.dst)
    claimed = layer.plen or len(layer.original) - 40
    first, piece, offset, proto = layer, False, 0, layer.nh
    while isinstance(layer.payload, CHAIN) and not offset:
        layer = layer.payload
        claimed -= len(layer.original) - len(layer.payload.original or b"")
        proto = layer.nh
        if isinstance(layer, IPv6ExtHdrFragment):
            offset = layer.offset
            piece = bool(layer.m or offset)
    if first.version != 6 or (proto in CHAIN_NUMBERS and not offset):
        return Row(rejected="IPV6_HEADER")  # scapy leaves what it cannot dissect as bytes
    row = Row(src, dst, proto, fragment=piece, claimed_len=claimed)
    return of_transport(row, layer, looked_into=not offset)


def of_transport(row: Row, below: Any, *, looked_into: bool) -> Row:
    """Tell the transport layer above `below`, unless that is the middle of a datagram."""
    layer = below.payload
    row = row._replace(payload=rest(below))
    wanted = {6: TCP, 17: UDP, 1: ICMP, 58: _ICMPv6}.get(row.proto)
    if not looked_into:
        return row
    if row.proto in (1, 58) and isinstance(layer, Raw) and len(row.payload) >= 4:
        # ICMP of fewer than 8 bytes, and ICMPv6 of a first fragment, scapy hands over as bytes.
        assert len(row.payload) < 8 or (row.proto == 58 and row.fragment)
        return row._replace(sport=row.payload[0], dport=row.payload[1])
    if wanted and not isinstance(layer, wanted):
        return Row(rejected=f"{wanted.__name__.strip('_')[:4].rstrip('v')}_HEADER")
    if isinstance(layer, TCP):
        size = layer.dataofs * 4
        if size < 20 or size > len(layer.original):
            return Row(rejected="TCP_HEADER")
        flags = int(layer.flags) & 0xFF
        row = row._replace(tcp_flags=flags, claimed_len=row.claimed_len - size, payload=rest(layer))
    if isinstance(layer, UDP):
        row = row._replace(claimed_len=layer.len - 8, payload=rest(layer))
        if layer.len < 8:
            return Row(rejected="UDP_HEADER")
    if isinstance(layer, (TCP, UDP, SCTP)):
        return row._replace(sport=layer.sport, dport=layer.dport)
    if isinstance(layer, (ICMP, _ICMPv6)):
        # Some of scapy's ICMPv6 messages have no field for the code.
        return row._replace(sport=layer.type, dport=layer.fields.get("code", layer.original[1]))
    return row


def differences(path: Path) -> tuple[int, list[str]]:
    """Count the packets of one capture that were compared, and tell each that differs."""
    found = list(packets(path))
    rows = ours(found)
    compared, told = 0, []
    for (ordinal, link, data), row in zip(found, rows, strict=True):
        if link not in LINK_TYPES:
            assert row == Row(rejected="LINK_UNSUPPORTED")
            continue
        compared += 1
        other = theirs(link, data)
        if row != other:
            fields = [f for f in Row._fields if getattr(row, f) != getattr(other, f)]
            told.append(f"{path.name} packet {ordinal}: {fields}; {row.rejected} {other.rejected}")
    return compared, told


@pytest.mark.filterwarnings("ignore::DeprecationWarning:scapy")
def test_headers_equal_scapys(corpus: Path) -> None:
    """Every decoded column of the first 200 packets of every capture is scapy's, or explained."""
    seen, told, files, total = collections.Counter[str](), [], 0, 0
    for path in captures(corpus):
        compared, lines = differences(path)
        name = path.relative_to(corpus / "captures").as_posix()
        files, total = files + 1, total + compared
        if lines:
            seen[name] = len(lines)
        if name not in EXPLAINED:
            told += lines
    assert not told, "\n".join(told[:20])
    assert seen == {name: count for name, (count, _) in EXPLAINED.items()}
    assert files > 400
    assert total > 10_000


def test_the_damage_of_the_corpus_is_named(corpus: Path) -> None:
    """Cut and broken captures give rejections of every layer, and most packets decode."""
    counts = collections.Counter(
        row.rejected for path in captures(corpus) for row in ours(list(packets(path)))
    )
    named = {f"{layer}_HEADER" for layer in ("LINK", "IPV4", "IPV6", "ARP", "TCP", "UDP", "ICMP")}
    assert named <= set(counts)
    assert counts[""] > 0.9 * counts.total()
