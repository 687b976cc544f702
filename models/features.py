"""What a key did in one window of time, as a row of numbers.

Laws:

1. Windows are multiples of `window_ns` of packet time. A packet that steps backwards counts in the
   current window, because `now` never goes back. A window closes with the first packet after it,
   for all keys at once, in the order in which they first appeared in it.
2. Nothing here depends on how arrivals were cut into batches: a loop crosses window boundaries
   inside a batch, and any gap costs the same.
3. Keys are bounded by a table that forgets the key touched longest ago. When as many keys as the
   table holds have rows in one window, the rows close early and the window goes on.
4. What a row cannot know (the gap before a first packet, the size of a body that is not there, a
   shift against a history that does not exist) is NaN, never zero.

Rows are grouped: a group closed together, and a model scores a group before it learns any of it.

Source: windowed host features as in W. Lee and S. Stolfo, "A framework for constructing features
and models for intrusion detection systems" (2000); distinct counts by linear counting, K.-Y. Whang
et al. (1990), over 64 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from core.keytable import KeyTable
from models.window_kernels import (
    CLOSED,
    COUNTS,
    FEATURES,
    FIRST_NS,
    HISTORY,
    KEY_HI,
    KEY_LO,
    LAST_NS,
    OPEN,
    ORDINAL,
    PACKETS,
    PEERS,
    POPULATION,
    PORTS,
    SCALARS,
    SLOT,
    SOURCE,
    SUMS,
    TAGS,
    WINDOW,
    arrive,
    close,
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.names import Names
    from core.packing import Columns

LATE_NS = 100_000_000
"""So long behind the latest time a packet is late. Capture hardware reorders by less; captures that
overlap are replayed one after the other, and what the second says of times gone by must not pile up
in the window of the last."""

# Of an open row, what the log holds: the rest is the slot's own.
_WRITTEN_COUNTS = [PACKETS, FIRST_NS, ORDINAL]
_WRITTEN_TAGS = [SOURCE, PEERS, PORTS]

NAMES = (
    "rate",
    "size_mean",
    "size_spread",
    "gap_mean",
    "gap_spread",
    "peers",
    "ports",
    "rate_shift",
    "size_shift",
)
"""Columns of a row: logarithms (`log1p`) of packets/s, bytes, bytes, µs, µs, hosts, ports; then the
change of `rate` and `size_mean` against the key's own past (EWMA, α = 0.1)."""

UNITS = (
    "packets/s", "bytes", "bytes", "µs", "µs", "hosts", "ports", "times its own past",
    "times its own past",
)  # fmt: skip
"""Units of `natural(j, value)`."""

POPULATION_NAMES = ("keys", "new_keys", "growth")
"""Columns of a group: `log1p` of the keys in the window, of those not remembered, and of the share
by which these made the keys remembered more; the last is NaN while none are."""


def natural(column: int, value: float) -> float:
    """Return the value of a feature, which is a logarithm, in its unit."""
    return math.exp(value) if NAMES[column].endswith("_shift") else math.expm1(value)


def _no_names() -> NDArray[np.uint8]:
    return np.zeros((0, 0), np.uint8)


@dataclass(slots=True)
class RowBatch:
    """Closed rows of one shard, in the order in which they closed.

    Attributes:
        features: `(m, 9) float64`; columns `NAMES`, NaN where unknown.
        key_hi, key_lo: `(m,) uint64`; the key of each row.
        count: `(m,) int64`; its packets.
        first_ns, last_ns: `(m,) int64`; packet times within the row, ns since the epoch.
        source: `(m,) uint64`, ordinal: `(m,) int64`; its first packet's file and number in it.
        group_end: `(g,) int64`; where in the rows each group ends.
        window_ns: `(g,) int64`; when the window of each group began, ns since the epoch.
        population: `(g, 3) float64`; columns `POPULATION_NAMES`.
        packet_index: `(k,) int64`; packets of these rows, by number in the replay (when tracked).
        packet_row: `(k,) int64`; the row of each, as an index into this batch.
        partial: Whether input ended inside the window, so that its rates are too low, or, where
            a key had just begun, too high.
        names: `(m, core.names.WIDTH) uint8`; the texts of keys that are hashes, where any are.
    """

    features: NDArray[np.float64]
    key_hi: NDArray[np.uint64]
    key_lo: NDArray[np.uint64]
    count: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    group_end: NDArray[np.int64]
    window_ns: NDArray[np.int64]
    population: NDArray[np.float64]
    packet_index: NDArray[np.int64]
    packet_row: NDArray[np.int64]
    partial: bool = False
    names: NDArray[np.uint8] = field(default_factory=_no_names)

    def __len__(self) -> int:
        return int(self.count.size)

    def groups(self) -> Iterator[RowBatch]:
        """Yield each group as a batch of its own."""
        begin = 0
        for group, end in enumerate(self.group_end.tolist()):
            rows, one = slice(begin, end), slice(group, group + 1)
            inside = (self.packet_row >= begin) & (self.packet_row < end)
            yield RowBatch(
                features=self.features[rows],
                key_hi=self.key_hi[rows],
                key_lo=self.key_lo[rows],
                count=self.count[rows],
                first_ns=self.first_ns[rows],
                last_ns=self.last_ns[rows],
                source=self.source[rows],
                ordinal=self.ordinal[rows],
                group_end=np.array([end - begin]),
                window_ns=self.window_ns[one],
                population=self.population[one],
                packet_index=self.packet_index[inside],
                packet_row=self.packet_row[inside] - begin,
                partial=self.partial,
                names=self.names[rows],
            )
            begin = end


