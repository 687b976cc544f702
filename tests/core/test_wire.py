"""Datagrams as packets: what is written decodes to what was there, for us and for scapy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapReader

from core.batches import HeaderBatch, PacketBatch
from core.datagrams import Bound, Datagrams
from core.headers import decode_headers
from core.host import IPV4_MAPPED
from core.link import LINK_ETHERNET, LINK_RAW
from core.wire import as_raw, pcap_head, pcap_records

PORT = 9999
V4 = Bound(np.uint64(0), np.uint64(int(IPV4_MAPPED) << 32 | 0x7F000001), PORT)
V6 = Bound(np.uint64(0x20010DB8_00000000), np.uint64(1), PORT)


def datagrams(*payloads: bytes, v6: bool = False, cut: int = 65_536) -> Datagrams:
    """Return datagrams from 10.0.0.7 or fe80::7, port 4242."""
    kept = [each[:cut] for each in payloads]
    length = np.array([len(each) for each in kept], np.int32)
    count = len(payloads)
    hi, lo = (0xFE80 << 48, 7) if v6 else (0, int(IPV4_MAPPED) << 32 | 0x0A000007)
    return Datagrams(
        arena=np.frombuffer(b"".join(kept) or b"\0", np.uint8).copy(),
        start=np.cumsum(length, dtype=np.int64) - length,
        length=length,
        claimed_len=np.array([len(each) for each in payloads], np.int32),
        at_ns=np.arange(count) + 1_700_000_000_999_999_999,
        sender_hi=np.full(count, hi, np.uint64),
        sender_lo=np.full(count, lo, np.uint64),
        sport=np.full(count, 4242, np.int32),
        dport=np.full(count, PORT, np.int32),
        index=0,
        kernel_dropped=0,
    )


def raw(rows: Datagrams) -> tuple[PacketBatch, HeaderBatch, PacketBatch]:
    """Return datagrams as packets, their headers, and as packets of raw IP."""
    packets, headers = rows.as_packets(1, [V4, V6])
    return packets, headers, as_raw(packets, headers)


def content(packets: PacketBatch, row: int) -> bytes:
    first = int(packets.start[row])
    return packets.arena[first : first + int(packets.caplen[row])].tobytes()


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=5), st.booleans(), st.integers(0, 80))
def test_headers_come_back(payloads: list[bytes], v6: bool, cut: int) -> None:
    """Decoded again, packets have the headers and the payloads of their datagrams."""
    packets, headers, wire = raw(datagrams(*payloads, v6=v6, cut=cut))
    found = decode_headers(wire)
    for name in (
        "reason", "ethertype", "src_hi", "src_lo", "dst_hi", "dst_lo", "proto", "sport", "dport",
        "payload_len", "claimed_len",
    ):  # fmt: skip
        assert getattr(found, name).tolist() == getattr(headers, name).tolist(), name
    for row, payload in enumerate(payloads):
        first = int(found.payload[row])
        assert wire.arena[first : first + int(found.payload_len[row])].tobytes() == payload[:cut]
    assert (wire.at_ns == packets.at_ns).all()
    assert (wire.linktype == LINK_RAW).all()


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_checksums_are_right(payload: bytes, v6: bool) -> None:
    """Scapy computes the same packet, checksums and lengths included."""
    _, _, wire = raw(datagrams(payload, v6=v6))
    udp = UDP(sport=4242, dport=PORT) / payload
    six, four = IPv6(src="fe80::7", dst="2001:db8::1", hlim=64), IP(src="10.0.0.7", id=0, ttl=64)
    assert content(wire, 0) == bytes((six if v6 else four) / udp)


def test_what_was_cut_has_no_checksum() -> None:
    """A sum over what is not there would be wrong; the lengths are those it had."""
    _, _, wire = raw(datagrams(b"0123456789", cut=4))
    packet = content(wire, 0)
    assert packet[26:28] == b"\0\0"
    assert struct.unpack(">H", packet[24:26]) == (18,)
    assert (int(wire.caplen[0]), int(wire.wirelen[0])) == (32, 38)


def test_a_zero_sum_is_sent_as_its_other_form() -> None:
    """A checksum that comes out as zero is written as 0xFFFF."""
    found = set()
    for value in range(0x10000):
        _, _, wire = raw(datagrams(struct.pack(">H", value)))
        found.add(content(wire, 0)[26:28])
        if b"\xff\xff" in found:
            break
    assert b"\xff\xff" in found
    assert b"\0\0" not in found


def test_records_of_a_pcap_file(tmp_path: Path) -> None:
    """Scapy reads packets with their times in nanoseconds, and the lengths they had."""
    _, _, wire = raw(datagrams(b"one", b"", b"three", cut=4))
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_head(LINK_RAW) + pcap_records(wire).tobytes())
    with RawPcapReader(str(path)) as reader:
        read = list(reader)
    assert reader.linktype == LINK_RAW
    assert reader.nano
    assert [bytes(data) for data, _ in read] == [content(wire, row) for row in range(3)]
    assert [(m.sec, m.usec) for _, m in read] == [
        (1_700_000_000, 999_999_999), (1_700_000_001, 0), (1_700_000_001, 1)
    ]  # fmt: skip
    assert [m.wirelen for _, m in read] == [31, 28, 33]


def test_other_packets_stay_as_they_are() -> None:
    """What has a link layer already is not touched, nor is nothing."""
    packets, headers, _ = raw(datagrams(b"x"))
    packets.linktype[:] = LINK_ETHERNET
    assert as_raw(packets, headers) is packets
    none = packets.take(slice(0, 0))
    assert as_raw(none, headers.take(slice(0, 0))) is none
