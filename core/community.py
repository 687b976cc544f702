"""Community ID v1: one short text that every monitor derives alike from the ends of a flow.

Laws:

1. Both directions of a flow have the same id: the numerically smaller end, address before port,
   is hashed first.
2. ICMP has a message type in place of ports. A type that asks and the type that answers it stand
   for the two ports; any other message is one-way, and its ends are never exchanged.
3. An id is 30 bytes: `1:` and the base64 of a SHA-1. It is a name, not a proof: nothing may rely on
   SHA-1 to keep an attacker from making two flows collide.

Addresses are as in `core.host`; a flow counts as IPv4 when both its ends are IPv4-mapped. The id
of what is not IP has no meaning, and callers leave it out.

Source: Community ID specification v1 (github.com/corelight/community-id-spec); RFC 3174 (SHA-1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.host import IPV4_MAPPED
from core.kernels import A_u1, A_u8, i4, i8, kernel, none, u8
from core.protocols import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP
from core.text_out import write_base64, write_literal

COMMUNITY_ID_BYTES = 30
"""`1:` and 28 characters."""

_PREFIX = np.frombuffer(b"1:", np.uint8)

_ONE_WAY = -1
_ANSWER = np.full(256, _ONE_WAY, np.int16)
_ANSWER_V6 = np.full(256, _ONE_WAY, np.int16)
for _ask, _answer in ((8, 0), (10, 9), (13, 14), (15, 16), (17, 18)):
    _ANSWER[_ask], _ANSWER[_answer] = _answer, _ask
for _ask, _answer in ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)):
    _ANSWER_V6[_ask], _ANSWER_V6[_answer] = _answer, _ask

_LOW32 = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@kernel(u8(u8, i8), inline=True)
def _rotate(word: Any, count: Any) -> Any:
    """Rotate 32 bits held in a `uint64` to the left; what shows above them is the caller's."""
    return (word << np.uint64(count)) | (word >> np.uint64(32 - count))


@kernel(none(A_u8, A_u1, i8))
def _sha1_block(words: Any, out: Any, at: Any) -> None:
    """Hash one padded block of 16 words and write the 20 bytes of the digest.

    Args:
        words: `(80,) uint64`; the block in the low halves of the first 16, the rest is scratch.
        out: `uint8`; room for 20 bytes at `at`.
        at: Where to write.

    Source: RFC 3174 §5, §6.1. Additions run over 64 bits and are cut to 32 where they are kept.
    """
    for t in range(16, 80):
        mixed = words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]
        words[t] = _rotate(mixed, 1) & _LOW32
    a, b, c = np.uint64(0x67452301), np.uint64(0xEFCDAB89), np.uint64(0x98BADCFE)
    d, e = np.uint64(0x10325476), np.uint64(0xC3D2E1F0)
    for t in range(80):
        if t < 20:
            f, k = d ^ (b & (c ^ d)), np.uint64(0x5A827999)
        elif t < 40:
            f, k = b ^ c ^ d, np.uint64(0x6ED9EBA1)
        elif t < 60:
            f, k = (b & c) | (d & (b | c)), np.uint64(0x8F1BBCDC)
        else:
            f, k = b ^ c ^ d, np.uint64(0xCA62C1D6)
        new = ((_rotate(a, 5) & _LOW32) + f + e + k + words[t]) & _LOW32
        a, b, c, d, e = new, a, _rotate(b, 30) & _LOW32, c, d
    words[0] = a + np.uint64(0x67452301)
    words[1] = b + np.uint64(0xEFCDAB89)
    words[2] = c + np.uint64(0x98BADCFE)
    words[3] = d + np.uint64(0x10325476)
    words[4] = e + np.uint64(0xC3D2E1F0)
    for i in range(20):
        out[at + i] = (words[i >> 2] >> np.uint64(24 - 8 * (i & 3))) & np.uint64(255)


@kernel(i8(A_u8, i8, u8, i8))
def _push(words: Any, bits: Any, value: Any, size: Any) -> Any:
    """Append the low `size` (8, 16 or 32) bits of a value to the block; return the bits now in it.

    A value of 32 bits may straddle two words, because the seed shifts all addresses by 16.
    """
    value = value & ((np.uint64(1) << np.uint64(size)) - np.uint64(1))
    room = 32 - (bits & 31)
    if size <= room:
        words[bits >> 5] |= value << np.uint64(room - size)
    else:
        words[bits >> 5] |= value >> np.uint64(size - room)
        words[(bits >> 5) + 1] |= (value << np.uint64(32 - size + room)) & _LOW32
    return bits + size


