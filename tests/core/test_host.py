"""Keys as text: the standard library and the kernel that writes records say the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.host import MAC_HI, key_text
from core.text_out import ADDRESS_BYTES_MAX, write_address

WORDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 0xFFFF_0102_0304, 0x2001_0DB8 << 32])


@given(WORDS, WORDS)
@example(0, 0)
@example(1, 2**64 - 1)
def test_addresses_read_as_in_records(hi: int, lo: int) -> None:
    """A finding and a flow record name a host alike."""
    out = np.zeros(ADDRESS_BYTES_MAX, np.uint8)
    end = write_address(out, 0, np.uint64(hi), np.uint64(lo))
    assert key_text(hi, lo, is_device=False) == out[:end].tobytes().decode()


@pytest.mark.parametrize(
    ("hi", "lo", "text"),
    [
        (0, 0xFFFF_C000_0201, "192.0.2.1"),
        (0, 0, "::"),
        (0, 1, "::1"),
        (int(MAC_HI), 0x0200_0000_00AB, "02:00:00:00:00:ab"),
        (0x2001_0DB8 << 32, 1, "2001:db8::1"),
    ],
)
def test_each_kind_of_address(hi: int, lo: int, text: str) -> None:
    """IPv4, IPv6 and MAC, as people write them."""
    assert key_text(hi, lo, is_device=False) == text


@given(st.text(max_size=16).filter(lambda t: len(t.encode()) <= 16 and "\0" not in t))
def test_a_device_is_its_id(device: str) -> None:
    """Sixteen bytes, padded with NULs, are the text they were made of."""
    key = int.from_bytes(device.encode().ljust(16, b"\0"), "big")
    assert key_text(key >> 64, key & (2**64 - 1), is_device=True) == device


@given(st.ip_addresses())
def test_every_ip_address_comes_back(address: IPv4Address | IPv6Address) -> None:
    """What is not mistaken for a MAC or a mapped address reads as Python writes it."""
    value = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    hi, lo = value >> 64, value & (2**64 - 1)
    if address.version == 4 or (hi != int(MAC_HI) and not (hi == 0 and lo >> 32 == 0xFFFF)):
        assert key_text(hi, lo, is_device=False) == str(address)
