"""Headers: packets made by hand decode to what was put into them."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from core.batches import HeaderBatch
from core.headers import IPV6_HEADERS_MAX, decode_headers
from core.host import MAC_HI
from core.reasons import Reason
from tests.packets import (
    BODY,
    DATAGRAM,
    ETHER,
    FOUR,
    MAC_A,
    MAC_B,
    SEGMENT,
    SIX,
    V4_A,
    V4_B,
    V6_A,
    V6_B,
    batch,
    wire,
)


def address(text: str) -> tuple[int, int]:
    """Return an address as the two words of a column."""
    if text.count(":") == 5 and "::" not in text:
        return int(MAC_HI), int(text.replace(":", ""), 16)
    whole = int(ipaddress.ip_address(text))
    if "." in text:
        whole |= 0xFFFF << 32
    return whole >> 64, whole & (2**64 - 1)


def decode(data: bytes, link: int = 1) -> dict[str, Any]:
    """Decode one packet; positions count from its start, addresses are joined."""
    packets = batch([(link, data)])
    headers = decode_headers(packets)
    row = {name: int(getattr(headers, name)[0]) for name in HeaderBatch.COLUMNS}
    row["payload"] -= int(packets.start[0])
    assert 0 <= row["payload"] <= row["payload"] + row["payload_len"] <= len(data)
    got: dict[str, Any] = {**row, "src": (row["src_hi"], row["src_lo"])}
    got["dst"] = (row["dst_hi"], row["dst_lo"])
    got["bytes"] = data[row["payload"] :][: row["payload_len"]]
    return got


def reason(data: bytes, link: int = 1) -> Reason:
    """Return why a packet was rejected."""
    return Reason(decode(data, link)["reason"])


def holds(data: bytes, link: int = 1, **expected: Any) -> None:
    """Assert that a packet decodes, and to these columns among others."""
    got = decode(data, link)
    assert got["reason"] == 0, Reason(got["reason"]).name
    assert {name: got[name] for name in expected} == expected


UDP4: dict[str, Any] = {
    "ethertype": 0x0800,
    "src": address(V4_A),
    "dst": address(V4_B),
    "proto": 17,
    "sport": 1234,
    "dport": 53,
    "bytes": BODY,
    "claimed_len": len(BODY),
    "fragment": 0,
}
UDP6: dict[str, Any] = {**UDP4, "ethertype": 0x86DD, "src": address(V6_A), "dst": address(V6_B)}
IPV4 = wire(FOUR / DATAGRAM / BODY)
IPV6 = wire(SIX / DATAGRAM / BODY)


@pytest.mark.parametrize(
    "tags",
    [
        Dot1Q(vlan=5),
        Dot1AD(vlan=6) / Dot1Q(vlan=7),
        Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / Dot1Q(vlan=4),
    ],
    ids=["802.1Q", "QinQ", "four"],
)
def test_vlan_tags_are_stepped_over(tags: Any) -> None:
    """Up to four tags lie between Ethernet and the network layer."""
    holds(wire(ETHER / tags / FOUR / DATAGRAM / BODY), **UDP4)
    holds(wire(ETHER / tags / SIX / DATAGRAM / BODY), **UDP6)


def test_old_qinq_and_a_fifth_tag() -> None:
    """0x9100 is a tag too; a fifth tag is an EtherType Penstock does not look into."""
    macs, tag = wire(ETHER)[:12], b"\x91\x00\x00\x05"
    holds(macs + tag + b"\x08\x00" + IPV4, **UDP4)
    holds(macs + tag * 5 + b"\x08\x00" + IPV4, ethertype=0x9100, proto=-1, src=address(MAC_A))
    assert reason(macs + tag + b"\x08") == Reason.LINK_HEADER


def test_ethernet_of_both_versions() -> None:
    """Ethernet II carries IPv4 and IPv6."""
    holds(wire(ETHER / FOUR / DATAGRAM / BODY), **UDP4, payload=42)
    holds(wire(ETHER / SIX / DATAGRAM / BODY), **UDP6, payload=62)


def test_padding_is_no_payload() -> None:
    """Padding of short Ethernet frames is left out by the lengths of IP, ARP and 802.3."""
    short = wire(ETHER / FOUR / UDP(sport=1, dport=2) / b"ab")
    holds(short + bytes(16), bytes=b"ab", claimed_len=2)
    empty = wire(ETHER / FOUR / SEGMENT)
    holds(empty + bytes(6), bytes=b"", payload=54, claimed_len=0)
    arp = wire(ETHER / ARP(hwsrc=MAC_A, psrc=V4_A, pdst=V4_B))
    holds(arp + bytes(18), payload_len=28, claimed_len=28)
    spanning = wire(Dot3(src=MAC_A, dst=MAC_B) / LLC() / STP())
    holds(spanning + bytes(8), payload=14, payload_len=len(spanning) - 14)


def test_8023_frames() -> None:
    """A length in place of the type is followed by LLC; SNAP of the zero OUI holds an EtherType."""
    snap = Dot3(src=MAC_A, dst=MAC_B) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3)
    holds(wire(snap / SNAP(OUI=0, code=0x0800) / FOUR / DATAGRAM / BODY), **UDP4)
    cisco = wire(snap / SNAP(OUI=0x00000C, code=0x2000) / BODY)
    holds(cisco, ethertype=0, proto=-1, src=address(MAC_A), dst=address(MAC_B), payload=14)
    macs = wire(ETHER)[:12]
    assert reason(macs + b"\x00\x26\xaa\xaa") == Reason.LINK_HEADER
    assert reason(macs + b"\x00\x26\xaa\xaa\x03\x00\x00") == Reason.LINK_HEADER
    assert reason(macs + b"\x00\x00" + bytes(46)) == Reason.LINK_HEADER


@pytest.mark.parametrize("link", [101, 12, 14])
def test_raw_ip_tells_its_version(link: int) -> None:
    """Raw IP begins with the IP header, whose version says which."""
    holds(IPV4, link, **UDP4)
    holds(IPV6, link, **UDP6)
    assert reason(b"", link) == Reason.LINK_HEADER
    assert reason(b"\x75" + IPV4[1:], link) == Reason.IPV4_HEADER


def test_raw_ip_of_one_version() -> None:
    """Link types 228 and 229 carry one version and reject the other."""
    holds(IPV4, 228, **UDP4)
    holds(IPV6, 229, **UDP6)
    assert reason(IPV6, 228) == Reason.IPV4_HEADER
    assert reason(IPV4, 229) == Reason.IPV6_HEADER


def test_null_and_loopback() -> None:
    """The family is in either byte order for null, in network order for loopback."""
    for link, form in ((0, "<I"), (0, ">I"), (108, ">I")):
        holds(struct.pack(form, 2) + IPV4, link, **UDP4)
        for family in (10, 24, 28, 30):
            holds(struct.pack(form, family) + IPV6, link, **UDP6)
    holds(b"\x07\x00\x00\x00" + IPV4, 0, ethertype=0, proto=-1, src=(0, 0), payload=4)
    holds(b"\x02\x00\x00\x00" + IPV4, 108, ethertype=0, proto=-1)
    assert reason(b"\x02\x00\x00", 0) == Reason.LINK_HEADER


def test_linux_cooked() -> None:
    """Both versions of Linux cooked carry IP, tags, 802.2, and a sender's address of six bytes."""
    mac = bytes.fromhex(MAC_A.replace(":", ""))
    one = CookedLinux(lladdrlen=6, src=mac + b"\0\0", proto=0x0800)
    two = CookedLinuxV2(lladdrlen=6, src=mac + b"\0\0", proto=0x86DD)
    holds(wire(one / FOUR / DATAGRAM / BODY), 113, **UDP4)
    holds(wire(two / SIX / DATAGRAM / BODY), 276, **UDP6)
    tag = b"\x00\x05\x08\x00"
    holds(wire(one)[:14] + b"\x81\x00" + tag + IPV4, 113, **UDP4)
    holds(b"\x81\x00" + wire(two)[2:] + tag + IPV4, 276, **UDP4)
    loop = wire(one)[:14] + b"\x90\x00"
    holds(loop + BODY, 113, ethertype=0x9000, src=address(MAC_A), dst=(0, 0), bytes=BODY)
    holds(wire(one)[:14] + b"\x00\x04" + b"\x42\x42\x03" + BODY, 113, ethertype=0, payload=16)
    unaddressed = wire(one)[:4] + b"\x00\x00" + wire(one)[6:14] + b"\x90\x00"
    holds(unaddressed, 113, src=(0, 0))
    assert reason(wire(one)[:15], 113) == Reason.LINK_HEADER
    assert reason(wire(two)[:19], 276) == Reason.LINK_HEADER


