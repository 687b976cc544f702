"""Keys as people read them: a device id, an address, a MAC.

The 128 bits of a key are laid out as in `core.batches.FrameBatch`.

Source: RFC 5952 for IPv6 text.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from core.kernels import MAC_HI

_MAPPED = 0xFFFF


def key_text(hi: int, lo: int, *, is_device: bool) -> str:
    """Return a key as text.

    Args:
        hi: Upper 64 bits.
        lo: Lower 64 bits.
        is_device: Whether it is a device id rather than an address.
    """
    if is_device:
        return (hi << 64 | lo).to_bytes(16, "big").split(b"\0")[0].decode()
    if hi == int(MAC_HI):
        return (lo & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex(":")
    if hi == 0 and lo >> 32 == _MAPPED:
        return str(IPv4Address(lo & 0xFFFF_FFFF))
    return str(IPv6Address(hi << 64 | lo))
