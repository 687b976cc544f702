"""Capture filters: what libpcap compiles keeps what tcpdump keeps, and bad ones say what to do."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scapy.error import Scapy_Exception
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import RawPcapReader

from connectors.bpf import compile_filter
from core.bpf import select, validate
from core.errors import UsageError
from core.link import LINK_TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FOUR = IP(src="192.0.2.1", dst="198.51.100.2")
SIX = IPv6(src="2001:db8::1", dst="2001:db8::2")
PACKETS = [
    bytes(packet)
    for packet in (
        ETHER / FOUR / UDP(sport=5000, dport=53) / b"question",
        ETHER / FOUR / TCP(sport=443, dport=6000, flags="S"),
        ETHER / FOUR / TCP(sport=443, dport=6000, flags="SA") / bytes(900),
        ETHER / FOUR / ICMP(),
        ETHER / IP(src="10.1.2.3", dst="10.9.8.7", frag=4, proto=17) / bytes(30),
        ETHER / SIX / UDP(sport=5353, dport=53) / b"question",
        ETHER / SIX / ICMPv6EchoRequest(),
        ETHER / Dot1Q(vlan=7) / FOUR / UDP(sport=5000, dport=53),
        ETHER / ARP(hwsrc="02:00:00:00:00:01", psrc="192.0.2.1", pdst="192.0.2.9"),
    )
]
EXPRESSIONS = [
    "",
    "udp",
    "tcp",
    "ip6",
    "arp",
    "port 53",
    "udp port 53 and not ip6",
    "host 192.0.2.1",
    "net 10.0.0.0/8",
    "src host 192.0.2.1 and (tcp or icmp)",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "vlan 7 and udp",
    "ip[6:2] & 0x1fff != 0",
    "len > 200",
    "greater 100 or less 50",
    "portrange 400-500",
    "ip[2:2] - ((ip[0] & 0xf) << 2) > 100",
    "ip[8] % 7 == 1 or ip[9] ^ 3 == 5",
]


def laid_out(
    packets: list[bytes],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    """Return arena, starts and lengths of packets."""
    length = np.array([len(data) for data in packets], np.int32)
    arena = np.frombuffer(bytearray(b"".join(packets)), np.uint8)
    return arena, np.cumsum(length.astype(np.int64)) - length, length


def kept(
    expr: str, link: int, packets: list[bytes], wirelen: list[int] | None = None
) -> NDArray[np.uint8]:
    """Filter packets of one link type."""
    arena, start, length = laid_out(packets)
    keep = np.zeros(len(packets), np.uint8)
    wire = length if wirelen is None else np.array(wirelen, np.int32)
    select(compile_filter(expr, link), arena, start, length, wire, keep)
    return keep


def capture(link: int, packets: list[bytes], wirelen: list[int] | None = None) -> bytes:
    """Write packets as a capture file."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)]
    for data, wire in zip(packets, wirelen or map(len, packets), strict=True):
        out += [struct.pack("<IIII", 0, 0, len(data), wire), data]
    return b"".join(out)


@pytest.fixture(scope="session")
def tcpdump() -> str:
    """Find tcpdump, whose libpcap is the oracle; skip where there is none."""
    found = shutil.which("tcpdump")
    if not found:
        pytest.skip("tcpdump is not installed: no oracle for filters")
    return found


def counted(tcpdump: str, content: bytes, expr: str) -> int | None:
    """Count the packets tcpdump keeps; None when it refuses the expression for this link type."""
    # From standard input, because tcpdump gives up root before it opens a file.
    command = [tcpdump, "-n", "-r", "-", "--count", expr]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    return int(done.stdout.split()[0]) if done.returncode == 0 else None


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_tcpdump_keeps_the_same(tcpdump: str, expr: str) -> None:
    """Whole packets, packets cut everywhere, and damaged ones are kept as tcpdump keeps them."""
    rng = np.random.default_rng(11)
    packets = list(PACKETS)
    for data in PACKETS * 40:
        changed = bytearray(data)
        changed[int(rng.integers(12, min(len(data), 60)))] = int(rng.integers(0, 256))
        packets.append(bytes(changed[: int(rng.integers(0, 2 * len(data)))]))
    wirelen = [len(data) + int(rng.integers(0, 300)) for data in packets]
    ours = int(kept(expr, 1, packets, wirelen).sum())
    assert ours == counted(tcpdump, capture(1, packets, wirelen), expr)
    assert 0 < ours <= len(packets)