def test_other_link_types_are_named() -> None:
    """A link type without a decoder is a reason, not a guess."""
    for link in (-1, 2, 105, 127, 147, 189, 2**31 - 1):
        assert reason(IPV4, link) == Reason.LINK_UNSUPPORTED


def test_ipv4_options_and_lengths() -> None:
    """Options are stepped over; a total length of 0 means all that was captured."""
    options = FOUR.copy()
    options.options = [IPOption_Timestamp()]
    holds(wire(ETHER / options / DATAGRAM / BODY), **UDP4)
    offload = IP(src=V4_A, dst=V4_B, len=0)
    holds(wire(offload / SEGMENT / BODY), 228, proto=6, bytes=BODY, claimed_len=len(BODY))
    snapped = wire(FOUR / SEGMENT / (BODY * 9))
    holds(snapped[:50], 228, payload=40, payload_len=10, claimed_len=180)
    for bad in (IP(len=19), IP(ihl=4), IP(ihl=15), IP(version=5)):
        assert reason(wire(bad), 228) == Reason.IPV4_HEADER
    assert reason(IPV4[:19], 228) == Reason.IPV4_HEADER


def test_ipv4_fragments() -> None:
    """Every piece is marked; only the first has ports, and only a whole datagram is unmarked."""
    first = wire(IP(src=V4_A, dst=V4_B, flags="MF") / DATAGRAM / BODY)
    later = wire(IP(src=V4_A, dst=V4_B, frag=3, proto=17) / Raw(BODY))
    holds(first, 228, **{**UDP4, "fragment": 1})
    holds(later, 228, proto=17, fragment=1, sport=0, dport=0, payload=20, bytes=BODY)
    holds(wire(IP(src=V4_A, dst=V4_B, flags="DF") / DATAGRAM / BODY), 228, **UDP4)
    assert reason(wire(IP(flags="MF", proto=17, src=V4_A, dst=V4_B) / b"abc"), 228) == (
        Reason.UDP_HEADER
    )


