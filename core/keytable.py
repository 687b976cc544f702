"""A bounded table from wide keys to slots, evicting the key touched longest ago.

Laws:

1. A key is `words` × 64 bits and is compared exactly; a hash only says where to look first.
2. Slots are `0 … capacity - 1` and stay with their key until it is evicted or removed, so callers
   keep a key's state in arrays of their own, indexed by slot.
3. Nothing a caller sees depends on the seed, except time. The hash is universal under a secret
   seed, so whoever chooses the keys cannot make them collide.
4. Every operation is O(1) expected; nothing is allocated after `create`.
5. What was touched since the last `changes()` is the recent end of the list, and what was removed
   is the head of the free list, so that a snapshot costs what changed and not what there is.

The index is open addressing with linear probing, at most half full, and deletion by backward
shift, so it never fills with tombstones. Recency is a doubly linked list through the slots.

Not here: what is kept for a key, when a key is too old, and what a snapshot writes
(`core.row_log`).

Source: hash "Multilinear-HM" of D. Lemire and O. Kaser, "Strongly universal string hashing is
fast" (2014), then the finaliser `core.kernels.mix`; backward shift of D. Knuth, TAOCP vol. 3,
§6.4, algorithm R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.kernels import A2_u8, A_i4, A_i8, A_u8, b1, i4, i8, kernel, mix, none, u8
from core.kernels import types as nt  # type: ignore[attr-defined]  # numba through kernels only

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPACITY_MAX = 1 << 29

# Columns of `links`: the neighbour touched before, the one touched after (or the next free slot),
# the position in the index where the search for the key begins, -1 in a free slot, and what became
# of the slot since `changes()`.
OLDER, NEWER, HOME, CHANGE = 0, 1, 2, 3
LINKS = 4
# What became of it: nothing; its key was touched; it has another key; its key was removed.
KEPT, TOUCHED, FRESH, GONE = 0, 1, 2, 3

# Fields of `state`. FREE heads the list of removed slots; slots from UNUSED on were never used.
# UNSAVED counts the slots that are TOUCHED or FRESH, REMOVED those that are GONE.
LIVE, OLDEST, NEWEST, FREE, UNUSED, UNSAVED, REMOVED = 0, 1, 2, 3, 4, 5, 6

_LINKS = i4[:, ::1]
TABLE = nt.Tuple((A2_u8, A_i4, _LINKS, A_i8, A_u8, A_u8, A_u8))
"""Numba type of `KeyTable.arrays()`, for the signatures of kernels that take a table."""
FOUND = nt.Tuple((i8, b1, b1))
"""Numba type of `(slot, evicted, fresh)`."""

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_GOLDEN = 0x9E3779B97F4A7C15


@kernel(i8(A_u8, A_u8, i8))
def _home(salt: Any, probe: Any, mask: Any) -> Any:
    """Hash a key to the position in the index where its search begins."""
    h = salt[0]
    for i in range(probe.size):
        low = salt[2 * i + 1] + (probe[i] & _LOW)
        high = salt[2 * i + 2] + (probe[i] >> _HALF)
        h = h + low * high
    return np.int64(mix(h >> _HALF) & np.uint64(mask))


@kernel(i8(A2_u8, A_i4, A_u8, i8))
def _locate(keys: Any, index: Any, probe: Any, home: Any) -> Any:
    """Return the slot of a key, or -1. Half of the index is empty, so the walk ends."""
    mask = index.size - 1
    at = home
    while index[at] != 0:
        slot = int(index[at]) - 1
        equal = True
        for i in range(probe.size):
            if keys[slot, i] != probe[i]:
                equal = False
                break
        if equal:
            return slot
        at = (at + 1) & mask
    return -1


@kernel(none(_LINKS, A_i8, i8))
def _append(links: Any, state: Any, slot: Any) -> None:
    """Put a slot at the recent end of the list."""
    newest = state[NEWEST]
    links[slot, OLDER] = newest
    links[slot, NEWER] = -1
    if newest < 0:
        state[OLDEST] = slot
    else:
        links[newest, NEWER] = slot
    state[NEWEST] = slot


@kernel(none(_LINKS, A_i8, i8))
def _unlink(links: Any, state: Any, slot: Any) -> None:
    """Take a slot out of the list."""
    older, newer = links[slot, OLDER], links[slot, NEWER]
    if older < 0:
        state[OLDEST] = newer
    else:
        links[older, NEWER] = newer
    if newer < 0:
        state[NEWEST] = older
    else:
        links[newer, OLDER] = older


@kernel(none(A_i4, _LINKS, i8))
def _unindex(index: Any, links: Any, slot: Any) -> None:
    """Delete a slot from the index and close the hole it leaves."""
    mask = index.size - 1
    hole = int(links[slot, HOME])
    while int(index[hole]) != slot + 1:
        hole = (hole + 1) & mask
    at = hole
    while True:
        at = (at + 1) & mask
        if index[at] == 0:
            break
        # An entry may fill the hole unless its search begins after the hole.
        home = int(links[int(index[at]) - 1, HOME])
        if ((at - home) & mask) >= ((at - hole) & mask):
            index[hole] = index[at]
            hole = at
    index[hole] = 0


@kernel(none(TABLE, i8, A_u8, i8))
def _enter(table: Any, slot: Any, probe: Any, home: Any) -> None:
    """Give a slot its key: in the index, and at the recent end of the list."""
    keys, index, links, state, _, _, _ = table
    for i in range(probe.size):
        keys[slot, i] = probe[i]
    mask = index.size - 1
    at = home
    while index[at] != 0:
        at = (at + 1) & mask
    index[at] = slot + 1
    links[slot, HOME] = home
    _append(links, state, slot)


@kernel(i8(TABLE, A_u8))
def find(table: Any, probe: Any) -> Any:
    """Return the slot of a key, `(words,) uint64`, or -1; does not touch it."""
    keys, index, _, _, salt, _, _ = table
    return _locate(keys, index, probe, _home(salt, probe, index.size - 1))


@kernel(FOUND(TABLE, A_u8))
def find_or_insert(table: Any, probe: Any) -> Any:
    """Look a key up, or insert it, and make it the one touched last.

    Args:
        table: `KeyTable.arrays()`.
        probe: `(words,) uint64`; the key.

    Returns:
        `(slot, evicted, fresh)`. `fresh`: the key was not there, so the slot's state is to be
        reset. `evicted`: the table was full and the key touched longest ago lost this very slot;
        its words are in the table's `evicted` row, its state still where the caller keeps it.
    """
    keys, index, links, state, salt, _, evicted_key = table
    mask = index.size - 1
    home = _home(salt, probe, mask)
    slot = _locate(keys, index, probe, home)
    if slot >= 0:
        if slot != state[NEWEST]:
            _unlink(links, state, slot)
            _append(links, state, slot)
        if links[slot, CHANGE] == KEPT:
            links[slot, CHANGE] = TOUCHED
            state[UNSAVED] += 1
        return slot, False, False
    evicted = state[LIVE] == keys.shape[0]
    if evicted:
        slot = state[OLDEST]
        for i in range(probe.size):
            evicted_key[i] = keys[slot, i]
        _unindex(index, links, slot)
        _unlink(links, state, slot)
    elif state[FREE] >= 0:
        slot = state[FREE]
        state[FREE] = links[slot, NEWER]
        state[LIVE] += 1
    else:
        slot = state[UNUSED]
        state[UNUSED] += 1
        state[LIVE] += 1
    if links[slot, CHANGE] == GONE:
        state[REMOVED] -= 1
    if links[slot, CHANGE] == KEPT or links[slot, CHANGE] == GONE:
        state[UNSAVED] += 1
    links[slot, CHANGE] = FRESH
    _enter(table, slot, probe, home)
    return slot, evicted, True


@kernel(FOUND(TABLE, u8, u8))
def find_or_insert_pair(table: Any, hi: Any, lo: Any) -> Any:
    """Do as `find_or_insert` for a table of two words, given as scalars, the upper one first."""
    probe = table[5]
    probe[0] = hi
    probe[1] = lo
    return find_or_insert(table, probe)


@kernel(i8(TABLE))
def oldest(table: Any) -> Any:
    """Return the slot touched longest ago, or -1 when the table is empty; does not touch it."""
    return table[3][OLDEST]


@kernel(b1(TABLE, i8))
def remove(table: Any, slot: Any) -> Any:
    """Remove the key of a slot.

    Args:
        table: `KeyTable.arrays()`.
        slot: Any number; one that holds no key changes nothing.

    Returns:
        Whether there was a key.
    """
    keys, index, links, state, _, _, _ = table
    if slot < 0 or slot >= keys.shape[0] or slot >= state[UNUSED] or links[slot, HOME] < 0:
        return False
    _unindex(index, links, slot)
    _unlink(links, state, slot)
    links[slot, HOME] = -1
    links[slot, NEWER] = state[FREE]
    state[FREE] = slot
    state[LIVE] -= 1
    if links[slot, CHANGE] != KEPT:
        state[UNSAVED] -= 1
    links[slot, CHANGE] = GONE
    state[REMOVED] += 1
    return True


@kernel(none(TABLE, A_i8, A_i8))
def _latest(table: Any, touched: Any, gone: Any) -> None:
    """Write the slots touched last, the one touched longest ago first, and those removed last."""
    _, _, links, state, _, _, _ = table
    slot = state[NEWEST]
    for i in range(touched.size - 1, -1, -1):
        touched[i] = slot
        slot = int(links[slot, OLDER])
    slot = state[FREE]
    for i in range(gone.size):
        gone[i] = slot
        slot = int(links[slot, NEWER])


@kernel(none(TABLE, A2_u8, A_i8))
def _place(table: Any, rows: Any, slots: Any) -> None:
    """Give free slots of a cleared table their keys, and list the free ones below the highest."""
    _, index, links, state, salt, _, _ = table
    for i in range(slots.size):
        links[slots[i], HOME] = 0
        _enter(table, slots[i], rows[i], _home(salt, rows[i], index.size - 1))
    for slot in range(state[UNUSED]):
        if links[slot, HOME] < 0:
            links[slot, NEWER] = state[FREE]
            state[FREE] = slot


@dataclass(slots=True)
class KeyTable:
    """The arrays of one table; kernels change them in place.

    Attributes:
        keys: `(capacity, words) uint64`; the key of each slot.
        index: `(size,) int32`; slot + 1, or 0 where empty; size is a power of two of at least
            twice the capacity.
        links: `(capacity, 4) int32`; `OLDER`, `NEWER`, `HOME`, `CHANGE` of each slot.
        state: `(7,) int64`; `LIVE`, `OLDEST`, `NEWEST`, `FREE`, `UNUSED`, `UNSAVED`, `REMOVED`.
        salt: `(2 * words + 1,) uint64`; the secret of the hash, derived from the seed.
        probe: `(words,) uint64`; where kernels may put together a key.
        evicted: `(words,) uint64`; the key evicted last.
    """

    keys: NDArray[np.uint64]
    index: NDArray[np.int32]
    links: NDArray[np.int32]
    state: NDArray[np.int64]
    salt: NDArray[np.uint64]
    probe: NDArray[np.uint64]
    evicted: NDArray[np.uint64]

    @classmethod
    def create(cls, capacity: int, words: int, seed: int) -> KeyTable:
        """Return an empty table.

        Args:
            capacity: Keys it holds at most, 1 … `CAPACITY_MAX`.
            words: 64-bit words of a key, at least 1.
            seed: Secret of the hash, 0 … 2^64 - 1; results do not depend on it.

        Raises:
            ValueError: An argument is out of its bounds.
        """
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity: want 1 … {CAPACITY_MAX}, got {capacity}")
        if words < 1:
            raise ValueError(f"words: want at least 1, got {words}")
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed: want 0 … 2^64 - 1, got {seed}")
        # The salts are the outputs of SplitMix64, the usual way from one seed to many words.
        salt = [
            mix(np.uint64((seed + _GOLDEN * (i + 1)) % (1 << 64))) for i in range(2 * words + 1)
        ]
        return cls(
            keys=np.zeros((capacity, words), np.uint64),
            index=np.zeros(1 << (2 * capacity - 1).bit_length(), np.int32),
            links=np.zeros((capacity, LINKS), np.int32),
            state=np.array([0, -1, -1, -1, 0, 0, 0], np.int64),
            salt=np.array(salt, np.uint64),
            probe=np.zeros(words, np.uint64),
            evicted=np.zeros(words, np.uint64),
        )

    def __len__(self) -> int:
        return int(self.state[LIVE])

    @property
    def capacity(self) -> int:
        """Keys the table holds at most."""
        return int(self.keys.shape[0])

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return the arrays in the order of `TABLE`, the first argument of every kernel here."""
        return self.keys, self.index, self.links, self.state, self.salt, self.probe, self.evicted

    def slots(self) -> NDArray[np.int64]:
        """Return the live slots, `(n,) int64`, the one touched longest ago first."""
        return self.recent(len(self))[0]

    @property
    def unsaved(self) -> int:
        """Keys touched since `changes()` that are still there."""
        return int(self.state[UNSAVED])

    def recent(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return `count` live slots, those touched last, and which of them have a new key."""
        touched = np.empty(count, np.int64)
        _latest(self.arrays(), touched, np.empty(0, np.int64))
        return touched, self.links[touched, CHANGE] == FRESH

    def changes(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Return what became of slots since the last call or `place`; count from here on.

        Returns:
            `(n,) int64`, the slots touched, the one touched longest ago first; `(n,) bool`, which
            of them have another key than then; `(m,) int64`, the slots that lost their key.
        """
        touched, fresh = self.recent(self.unsaved)
        gone = np.empty(int(self.state[REMOVED]), np.int64)
        _latest(self.arrays(), np.empty(0, np.int64), gone)
        self.links[touched, CHANGE] = KEPT
        self.links[gone, CHANGE] = KEPT
        self.state[[UNSAVED, REMOVED]] = 0
        return touched, fresh, gone

    def place(self, rows: NDArray[np.uint64], slots: NDArray[np.int64]) -> None:
        """Replace the content by keys in given slots; nothing has changed then.

        Args:
            rows: `(n, words) uint64`; distinct keys, the one touched longest ago first.
            slots: `(n,) int64`; the slot of each.

        Raises:
            ValueError: The rows are of another number of words, or slots are out of bounds or
                given twice.
        """
        if rows.shape != (slots.size, self.keys.shape[1]):
            raise ValueError(f"rows: want ({slots.size}, {self.keys.shape[1]}), got {rows.shape}")
        used = int(slots.max()) + 1 if slots.size else 0
        if used > self.capacity or (slots < 0).any() or np.unique(slots).size != slots.size:
            raise ValueError(f"slots: want distinct ones, 0 … {self.capacity - 1}")
        self.index[:] = 0
        self.links[:] = 0
        self.links[:used, HOME] = -1
        self.state[:] = (slots.size, -1, -1, -1, used, 0, 0)
        _place(self.arrays(), np.array(rows, np.uint64, order="C"), slots.astype(np.int64))
