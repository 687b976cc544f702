"""Hosts in 128 bits, and keys as people read them: an address, a MAC, a device id.

An address takes two words: IPv6 as it is, IPv4 mapped (`::ffff:a.b.c.d`), and a MAC, of a host that
is known by nothing else, in the low 48 bits under `MAC_HI`.

Source: RFC 4291 §2.5.5.2 (mapped addresses); RFC 5952 (IPv6 text).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import numpy as np

from core.text_key import HASHED

MAC_HI = np.uint64(1)
"""High word of a MAC: the prefix 0:0:0:1::/64, which RFC 4291 §2.4 leaves unassigned, so that a
host without IP can be a key among addresses. A forged IPv6 source in that prefix is taken for a
MAC."""
IPV4_MAPPED = np.uint64(0xFFFF)
"""Upper half of the low word of an IPv4-mapped address, whose high word is 0."""


def key_text(hi: int, lo: int, *, is_device: bool, name: bytes = b"") -> str:
    """Return a key as text.

    Args:
        hi: Upper 64 bits.
        lo: Lower 64 bits.
        is_device: Whether it is a device id, or another text, rather than an address.
        name: Its text where it is the hash of one (`core.text_key`).
    """
    if is_device and hi >> 56 == HASHED:
        return name.decode()
    if is_device:
        return (hi << 64 | lo).to_bytes(16, "big").split(b"\0")[0].decode()
    if hi == int(MAC_HI):
        return (lo & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex(":")
    if hi == 0 and lo >> 32 == int(IPV4_MAPPED):
        return str(IPv4Address(lo & 0xFFFF_FFFF))
    return str(IPv6Address(hi << 64 | lo))