def test_ipv6_extension_headers() -> None:
    """The chain is walked to the transport header, whatever lies in it."""
    chain = (
        IPv6ExtHdrHopByHop()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrRouting(addresses=[V6_A])
        / IPv6ExtHdrDestOpt()
    )
    holds(wire(ETHER / SIX / chain / DATAGRAM / BODY), **UDP6)
    auth = b"\x11\x04" + bytes(22)
    mobility = b"\x33\x00" + bytes(6)
    plain = IPv6(src=V6_A, dst=V6_B, nh=135)
    holds(wire(plain / (mobility + auth + wire(SIX / DATAGRAM / BODY)[40:])), 229, **UDP6)


def test_ipv6_chains_that_do_not_end() -> None:
    """ESP and no-next-header stop the walk; a cut or endless chain is a rejection."""
    esp, end = IPv6(src=V6_A, dst=V6_B, nh=50), IPv6(src=V6_A, dst=V6_B, nh=59)
    holds(wire(esp / BODY), 229, proto=50, bytes=BODY, sport=0)
    holds(wire(ETHER / end) + bytes(6), proto=59, payload_len=0, claimed_len=0)
    step = b"\x3c\x00" + bytes(6)
    last = b"\x3b\x00" + bytes(6)
    options = IPv6(src=V6_A, dst=V6_B, nh=60)
    holds(wire(options / (step * (IPV6_HEADERS_MAX - 1) + last)), 229, proto=59)
    for chain in (step * IPV6_HEADERS_MAX + last, step, b"\x3b\x01" + bytes(6), b"\x3b\x00\x00"):
        assert reason(wire(options / chain), 229) == Reason.IPV6_HEADER
    assert reason(IPV6[:39], 229) == Reason.IPV6_HEADER


