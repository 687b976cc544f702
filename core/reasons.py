"""Why a packet is not a frame: one byte a packet, 0 when it is one.

Law: `packets_in = frames + Σ ignored + Σ malformed`. Every packet carries exactly one code, and
counting is `numpy.bincount` over them. Ignored packets are healthy traffic that is not ours and
never reach a dead-letter topic; malformed ones always do.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """The verdict of decoding on one packet; the name in lower case is what users see."""

    FRAME = 0

    NOT_UDP = 1
    """Device mode: not a UDP datagram over IPv4 or IPv6."""
    OTHER_PORT = 2
    """Device mode: a UDP datagram to another port."""
    FRAGMENT = 3
    """Device mode: a piece of a fragmented datagram; Penstock does not reassemble."""
    SNAPPED = 4
    """Device mode: the capture kept only the head of this datagram (its snap length)."""
    UNDELIVERABLE = 5
    """Replay of dead letters: a record that the brokers refused, and no packet."""

    LINK_UNSUPPORTED = 16
    """The link type of the capture is not one Penstock decodes."""
    LINK_HEADER = 17
    """Too short for its link-layer header or its VLAN tags."""
    IPV4_HEADER = 18
    """IPv4 header cut short, of another version, or with an impossible length."""
    IPV6_HEADER = 19
    """IPv6 header or one of its extension headers cut short or of another version."""
    ARP_HEADER = 20
    """ARP packet cut short, or with address lengths it has no room for."""
    TCP_HEADER = 21
    """TCP header cut short, or with an impossible data offset."""
    UDP_HEADER = 22
    """UDP header cut short, or with a length below 8."""
    ICMP_HEADER = 23
    """ICMP or ICMPv6 header cut short."""
    UDP_LENGTH = 24
    """Device mode: the datagram claims more bytes than the packet carries."""

    FRAME_SHORT = 32
    """Fewer than the 22 bytes of a device frame's header."""
    BAD_MAGIC = 33
    """The first two bytes are not 0xAA55."""
    BAD_DEVICE_ID = 34
    """The device id is not UTF-8."""
    BODY_TOO_LARGE = 35
    """The body is larger than `frame.body_bytes_max`."""
    BODY_NOT_JSON = 36
    """The body is not one strict JSON value."""
    RECORD = 37
    """Replay of a topic: the value is no record of that topic, or larger than any."""
    KEY_MISSING = 38
    """Format `json`: no object, or it has no member `capture.json_key`."""
    KEY_INVALID = 39
    """Format `json`: the key is neither a string nor a number, or has more than 255 bytes."""
    SYSLOG_PRIORITY = 40
    """Format `syslog`: it does not begin with a priority, `<0>` to `<191>`."""
    SYSLOG_HEADER = 41
    """Format `syslog`: it claims to be of RFC 5424, and its header is not."""
    SYSLOG_DATA = 42
    """Format `syslog`: the structured data is not that of RFC 5424."""


REASONS = 64
"""Length of a count vector over reasons."""

FIRST_MALFORMED = 16
"""Codes from here on are malformed; codes from 1 up to here are ignored."""

IGNORED = tuple(r for r in Reason if 0 < r < FIRST_MALFORMED)
MALFORMED = tuple(r for r in Reason if r >= FIRST_MALFORMED)


class Drop(IntEnum):
    """The dam's mark on one arrival; from `QUEUE_FULL` on the frame is dropped."""

    PASSED = 0
    QUEUED = 1
    QUEUE_FULL = 2
    """The overflow queue holds `dam.queue_len_max` frames."""
    QUEUE_BYTES = 3
    """The overflow queue holds `dam.queue_bytes_max` bytes."""
    DEVICE_RATE = 4
    """The device exceeded `dam.device_rate_hz`."""


DROPS = tuple(d for d in Drop if d >= Drop.QUEUE_FULL)