class WindowFeatures:
    """The open windows of one shard."""

    def __init__(
        self, *, window_ns: int, keys_max: int, key_idle_s: int, seed: int, track: bool,
        names: Names | None = None,
    ) -> None:  # fmt: skip
        """Start with no keys.

        Args:
            window_ns: Length of a window, ns, 10^7 … 10^9.
            keys_max: Keys remembered at most.
            key_idle_s: Silence after which a key is forgotten, seconds of packet time.
            seed: Secret of the key table's hash; results do not depend on it.
            track: Whether to remember which packet fell into which row, for scores per packet.
            names: Where texts of keys that are hashes are remembered, if any are.
        """
        self._names = names
        self._window_ns, self._idle_ns = window_ns, key_idle_s * 1_000_000_000
        self._table = KeyTable.create(keys_max, 2, seed)
        self._slots = (
            np.full(keys_max, -1, np.int64),  # the window its open row belongs to
            np.zeros(keys_max, np.int64),  # that row
            np.zeros((keys_max, HISTORY)),
            np.zeros(keys_max, np.int64),  # time of its last packet
        )
        self._open = (
            np.zeros((keys_max, SUMS)),
            np.zeros((keys_max, COUNTS), np.int64),
            np.zeros((keys_max, TAGS), np.uint64),
        )
        self._scalars = np.zeros(SCALARS, np.int64)
        self._scalars[WINDOW] = -1
        self._track = track
        self.late = 0
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    @property
    def keys(self) -> int:
        """Keys remembered now."""
        return len(self._table)

    def update(self, frames: FrameBatch) -> RowBatch | None:
        """Count arrivals; return the rows that closed on the way, if any.

        Late ones, stamped `LATE_NS` or more before the time reached, are counted in no row: nobody
        knows any more what else happened then.
        """
        late = frames.clock_ns - frames.at_ns >= LATE_NS
        if late.any():
            self.late += int(np.count_nonzero(late))
            frames = frames.take(np.flatnonzero(~late))
        count = len(frames)
        if self._names is not None:
            self._names.learn(frames)
        first = int(self._scalars[CLOSED])
        out = self._room(int(self._scalars[OPEN]) + count, count + 1)
        row_of = np.empty(count, np.int64)
        sizes = np.zeros(2, np.int64)
        arrive(
            self._table.arrays(), self._slots, self._open, self._scalars, self._window_ns,
            self._idle_ns,
            (frames.clock_ns, frames.key_hi, frames.key_lo, frames.peer_hi, frames.peer_lo,
             frames.size, frames.dport, frames.source, frames.ordinal),
            row_of, out, sizes,
        )  # fmt: skip
        if self._track and count:
            self._pending.append((frames.index, row_of))
        return self._rows(out, sizes, first)

    @property
    def next_ns(self) -> int | None:
        """The time at which a tick closes the open window; `None` while none is open."""
        return int(self._scalars[WINDOW] + 1) * self._window_ns if self._scalars[OPEN] else None

    def tick(self, now_ns: int) -> RowBatch | None:
        """Let time pass without an arrival; return the rows of the window that it closed, if any.

        They are those that the next arrival would have closed.
        """
        next_ns = self.next_ns
        return self._close() if next_ns is not None and now_ns >= next_ns else None

    def finish(self) -> RowBatch | None:
        """Close the open window at the end of input; return its rows, marked partial, if any."""
        rows = self._close()
        return replace(rows, partial=True) if rows is not None else None

    def _close(self) -> RowBatch | None:
        """Close the open window."""
        first = int(self._scalars[CLOSED])
        out = self._room(int(self._scalars[OPEN]), 1)
        sizes = np.zeros(2, np.int64)
        close(self._slots, self._open, self._scalars, self._window_ns, out, sizes)
        return self._rows(out, sizes, first)

    @staticmethod
    def _room(rows: int, groups: int) -> tuple[NDArray[Any], ...]:
        return (
            np.empty((rows, FEATURES)),
            np.empty((rows, COUNTS), np.int64),
            np.empty((rows, TAGS), np.uint64),
            np.empty(groups, np.int64),
            np.empty(groups, np.int64),
            np.empty((groups, POPULATION)),
        )

    def _rows(
        self, out: tuple[NDArray[Any], ...], sizes: NDArray[np.int64], first: int
    ) -> RowBatch | None:
        rows, groups = int(sizes[0]), int(sizes[1])
        if rows == 0:
            return None
        features, counts, tags, group_end, window, population = out
        index, row = self._settled(first)
        names = (
            _no_names() if self._names is None else self._names.of(tags[:rows, KEY_HI : KEY_LO + 1])
        )
        return RowBatch(
            features=features[:rows],
            key_hi=tags[:rows, KEY_HI],
            key_lo=tags[:rows, KEY_LO],
            count=counts[:rows, PACKETS],
            first_ns=counts[:rows, FIRST_NS],
            last_ns=counts[:rows, LAST_NS],
            source=tags[:rows, SOURCE],
            ordinal=counts[:rows, ORDINAL],
            group_end=group_end[:groups],
            window_ns=window[:groups] * self._window_ns,
            population=population[:groups],
            packet_index=index,
            packet_row=row,
            names=names,
        )

    def _settled(self, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split off the pending packets whose rows have closed."""
        empty = np.zeros(0, np.int64)
        if not self._pending:
            return empty, empty
        index = np.concatenate([p[0] for p in self._pending])
        row = np.concatenate([p[1] for p in self._pending])
        done = row < self._scalars[CLOSED]
        self._pending = [(index[~done], row[~done])]
        return index[done], row[done] - first

    def snapshot(self) -> tuple[NDArray[np.int64], int]:
        """Return what is no key's own; keys and open rows are kept in a log of their own."""
        return self._scalars.copy(), self.late

    def restore(self, state: tuple[NDArray[np.int64], int]) -> None:
        """Go on from a snapshot; what the log holds is loaded next."""
        scalars, self.late = state
        self._scalars[:] = scalars

    @property
    def table(self) -> KeyTable:
        """Keys remembered; see `core.row_log.Rows`, also for the next three."""
        return self._table

    def touched_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return what packets change of their key, its open row among it.

        A row is named by its number among all rows ever closed. One that has closed since follows
        from what was open (`settle`), so that a window that closes touches nothing.
        """
        window, row, history, last = (column[slots] for column in self._slots)
        open_now = window == self._scalars[WINDOW]
        row[~open_now] = 0
        sums, counts, tags = (column[row] for column in self._open)
        for column in (sums, counts, tags):
            column[~open_now] = 0
        return {
            "number": np.where(open_now, self._scalars[CLOSED] + row, -1),
            "last_ns": last,
            "history": history,
            "sums": sums,
            "counts": counts[:, _WRITTEN_COUNTS],
            "tags": tags[:, _WRITTEN_TAGS],
        }

    def whole_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return the keys themselves, and their texts."""
        keys = self._table.keys[slots]
        return {"key": keys} | ({} if self._names is None else {"name": self._names.of(keys)})

    def load(self, slots: NDArray[np.int64], columns: Columns) -> None:
        """Hold these keys, with rows open and closed since."""
        closed, opened = int(self._scalars[CLOSED]), int(self._scalars[OPEN])
        number = columns["number"] if slots.size else slots
        still = np.flatnonzero(number >= closed)
        if not np.array_equal(np.sort(number[still]), np.arange(closed, closed + opened)):
            raise ValueError(f"not the {opened} rows that are open")
        if slots.size == 0:
            return
        self._table.place(columns["key"], slots)
        if self._names is not None:
            self._names.load(columns["key"], columns["name"])
        window, row, history, last = self._slots
        window[:] = -1
        history[slots], last[slots] = columns["history"], columns["last_ns"]
        since = np.flatnonzero((number >= 0) & (number < closed))
        self._lay_open(np.arange(since.size), slots, columns, since)
        scratch = np.empty((1, FEATURES))
        settle(self._open, since.size, self._window_ns, history, scratch)
        rows = number[still] - closed
        self._lay_open(rows, slots, columns, still)
        window[slots[still]], row[slots[still]] = self._scalars[WINDOW], rows

    def _lay_open(
        self, rows: NDArray[np.int64], slots: NDArray[np.int64], columns: Columns,
        which: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Put open rows of the keys that `which` says where they belong."""
        sums, counts, tags = self._open
        sums[rows] = columns["sums"][which]
        counts[rows[:, None], _WRITTEN_COUNTS] = columns["counts"][which]
        counts[rows, LAST_NS] = columns["last_ns"][which]
        counts[rows, SLOT] = slots[which]
        tags[rows[:, None], _WRITTEN_TAGS] = columns["tags"][which]
        tags[rows, KEY_HI : KEY_LO + 1] = columns["key"][which]
