"""Text writers: each against the standard library's way to write the same."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import text_out
from core.host import MAC_HI
from tests.plain import rest_passes

WORDS = st.integers(0, 2**64 - 1)
# Groups that are often zero, small or full, so that runs of every length and place occur.
GROUPS = st.lists(st.sampled_from([0, 0, 0, 1, 0xF, 0x10, 0xABC, 0xFFFF]), min_size=8, max_size=8)
GREETING = np.frombuffer(b'{"id":"', np.uint8)


def written(writer: Callable[..., Any], room: int, *args: Any) -> bytes:
    """Return what a writer wrote, after checking that it kept to its room and touched no more."""
    out = np.full(room + 8, 0xEE, np.uint8)
    end = int(writer(out, 5, *args))
    assert 5 <= end <= 5 + room
    assert (out[:5] == 0xEE).all()
    assert (out[end:] == 0xEE).all()
    return out[5:end].tobytes()


def of_bytes(writer: Callable[..., Any], room: int, data: bytes) -> bytes:
    """Return what a writer makes of a slice in the middle of a buffer."""
    buf = np.frombuffer(b'"\x01' + data + b'\x02"', np.uint8).copy()
    return written(writer, room, buf, 2, len(data))


def address(hi: int, lo: int) -> str:
    """Return the text of an address."""
    room = text_out.ADDRESS_BYTES_MAX
    return written(text_out.write_address, room, np.uint64(hi), np.uint64(lo)).decode()


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-100, 100))
def test_decimals_are_those_of_python(value: int) -> None:
    """Any `int64`, near zero and far."""
    room = text_out.DECIMAL_BYTES_MAX
    assert written(text_out.write_decimal, room, np.int64(value)) == b"%d" % value


def test_decimals_change_length_at_powers_of_ten() -> None:
    """Both sides of every power of ten, and both ends of the range."""
    edges = {sign * (10**n + d) for sign in (1, -1) for n in range(19) for d in (-1, 0, 1)}
    for value in edges | {2**63 - 1, -(2**63)}:
        assert written(text_out.write_decimal, 20, np.int64(value)) == b"%d" % value


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("".join(map(chr, range(0x100))))
def test_escaped_strings_are_those_of_json(text: str) -> None:
    """The inside of what `json.dumps` writes when it need not be ASCII."""
    data = text.encode()
    room = text_out.ESCAPED_BYTES_MAX * len(data)
    expected = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    assert of_bytes(text_out.write_escaped, room, data) == expected


@given(st.integers(0, 2**32 - 1))
def test_mapped_addresses_print_as_dotted_quads(value: int) -> None:
    """Any IPv4 address, in no more than its documented length."""
    text = address(0, 0xFFFF << 32 | value)
    assert text == str(ipaddress.IPv4Address(value))
    assert len(text) <= text_out.IPV4_BYTES_MAX


@given(GROUPS.map(lambda groups: int("".join(f"{g:04x}" for g in groups), 16)) | WORDS)
@example(0)
@example(1)
@example(2**128 - 1)
@example(0xFFFE << 32)
def test_ipv6_addresses_print_by_rfc_5952(value: int) -> None:
    """The first longest run of zero groups is left out, digits are small, no leading zeros."""
    hi, lo = value >> 64, value & (2**64 - 1)
    if hi == MAC_HI or (hi == 0 and lo >> 32 == 0xFFFF):
        return
    assert address(hi, lo) == str(ipaddress.IPv6Address(value))


@pytest.mark.parametrize(
    "text",
    ["2001:db8::1", "2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1", "2001:0:0:1::1", "::", "1::"],
)
def test_the_examples_of_rfc_5952_come_back(text: str) -> None:
    """§4.2: a lone zero group stays, the longer run goes, the first of two equal runs goes."""
    value = int(ipaddress.IPv6Address(text))
    assert address(value >> 64, value & (2**64 - 1)) == str(ipaddress.IPv6Address(text))


@given(st.binary(min_size=6, max_size=6))
def test_addresses_under_the_reserved_prefix_print_as_macs(mac: bytes) -> None:
    """Six octets with colons."""
    text = address(int(MAC_HI), int.from_bytes(mac))
    assert text == mac.hex(":")
    assert len(text) == text_out.MAC_BYTES


@given(st.binary(max_size=40))
def test_bytes_print_as_base64_and_themselves(data: bytes) -> None:
    """Any bytes; each writer fills exactly the room it documents."""
    size = len(data)
    room = text_out.base64_bytes(size)
    encoded = of_bytes(text_out.write_base64, room, data)
    assert encoded == base64.b64encode(data)
    assert len(encoded) == room
    assert of_bytes(text_out.write_copy, size, data) == data


@given(WORDS)
def test_words_print_as_sixteen_digits(word: int) -> None:
    """Leading zeros stay."""
    room = text_out.HEX_U64_BYTES
    assert written(text_out.write_hex_u64, room, np.uint64(word)) == b"%016x" % word


def test_literals_may_be_read_only_or_not() -> None:
    """Constants, as `core.community` writes its prefix, and working arrays are written alike."""
    assert written(text_out.write_literal, 7, GREETING) == b'{"id":"'
    assert written(text_out.write_literal, 7, GREETING.copy()) == b'{"id":"'
    assert written(text_out.write_literal, 0, GREETING[:0]) == b""


def test_plain_python_writes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
