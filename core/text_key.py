"""Keys that are texts: a host name, a sender's address, whatever names who sent a datagram.

Laws:

1. A key is 128 bits. A text of at most `INLINE_BYTES` bytes without NUL is its own key, padded as a
   device id is; any other is hashed.
2. The key of a hash begins with a byte that begins no UTF-8, so that no short text has it.
3. Who wants to can find two long texts of one hash: they then share a bucket of the dam and a row
   of features, which whoever may name himself as he likes can have simpler. Records are keyed by
   the text itself, never by its hash.

Not here: where in a datagram its key stands (`core.payloads`); the texts of hashes (`core.names`).

Source: RFC 3629 §3 (0xFF is in no UTF-8).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.kernels import A_u1, A_u8, be_word, i8, kernel, none
from core.xxh64 import xxh64

INLINE_BYTES = 16
"""Longest text that is its own key."""
KEY_BYTES_MAX = 255
"""Longest text that is a key at all: as long as a host name of RFC 5424 may be."""
HASHED = 0xFF
"""First byte of the key of a hash."""

_MARK, _REST = np.uint64(HASHED << 56), np.uint64((1 << 56) - 1)
_SEED_HI, _SEED_LO = np.uint64(1), np.uint64(2)


@kernel(none(A_u1, i8, i8, A_u8))
def pack_id(buf: Any, at: Any, size: Any, key: Any) -> None:
    """Write a text of at most `INLINE_BYTES` bytes to the two words of `key`, padded with NULs."""
    first = min(size, 8)
    rest = size - first
    # A shift by 64 is undefined, hence the empty halves apart.
    key[0] = np.uint64(0)
    key[1] = np.uint64(0)
    if first > 0:
        key[0] = be_word(buf, at, first) << np.uint64(8 * (8 - first))
    if rest > 0:
        key[1] = be_word(buf, at + 8, rest) << np.uint64(8 * (8 - rest))


@kernel(none(A_u1, i8, i8, A_u8))
def pack_text(buf: Any, at: Any, size: Any, key: Any) -> None:
    """Write the key of a text to the two words of `key`.

    Args:
        buf: `uint8`.
        at: Where the text begins.
        size: Its bytes.
        key: `(2,) uint64`; written, the high word first.
    """
    short = size <= INLINE_BYTES
    for i in range(size if short else 0):
        short = short and buf[at + i] != 0
    if short:
        pack_id(buf, at, size, key)
        return
    key[0] = (xxh64(buf, at, size, _SEED_HI) & _REST) | _MARK
    key[1] = xxh64(buf, at, size, _SEED_LO)
