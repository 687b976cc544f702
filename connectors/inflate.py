"""Gzip, inflated as far as it goes.

Laws:

1. Every byte that can be inflated is handed out before damage is reported, so that a capture cut
   short or damaged at any byte still yields the packets before that byte.
2. Members follow one another (RFC 1952 §2.2), zero bytes may pad between and after them, and
   checksums are compared; whatever else follows a member is damage.
3. Memory is bounded by what is asked for, not by what a few bytes may inflate to.

The gzip module of the standard library is not used because it drops what it has inflated when it
meets the damage behind it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from core.errors import SourceError

MAGIC = b"\x1f\x8b"
TAKE_BYTES = 256 << 10
_GZIP = 31
"""What `zlib` calls 32 KiB windows inside a gzip header and trailer."""


class Inflater:
    """Pulls gzip from a function and hands out what it holds.

    Args:
        take: Returns at most that many further bytes of gzip, at least one; none at the end.
        head: Bytes of gzip already taken.
    """

    def __init__(self, take: Callable[[int], bytes], head: bytes = b"") -> None:
        self._take = take
        self._z = zlib.decompressobj(_GZIP)
        self._input = head
        self._stride = TAKE_BYTES
        self._full = False
        self._damage = ""

    def read(self, count: int) -> bytes:
        """Return the next inflated bytes.

        Args:
            count: Most bytes wanted, at least 1.

        Returns:
            At least one byte; none at the end.

        Raises:
            SourceError: What follows cannot be inflated; every later call raises it again.
        """
        while not self._damage:
            if self._z.eof:
                if not self._next_member():
                    return b""
                continue
            if not self._input and not self._full:
                self._input = self._take(TAKE_BYTES)
                if not self._input:
                    self._damage = "ends inside its gzip data"
                    break
            data = self._inflate(count)
            if data:
                return data
        raise SourceError(self._damage)

    def _inflate(self, count: int) -> bytes:
        """Inflate input up to `count` bytes; on damage go back, and on byte by byte (law 1)."""
        before = self._z.copy()
        given, rest = self._input[: self._stride], self._input[self._stride :]
        try:
            data = self._z.decompress(given, count)
        except zlib.error as error:
            if len(given) > 1:
                self._z, self._stride = before, 1
            else:
                what = str(error).rpartition(": ")[2]
                self._damage = f"its gzip data is damaged ({what})"
            return b""
        # What was asked for may end before what the input inflates to, with no input left over.
        self._full = len(data) == count
        self._input = self._z.unconsumed_tail + rest
        if self._z.eof:
            self._input, self._full = self._z.unused_data + rest, False
        return data

    def _next_member(self) -> bool:
        """Step over padding to the next member; false at the end, true also before damage."""
        while True:
            self._input = self._input.lstrip(b"\0")
            if self._input:
                break
            self._input = self._take(TAKE_BYTES)
            if not self._input:
                return False
        if len(self._input) == 1:
            self._input += self._take(TAKE_BYTES)
        if self._input[:2] != MAGIC:
            self._damage = "something that is not gzip follows its gzip data"
        self._z, self._stride = zlib.decompressobj(_GZIP), TAKE_BYTES
        return True