@kernel(i8(A_u8, i8, u8, u8, i8))
def _push_address(words: Any, bits: Any, hi: Any, lo: Any, is_ipv4: Any) -> Any:
    if is_ipv4 == 0:
        bits = _push(words, bits, hi >> _HALF, 32)
        bits = _push(words, bits, hi, 32)
        bits = _push(words, bits, lo >> _HALF, 32)
    return _push(words, bits, lo, 32)


@kernel(i8(i8, i8))
def icmp_answer(proto: Any, kind: Any) -> Any:
    """Return the ICMP type that answers a type, or is answered by it; -1 when it is one-way.

    Args:
        proto: `PROTO_ICMP`; any other number is taken as `PROTO_ICMPV6`.
        kind: The type, of which the low 8 bits count.

    Source: Community ID specification v1; RFC 792, RFC 4443.
    """
    return np.int64(_ANSWER[kind & 0xFF] if proto == PROTO_ICMP else _ANSWER_V6[kind & 0xFF])


@kernel(i8(A_u1, i8, i8, u8, u8, u8, u8, i4, i4, i4), allocates=True)
def write_community_id(
    out: Any,
    at: Any,
    seed: Any,
    src_hi: Any,
    src_lo: Any,
    dst_hi: Any,
    dst_lo: Any,
    proto: Any,
    sport: Any,
    dport: Any,
) -> Any:
    """Write the Community ID v1 of a flow.

    Args:
        out: `uint8`; room for `COMMUNITY_ID_BYTES` bytes at `at`.
        at: Where to write.
        seed: 0 … 65535; ids are comparable only under the same seed, by default 0.
        src_hi: High `uint64` of the source address.
        src_lo: Low `uint64` of the source address.
        dst_hi: High `uint64` of the destination address.
        dst_lo: Low `uint64` of the destination address.
        proto: IP protocol number, 0 … 255.
        sport: Source port, or ICMP type; hashed for TCP, UDP, SCTP, ICMP and ICMPv6 only.
        dport: Destination port, or ICMP code.

    Returns:
        The position after the id.

    Source: Community ID specification v1, "Technical details".
    """
    has_ports = proto in (PROTO_TCP, PROTO_UDP, PROTO_SCTP)
    near, far = np.int64(sport) & 0xFFFF, np.int64(dport) & 0xFFFF
    one_way = False
    if proto in (PROTO_ICMP, PROTO_ICMPV6):
        has_ports = True
        answer = icmp_answer(np.int64(proto), near)
        one_way = answer == _ONE_WAY
        if not one_way:
            far = answer
    same = src_hi == dst_hi and src_lo == dst_lo
    swapped = src_hi > dst_hi or (src_hi == dst_hi and src_lo > dst_lo)
    if not one_way and (swapped or (same and has_ports and near > far)):
        src_hi, src_lo, dst_hi, dst_lo = dst_hi, dst_lo, src_hi, src_lo
        near, far = far, near
    mapped = src_hi == 0 and dst_hi == 0
    mapped = mapped and src_lo >> _HALF == IPV4_MAPPED and dst_lo >> _HALF == IPV4_MAPPED
    words = np.zeros(80, np.uint64)
    bits = _push(words, 0, np.uint64(seed & 0xFFFF), 16)
    bits = _push_address(words, bits, src_hi, src_lo, np.int64(mapped))
    bits = _push_address(words, bits, dst_hi, dst_lo, np.int64(mapped))
    bits = _push(words, bits, np.uint64((proto & 0xFF) << 8), 16)
    if has_ports:
        bits = _push(words, bits, np.uint64(near), 16)
        bits = _push(words, bits, np.uint64(far), 16)
    _push(words, bits, np.uint64(0x80), 8)
    words[15] = np.uint64(bits)
    # The digest waits in the last 20 of the 30 bytes. Base64 is written before it, four bytes for
    # three read, and ends exactly where the digest ends, so it never overtakes what it reads.
    _sha1_block(words, out, at + 10)
    after = write_literal(out, at, _PREFIX)
    return write_base64(out, after, out, at + 10, 20)
