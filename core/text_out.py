"""Kernels that write text: numbers, strings, addresses, hex and base64 as bytes of a record.

Laws:

1. A writer takes an output and a position and returns the position after what it wrote. It does
   not look for room: the caller sums the `…_BYTES_MAX` constants below before it begins.
2. Input positions must lie in their buffers; lengths of zero write nothing.
3. What is written is ASCII, save that `write_escaped` and the copies hand on bytes of 0x80 and
   above as they are: text that comes in as UTF-8 goes out as UTF-8.
4. Addresses are two words, laid out as in `core.host`.
5. What is copied is copied from slice to slice, because only on them does the compiler see that
   many bytes can go at once.

Not here: the layout of records (`core.record_kernels`), which calls these.

Source: RFC 8259 §7 (escapes), RFC 5952 (IPv6 text), RFC 4648 §4 (base64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.host import IPV4_MAPPED, MAC_HI
from core.kernels import A_u1, i8, kernel, u8

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECIMAL_BYTES_MAX = 20
"""`-9223372036854775808`."""
ESCAPED_BYTES_MAX = 6
"""For each byte of the string: a control character becomes `\\u00XX`."""
IPV4_BYTES_MAX = 15
"""`255.255.255.255`."""
IPV6_BYTES_MAX = 39
"""Eight groups of four digits and seven colons."""
MAC_BYTES = 17
"""`aa:bb:cc:dd:ee:ff`."""
ADDRESS_BYTES_MAX = IPV6_BYTES_MAX
"""The longest of the three kinds of address."""
HEX_U64_BYTES = 16
"""A `uint64` with its leading zeros."""


def constant(text: str) -> NDArray[np.uint8]:
    """Return a text in UTF-8 as a constant of the kernels that write it (`write_literal`)."""
    return np.frombuffer(text.encode(), np.uint8)


def base64_bytes(size: int) -> int:
    """Return how many characters `write_base64` writes for `size` bytes."""
    return (size + 2) // 3 * 4


# Literals are constants of the kernels that write them, and numba holds those read-only.
_LITERAL = A_u1.copy(readonly=True)

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_BASE64 = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8
)

_TWO_DIGITS = np.frombuffer(b"".join(b"%02d" % number for number in range(100)), np.uint8)
"""What 0 to 99 are in decimal, with a zero before the first ten: half the divisions of one digit at
a time."""
_TENS = np.array([10**power for power in range(20)], np.uint64)

_AS_IT_IS, _AS_UNICODE = 0, 1
_ESCAPE = np.zeros(256, np.uint8)
"""What becomes of a byte in a string: 0 copied, 1 `\\u00XX`, else the letter after a backslash."""
_ESCAPE[:0x20] = _AS_UNICODE
for _octet, _letter in zip(b'"\\\b\f\n\r\t', b'"\\bfnrt', strict=True):
    _ESCAPE[_octet] = _letter

_ZERO, _MINUS, _POINT, _COLON, _EQUALS = 0x30, 0x2D, 0x2E, 0x3A, 0x3D
_QUOTE, _BACKSLASH, _LOWER_U = 0x22, 0x5C, 0x75


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def write_copy(out: Any, at: Any, buf: Any, start: Any, size: Any) -> Any:
    """Copy a slice.

    Args:
        out: `uint8`; room for `size` bytes at `at`.
        at: Where to write.
        buf: `uint8`; not the same memory.
        start: Where the slice begins.
        size: Its bytes.

    Returns:
        The position after the copy.
    """
    into, bytes_ = out[at : at + size], buf[start : start + size]
    for i in range(size):
        into[i] = bytes_[i]
    return at + size


@kernel(i8(A_u1, i8, _LITERAL))
def write_literal(out: Any, at: Any, literal: Any) -> Any:
    """Copy a whole array, which may be a constant of the calling kernel.

    Args:
        out: `uint8`; room for `literal.size` bytes at `at`.
        at: Where to write.
        literal: `uint8`, read-only or not: `np.frombuffer(b"…", np.uint8)` at module level.

    Returns:
        The position after the copy.
    """
    size = literal.size
    into = out[at : at + size]
    for i in range(size):
        into[i] = literal[i]
    return at + size


@kernel(i8(A_u1, i8, i8))
def write_decimal(out: Any, at: Any, value: Any) -> Any:
    """Write a signed integer in decimal.

    Args:
        out: `uint8`; room for `DECIMAL_BYTES_MAX` bytes at `at`.
        at: Where to write.
        value: Any `int64`.

    Returns:
        The position after the last digit.
    """
    if value < 0:
        out[at] = _MINUS
        at += 1
        rest = np.uint64(-(value + 1)) + np.uint64(1)  # the smallest int64 has no negative
    else:
        rest = np.uint64(value)
    digits = 1
    while digits < 19 and rest >= _TENS[digits]:
        digits += 1
    end = i = at + digits
    hundred = np.uint64(100)
    while rest >= hundred:
        left = rest // hundred
        two = np.int64(rest - left * hundred)
        i -= 2
        out[i] = _TWO_DIGITS[2 * two]
        out[i + 1] = _TWO_DIGITS[2 * two + 1]
        rest = left
    two = np.int64(rest)
    if two >= 10:
        out[i - 2] = _TWO_DIGITS[2 * two]
    out[i - 1] = _TWO_DIGITS[2 * two + 1]
    return end


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def write_escaped(out: Any, at: Any, buf: Any, start: Any, size: Any) -> Any:
    """Write the inside of a JSON string, without its quotes, by the shortest escapes.

    Args:
        out: `uint8`; room for `ESCAPED_BYTES_MAX * size` bytes at `at`.
        at: Where to write.
        buf: `uint8`; the string as valid UTF-8.
        start: Where the string begins.
        size: Its bytes.

    Returns:
        The position after the string.

    Source: RFC 8259 §7; 0x7F and everything from 0x80 on needs no escape.
    """
    # Hardly any string has anything to escape: it is copied first, and done again if it has.
    into, bytes_ = out[at : at + size], buf[start : start + size]
    odd = 0
    for i in range(size):
        octet = bytes_[i]
        into[i] = octet
        odd |= (octet < 0x20) | (octet == _QUOTE) | (octet == _BACKSLASH)
    if odd == 0:
        return at + size
    for i in range(start, start + size):
        octet = buf[i]
        escape = _ESCAPE[octet]
        if escape == _AS_IT_IS:
            out[at] = octet
            at += 1
            continue
        out[at] = _BACKSLASH
        if escape != _AS_UNICODE:
            out[at + 1] = escape
            at += 2
            continue
        out[at + 1] = _LOWER_U
        out[at + 2] = _ZERO
        out[at + 3] = _ZERO
        out[at + 4] = _HEX[octet >> 4]
        out[at + 5] = _HEX[octet & 15]
        at += 6
    return at


@kernel(i8(A_u1, i8, u8))
def write_hex_u64(out: Any, at: Any, word: Any) -> Any:
    """Write a `uint64` as 16 lower-case hexadecimal digits, the most significant first.

    Args:
        out: `uint8`; room for `HEX_U64_BYTES` bytes at `at`.
        at: Where to write.
        word: Any `uint64`.

    Returns:
        The position after the last digit.
    """
    for i in range(16):
        out[at + 15 - i] = _HEX[word & np.uint64(15)]
        word = word >> np.uint64(4)
    return at + 16


@kernel(i8(A_u1, i8, A_u1, i8, i8))
def write_base64(out: Any, at: Any, buf: Any, start: Any, size: Any) -> Any:
    """Write bytes in padded base64.

    Args:
        out: `uint8`; room for `base64_bytes(size)` bytes at `at`.
        at: Where to write.
        buf: `uint8`.
        start: Where the bytes begin.
        size: How many.

    Returns:
        The position after the last character or padding.

    Source: RFC 4648 §4.
    """
    end = start + size
    for i in range(start, end, 3):
        bits = np.int64(buf[i]) << 16
        if i + 1 < end:
            bits |= np.int64(buf[i + 1]) << 8
        if i + 2 < end:
            bits |= np.int64(buf[i + 2])
        out[at] = _BASE64[bits >> 18]
        out[at + 1] = _BASE64[(bits >> 12) & 63]
        out[at + 2] = _BASE64[(bits >> 6) & 63] if i + 1 < end else _EQUALS
        out[at + 3] = _BASE64[bits & 63] if i + 2 < end else _EQUALS
        at += 4
    return at


@kernel(i8(A_u1, i8, u8))
def _write_ipv4(out: Any, at: Any, lo: Any) -> Any:
    for i in range(4):
        at = write_decimal(out, at, np.int64((lo >> np.uint64(24 - 8 * i)) & np.uint64(255)))
        if i < 3:
            out[at] = _POINT
            at += 1
    return at


@kernel(i8(A_u1, i8, u8))
def _write_mac(out: Any, at: Any, lo: Any) -> Any:
    for i in range(6):
        octet = (lo >> np.uint64(40 - 8 * i)) & np.uint64(255)
        out[at] = _HEX[octet >> np.uint64(4)]
        out[at + 1] = _HEX[octet & np.uint64(15)]
        at += 2
        if i < 5:
            out[at] = _COLON
            at += 1
    return at


@kernel(u8(u8, u8, i8))
def _group(hi: Any, lo: Any, i: Any) -> Any:
    """Return group `i` (0 … 7) of 16 bits."""
    word = hi if i < 4 else lo
    return (word >> np.uint64(48 - 16 * (i & 3))) & np.uint64(0xFFFF)


@kernel(i8(A_u1, i8, u8, u8))
def _write_ipv6(out: Any, at: Any, hi: Any, lo: Any) -> Any:
    # The first of the longest runs of two or more zero groups is the one left out (§4.2).
    run_start, run_size, size = 8, 1, 0
    for i in range(8):
        size = size + 1 if _group(hi, lo, i) == 0 else 0
        if size > run_size:
            run_start, run_size = i + 1 - size, size
    i = 0
    while i < 8:
        if i == run_start:
            out[at] = _COLON
            out[at + 1] = _COLON
            at += 2
            i += run_size
            continue
        if i > 0 and i != run_start + run_size:
            out[at] = _COLON
            at += 1
        group = _group(hi, lo, i)
        for shift in range(12, -4, -4):
            rest = group >> np.uint64(shift)
            if rest != 0 or shift == 0:
                out[at] = _HEX[rest & np.uint64(15)]
                at += 1
        i += 1
    return at


@kernel(i8(A_u1, i8, u8, u8))
def write_address(out: Any, at: Any, hi: Any, lo: Any) -> Any:
    """Write a host address as people and programs read it.

    Args:
        out: `uint8`; room for `ADDRESS_BYTES_MAX` bytes at `at`.
        at: Where to write.
        hi: High `uint64` of the address.
        lo: Low `uint64`.

    Returns:
        The position after the address: a dotted quad when it is IPv4 mapped, `aa:bb:cc:dd:ee:ff`
        when `hi` is `MAC_HI`, else IPv6.

    Source: RFC 5952 §4.
    """
    if hi == MAC_HI:
        return _write_mac(out, at, lo)
    if hi == 0 and lo >> np.uint64(32) == IPV4_MAPPED:
        return _write_ipv4(out, at, lo)
    return _write_ipv6(out, at, hi, lo)
