"""The texts of keys that are hashes, for whoever must say a key in words.

Laws:

1. Of all hashed keys of arrivals, those that came last are known: as many as the table of keys
   beside it holds, and `ARRIVALS_MAX` more. So whoever counts a batch into such a table can name
   every key that was in it before or is afterwards, and those that came and went between.
2. The text of a key is that of the arrival that made it known.

Source: `core.text_key`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core import syslog
from core.kernels import A2_u1, A2_u8, A_i4, A_i8, A_u1, A_u8, kernel, none
from core.keytable import TABLE, KeyTable, find, find_or_insert, find_or_insert_pair
from core.payloads import READER, ROOM, write_key
from core.text_key import HASHED, KEY_BYTES_MAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.payloads import Payloads

ARRIVALS_MAX = 65_536
"""Most arrivals in one batch: that of `capture.batch_len`."""
WIDTH = 1 + KEY_BYTES_MAX
"""Of a text with its length before it."""

_FIRST, _HASHED = np.uint64(56), np.uint64(HASHED)


@kernel(
    none(READER, TABLE, A_u1, A_u8, A_u8, A_i8, A_i4, A_u8, A_u8, A2_u1), allocates=True
)  # fmt: skip
def _learn(
    reader: Any, table: Any, arena: Any, key_hi: Any, key_lo: Any, body: Any, body_len: Any,
    peer_hi: Any, peer_lo: Any, texts: Any,
) -> None:  # fmt: skip
    """Write the texts of hashed keys that are not known."""
    text = np.zeros(ROOM, np.uint8)
    scratch = np.zeros(reader[1].size + 3, np.uint8)
    fields = np.zeros(syslog.FIELDS, np.int64)
    for i in range(key_hi.size):
        if key_hi[i] >> _FIRST != _HASHED:
            continue
        slot, _, fresh = find_or_insert_pair(table, key_hi[i], key_lo[i])
        if not fresh:
            continue
        size = write_key(
            reader, arena, body[i], np.int64(body_len[i]), peer_hi[i], peer_lo[i], fields, scratch,
            text, 0,
        )  # fmt: skip
        texts[slot, 0] = size
        for j in range(size):
            texts[slot, 1 + j] = text[j]


@kernel(none(TABLE, A2_u8, A2_u1, A2_u1))
def _look(table: Any, keys: Any, texts: Any, out: Any) -> None:
    """Write the texts of keys, none where a key is no hash."""
    for i in range(keys.shape[0]):
        slot = find(table, keys[i]) if keys[i, 0] >> _FIRST == _HASHED else -1
        if slot >= 0:
            for j in range(1 + int(texts[slot, 0])):
                out[i, j] = texts[slot, j]


@kernel(none(TABLE, A2_u8, A2_u1, A2_u1))
def _put(table: Any, keys: Any, column: Any, texts: Any) -> None:
    """Write down texts as `_look` wrote them."""
    for i in range(keys.shape[0]):
        if keys[i, 0] >> _FIRST == _HASHED:
            slot, _, _ = find_or_insert(table, keys[i])
            for j in range(column.shape[1]):
                texts[slot, j] = column[i, j]


class Names:
    """Texts by key.

    Args:
        how: How the payloads of arrivals are read.
        keys_max: Keys that the table beside it holds at most.
        seed: Secret of the hash; results do not depend on it.
    """

    def __init__(self, how: Payloads, keys_max: int, seed: int) -> None:
        self._how = how
        self._table = KeyTable.create(keys_max + ARRIVALS_MAX, 2, seed)
        # Memory that is not touched is not taken.
        self._texts = np.zeros((keys_max + ARRIVALS_MAX, WIDTH), np.uint8)

    def learn(self, frames: FrameBatch) -> None:
        """Remember the texts of at most `ARRIVALS_MAX` arrivals, where their keys are hashes."""
        _learn(
            self._how.reader, self._table.arrays(), frames.arena, frames.key_hi, frames.key_lo,
            frames.body, frames.body_len, frames.peer_hi, frames.peer_lo, self._texts,
        )  # fmt: skip

    def of(self, keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the texts of keys.

        Args:
            keys: `(n, 2) uint64`.

        Returns:
            `(n, WIDTH) uint8`; the length of each and its bytes, 0 where a key is no hash.
        """
        out = np.zeros((len(keys), WIDTH), np.uint8)
        _look(self._table.arrays(), np.ascontiguousarray(keys), self._texts, out)
        return out

    def load(self, keys: NDArray[np.uint64], texts: NDArray[np.uint8]) -> None:
        """Remember what `of` returned.

        Args:
            keys: `(n, 2) uint64`.
            texts: `(n, WIDTH) uint8`.
        """
        _put(self._table.arrays(), keys, texts, self._texts)


def text_of(row: NDArray[np.uint8]) -> bytes:
    """Return the text in one row of what `Names.of` returns."""
    return row[1 : 1 + int(row[0])].tobytes()