def test_worked_filters() -> None:
    """Expressions of every kind keep the packets they name."""
    assert np.flatnonzero(kept("port 53", 1, PACKETS)).tolist() == [0, 5]
    assert np.flatnonzero(kept("vlan", 1, PACKETS)).tolist() == [7]
    assert np.flatnonzero(kept("arp or icmp or icmp6", 1, PACKETS)).tolist() == [3, 6, 8]
    assert kept("", 1, PACKETS).all()


@pytest.mark.parametrize("link", [12, 14, 101])
def test_raw_ip_has_three_numbers(link: int) -> None:
    """Raw IP is one link type to libpcap, whatever number a file gives it."""
    raw = [data[14:] for data in PACKETS[:7]]
    assert np.flatnonzero(kept("udp port 53", link, raw)).tolist() == [0, 5]


@pytest.mark.parametrize("link", sorted(LINK_TYPES))
def test_every_link_type_penstock_decodes_can_be_filtered(link: int) -> None:
    """Protocol, host and port can be asked of each of them."""
    program = compile_filter("udp and host 192.0.2.1 and port 53", link)
    if link != 229:
        assert len(program) > 5
    assert validate(program)


@pytest.mark.parametrize(
    "expr",
    ["udp prt 53", "host", "(tcp", "ip6 and ip", "port 99999", "tcp\0", "ether proto \\nonsense"],
)
@pytest.mark.parametrize("link", [1, 101, 147])
def test_a_bad_expression_is_one_line_with_its_cure(expr: str, link: int) -> None:
    """The error names the expression, says what libpcap said, and where to read on."""
    with pytest.raises(UsageError) as caught:
        compile_filter(expr, link)
    line = str(caught.value)
    assert repr(expr) in line
    assert line.endswith("see man pcap-filter")
    assert "\n" not in line
    assert len(line) > len(repr(expr)) + 40


def test_a_long_expression_is_not_repeated_in_full() -> None:
    """The line stays a line."""
    with pytest.raises(UsageError) as caught:
        compile_filter("tcp and " * 500, 1)
    assert len(str(caught.value)) < 300


def test_what_only_a_live_capture_knows_is_refused() -> None:
    """Direction is not in a file of Ethernet: to filter by it would reject every packet."""
    with pytest.raises(UsageError, match="only a live capture knows"):
        compile_filter("inbound", 1)


def test_a_filter_that_loops_is_refused() -> None:
    """`protochain` jumps back, so that nothing bounds its time: it is refused, as by Linux."""
    with pytest.raises(UsageError, match="run forward only"):
        compile_filter("ip6 protochain 17", 1)


def test_link_types_libpcap_cannot_filter() -> None:
    """Packets Penstock does not decode anyway are kept, to be counted; others end the command."""
    for link in (147, 195, 99_999, -1):
        assert kept("udp", link, PACKETS).all()
    with pytest.raises(UsageError, match="link type 228"):
        compile_filter("ether host 02:00:00:00:00:01", 228)


def test_what_no_packet_of_a_link_type_can_match() -> None:
    """IPv6 in a capture of IPv4 is a sound question whose answer is none."""
    assert not kept("ip6", 228, [data[14:] for data in PACKETS]).any()


SAMPLES = (
    "arp/*.pcap",
    "fragments/*frag-1*.pcap",
    "ipv6/*.pcap",
    "linktypes/*.pcap",
    "malformed/tcpdump*.pcap",
    "nsec/tcpdump*.pcap",
    "vlan/*.pcap",
)


@pytest.mark.corpus
def test_real_captures_are_filtered_as_tcpdump_does(corpus: Path, tcpdump: str) -> None:
    """On captures of every kind the counts equal `tcpdump -r FILE --count EXPRESSION`."""
    asked, differing = 0, []
    for pattern in SAMPLES:
        for path in sorted((corpus / "captures").glob(pattern))[:6]:
            try:
                with RawPcapReader(str(path)) as reader:
                    link = getattr(reader, "linktype", 0) & 0x03FF_FFFF
                    read = [(data, meta.wirelen) for data, meta in reader]
            except (Scapy_Exception, EOFError):
                continue
            packets, wirelen = [data for data, _ in read], [wire for _, wire in read]
            content = capture(link, packets, wirelen)
            for expr in ("udp", "tcp port 80 or port 53", "ip6 or arp", "len > 100"):
                theirs = counted(tcpdump, content, expr)
                if theirs is None:
                    continue
                asked += 1
                ours = int(kept(expr, link, packets, wirelen).sum())
                if ours != theirs:
                    differing.append(f"{path.name} {expr!r}: {ours}, tcpdump {theirs}")
    assert not differing
    assert asked > 100