def test_ipv6_fragments() -> None:
    """A first fragment has ports, a later one has not, an atomic one is no fragment."""
    first = SIX / IPv6ExtHdrFragment(m=1, offset=0) / DATAGRAM / BODY
    later = SIX / IPv6ExtHdrFragment(m=0, offset=5, nh=17) / Raw(BODY)
    atomic = SIX / IPv6ExtHdrFragment(m=0, offset=0) / DATAGRAM / BODY
    holds(wire(first), 229, **{**UDP6, "fragment": 1})
    holds(wire(later), 229, proto=17, fragment=1, sport=0, dport=0, payload=48, bytes=BODY)
    holds(wire(atomic), 229, **UDP6)


def test_ipv6_without_length() -> None:
    """A payload length of 0 means all that was captured; so does a UDP length of 0 over IPv6."""
    jumbo = IPv6(src=V6_A, dst=V6_B, plen=0) / UDP(sport=1234, dport=53, len=0) / BODY
    holds(wire(jumbo), 229, **UDP6)
    assert reason(wire(FOUR / UDP(sport=1234, dport=53, len=0) / BODY), 228) == Reason.UDP_HEADER


def test_arp() -> None:
    """ARP speaks for its IPv4 addresses, or for its MACs when it resolves something else."""
    ask = ARP(hwsrc=MAC_A, psrc=V4_A, hwdst=MAC_B, pdst=V4_B)
    holds(wire(ETHER / ask), ethertype=0x0806, proto=-1, src=address(V4_A), dst=address(V4_B))
    other = wire(ETHER)[:12] + b"\x08\x06\x00\x01\x80\x9b\x06\x03\x00\x01"
    macs = bytes.fromhex((MAC_B + MAC_A).replace(":", ""))
    alien = other + macs[:6] + b"abc" + macs[6:] + b"def"
    holds(alien, src=address(MAC_B), dst=address(MAC_A), payload_len=26)
    assert reason(wire(ETHER / ask)[:-1]) == Reason.ARP_HEADER
    assert reason(wire(ETHER)[:12] + b"\x08\x06\x00\x01\x08\x00\x06") == Reason.ARP_HEADER


def test_tcp() -> None:
    """TCP gives ports, flags and a payload behind its options."""
    segment = TCP(sport=80, dport=4321, flags="FPU", options=[("MSS", 1460), ("NOP", None)])
    holds(wire(FOUR / segment / BODY), 228, sport=80, dport=4321, tcp_flags=0x29, bytes=BODY)
    for offset in (4, 15):
        bad = wire(FOUR / TCP(dataofs=offset) / BODY)[:60]
        assert reason(bad, 228) == Reason.TCP_HEADER
    assert reason(wire(FOUR / SEGMENT)[:39], 228) == Reason.TCP_HEADER


def test_udp_lengths() -> None:
    """UDP's own length bounds the payload, and its claim is kept when the packet has less."""
    holds(wire(FOUR / UDP(len=12) / BODY), 228, bytes=BODY[:4], claimed_len=4)
    holds(wire(FOUR / UDP(len=500) / BODY), 228, bytes=BODY, claimed_len=492)
    assert reason(wire(FOUR / UDP(len=7) / BODY), 228) == Reason.UDP_HEADER
    assert reason(IPV4[:27], 228) == Reason.UDP_HEADER


def test_icmp_and_other_transports() -> None:
    """ICMP gives type and code; SCTP, DCCP and UDP-Lite ports; all keep the IP payload."""
    holds(wire(FOUR / ICMP(type=3, code=1) / BODY), 228, proto=1, sport=3, dport=1, payload=20)
    holds(wire(SIX / ICMPv6EchoRequest() / BODY), 229, proto=58, sport=128, dport=0, payload=40)
    holds(wire(FOUR / SCTP(sport=7, dport=9)), 228, proto=132, sport=7, dport=9, payload=20)
    for proto in (33, 136):
        packet = IP(src=V4_A, dst=V4_B, proto=proto)
        holds(wire(packet / b"\x00\x07\x00\x09rest"), 228, proto=proto, sport=7, dport=9)
        holds(wire(packet / b"\x00\x07\x00"), 228, proto=proto, sport=0, dport=0)
    holds(wire(IP(src=V4_A, dst=V4_B, proto=47) / BODY), 228, proto=47, sport=0, bytes=BODY)
    assert reason(wire(FOUR / ICMP())[:23], 228) == Reason.ICMP_HEADER
