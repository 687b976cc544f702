"""The texts of keys that are hashes, for whoever must say a key in words.

Laws:

1. Every hashed key among the arrivals seen is known from then on, as long as the table of keys
   beside it remembers it; of others, some.
2. It holds at most two texts for each key that the table can hold, and those of one batch.

Source: `core.text_key`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.text_key import HASHED, KEY_BYTES_MAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.payloads import Payloads

_HASHED_BITS = np.uint64(56)

Key = tuple[int, int]
"""The two words of a key."""


class Names:
    """Texts by key.

    Args:
        how: How the payloads of arrivals are read.
        keys_max: Keys that the table beside it holds at most.
    """

    def __init__(self, how: Payloads, keys_max: int) -> None:
        self._how, self._keys_max = how, keys_max
        self._texts: dict[Key, bytes] = {}

    def learn(self, frames: FrameBatch) -> None:
        """Remember the texts of arrivals whose keys are hashes."""
        rows = _hashed(frames.key_hi)
        if rows.size == 0:
            return
        keys = _pairs(frames.key_hi[rows], frames.key_lo[rows])
        fresh = {key: i for i, key in enumerate(keys) if key not in self._texts}
        if fresh:
            texts = self._how.texts(frames.take(rows[list(fresh.values())]))
            self._texts.update(zip(fresh, texts, strict=True))

    def of(self, key_hi: NDArray[np.uint64], key_lo: NDArray[np.uint64]) -> dict[Key, bytes]:
        """Return the texts of those keys that are hashes.

        Args:
            key_hi: `(n,) uint64`.
            key_lo: `(n,) uint64`.
        """
        rows = _hashed(key_hi)
        return {key: self._texts[key] for key in _pairs(key_hi[rows], key_lo[rows])}

    def forget(self, keys: NDArray[np.uint64]) -> None:
        """Forget, if there are many, all texts but those of keys.

        Args:
            keys: `(n, 2) uint64`; the keys that the table remembers, and whatever else.
        """
        if len(self._texts) > 2 * self._keys_max:
            known = _pairs(keys[:, 0], keys[:, 1])
            self._texts = {key: self._texts[key] for key in known if key in self._texts}

    def column(self, keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the texts of keys as a column to be written down.

        Args:
            keys: `(n, 2) uint64`.

        Returns:
            `(n, KEY_BYTES_MAX + 1) uint8`: the length of each, and its bytes, padded.
        """
        column = np.zeros((len(keys), KEY_BYTES_MAX + 1), np.uint8)
        for i in _hashed(keys[:, 0]).tolist():
            text = self._texts[int(keys[i, 0]), int(keys[i, 1])]
            column[i, 0] = len(text)
            column[i, 1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
        return column

    def load(self, keys: NDArray[np.uint64], column: NDArray[np.uint8]) -> None:
        """Hold what `column` returned, and nothing else.

        Args:
            keys: `(n, 2) uint64`.
            column: Their texts.
        """
        rows = _hashed(keys[:, 0])
        texts = [row[1 : 1 + row[0]].tobytes() for row in column[rows]]
        self._texts = dict(zip(_pairs(keys[rows, 0], keys[rows, 1]), texts, strict=True))


def _hashed(key_hi: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.flatnonzero(key_hi >> _HASHED_BITS == HASHED)


def _pairs(key_hi: NDArray[np.uint64], key_lo: NDArray[np.uint64]) -> list[Key]:
    return list(zip(key_hi.tolist(), key_lo.tolist(), strict=True))
