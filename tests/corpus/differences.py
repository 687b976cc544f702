"""The captures of which libpcap counts other packets than Penstock, each with its reason.

Every other capture must count the same and end the same way: whole, or named as damaged. A file
listed here that no longer differs fails the test, as one does that differs otherwise than it says.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What both make of one capture.

    Attributes:
        packets: Packets Penstock reads, of a capture that it reads to its end.
        libpcap: Packets libpcap counts before it gives up; `None` when it refuses the file.
        reason: Why.
    """

    packets: int
    libpcap: int | None
    reason: str


LINK = (
    "interfaces of different link types: libpcap has one link type a file and stops at the second; "
    "Penstock keeps the link type with each packet"
)
SNAP = (
    "interfaces of different snap lengths: libpcap has one snap length a file and stops at the "
    "second; Penstock takes each block's own captured length"
)
NONE = (
    "a section without any interface: libpcap refuses it, as it would have to name a link type; "
    "Penstock reads the blocks there are, none of which is a packet"
)

DIFFERENCES = {
    "malformed/pcapplusplus__PacketExamples_ipv4-malformed.pcap": Difference(2, 0, SNAP),
    "pcapng/pcapng-test-generator__advanced_test100.pcapng": Difference(5, 1, LINK),
    "pcapng/pcapng-test-generator__advanced_test101.pcapng": Difference(4, 0, LINK),
    "pcapng/pcapng-test-generator__advanced_test102.pcapng": Difference(5, 0, LINK),
    "pcapng/pcapng-test-generator__basic_test002.pcapng": Difference(0, None, NONE),
    "pcapng/pcapng-test-generator__basic_test004.pcapng": Difference(4, 0, SNAP),
    "pcapng/pcapng-test-generator__basic_test005.pcapng": Difference(4, 1, SNAP),
    "pcapng/pcapng-test-generator__basic_test006.pcapng": Difference(5, 0, LINK),
    "pcapng/pcapng-test-generator__basic_test008.pcapng": Difference(4, 1, SNAP),
    "pcapng/pcapng-test-generator__basic_test014.pcapng": Difference(0, 0, LINK),
    "pcapng/pcapng-test-generator__basic_test017.pcapng": Difference(0, None, NONE),
    "pcapng/pcapng-test-generator__difficult_test200.pcapng": Difference(0, 0, SNAP),
    "pcapng/pcapng-test-generator__difficult_test201.pcapng": Difference(4, 0, LINK),
    "pcapng/pcapng-test-generator__difficult_test202.pcapng": Difference(8, 0, LINK),
    "pcapng/pcapplusplus__PacketExamples_BgpPackets.pcap": Difference(8, 0, SNAP),
    "pcapng/zeek__ldap_gap-data-missing.pcapng": Difference(18, 0, SNAP),
    "pcapng/zeek__ldap_modify-request.pcapng": Difference(17, 0, SNAP),
}

NEGATIVE_FRACTION = {"nsec/tcpdump__tests_timestamp_invalid_nano.pcap": [2]}
"""Packets with a fraction of 2**31 ns: libpcap divides it to µs as a negative number."""
