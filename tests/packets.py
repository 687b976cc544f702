"""Packets as scapy builds them, laid into batches, for the tests of headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from core.batches import PacketBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

MAC_A, MAC_B = "02:00:00:00:00:01", "02:00:00:00:00:02"
V4_A, V4_B = "192.0.2.1", "198.51.100.2"
V6_A, V6_B = "2001:db8::1", "2001:db8:ffff::2"
BODY = b"twenty bytes of body"

ETHER = Ether(src=MAC_A, dst=MAC_B)
FOUR, SIX = IP(src=V4_A, dst=V4_B), IPv6(src=V6_A, dst=V6_B)
DATAGRAM, SEGMENT = UDP(sport=1234, dport=53), TCP(sport=80, dport=4321, flags="SA")


def wire(packet: Any) -> bytes:
    """Build a packet of scapy's, its lengths and checksums filled in."""
    return bytes(packet)


def batch(packets: Sequence[tuple[int, bytes]], gap: bytes = b"\xa5" * 7) -> PacketBatch:
    """Lay packets, each with its link type, into one arena with other bytes round each."""
    size = len(packets)
    caplen = np.array([len(data) for _, data in packets], np.int32)
    start = np.cumsum(caplen.astype(np.int64) + len(gap)) - caplen
    joined = b"".join(gap + data for _, data in packets) + gap
    return PacketBatch(
        arena=np.frombuffer(bytearray(joined), np.uint8),
        start=start,
        caplen=caplen,
        wirelen=caplen.copy(),
        at_ns=np.zeros(size, np.int64),
        linktype=np.array([link for link, _ in packets], np.int32),
        ordinal=np.arange(size, dtype=np.int64),
        index=0,
        source=0,
    )
