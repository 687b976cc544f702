"""The rows of a key table as a log: each record holds what was touched since the one before.

Laws:

1. A record costs what was touched, removed and copied, never what there is. Columns that change
   with every touch are written with every touch; those that stay with a key once, when it comes.
2. Of a slot the last record that names it counts. Records put together, in order and from
   `keep_from` on, are the table: its rows, and the order in which its keys were touched.
3. So that old records become worthless, a pass now and then copies forward, `COPY_SLOTS` slots a
   record, what no record since its beginning holds. When it is through, `keep_from` is where it
   began. One begins when what was written since the last is a few times the table, so that an idle
   table costs nothing, and what is kept is bounded.
4. What the next record will take is told from rows touched lately, packed as a sample: what rows
   took before says little when traffic changes, as in a flood of new keys.
5. Restored is bit for bit what was written. What a core can compute from it is not written: rows
   that changed without a touch must follow from the row of the last touch and the core's scalars.

Not here: bytes (`core.packing`), where records are kept, and when one is asked for.

Source: cleaning of segments in M. Rosenblum and J. Ousterhout, "The design and implementation of a
log-structured file system" (1992).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from core.keytable import HOME, UNUSED, KeyTable
from core.packing import Columns, pack, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

COPY_SLOTS = 8_192
"""Slots that one record of a pass looks at; of these it copies the rows that need it."""
RECORDS_MAX = 256
"""Records after which a pass begins, however little they hold."""
LOG_ROWS_PER_ROW = 2
"""Rows in the log for each row of the table, at which a pass begins."""

ROW_BYTES = 48.0
"""What a row is taken to cost, at least, that was not looked at."""
LOOK_ROWS = 8_192
"""Rows touched between two looks at what they cost."""
_SAMPLE_ROWS = 1_024
_ROWS_TELLING = 256

_TOUCHED, _WHOLE = "t.", "w."


class Rows(Protocol):
    """What a core has to offer to be kept in a log."""

    @property
    def table(self) -> KeyTable:
        """Its table of keys."""
        ...

    def touched_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return what may have changed with the last touch, a row for each slot."""
        ...

    def whole_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return what else there is to a row: its key, and what changes only with that."""
        ...

    def load(self, slots: NDArray[np.int64], columns: Columns) -> None:
        """Hold these rows and nothing else.

        Args:
            slots: `(n,) int64`; the slot of each, the one touched longest ago first.
            columns: Both kinds, by name; none at all when there are no rows.

        Raises:
            KeyError: A column is missing.
            ValueError: They do not fit together.
        """
        ...


class RowLog:
    """Decides what the next record holds, and puts records together again.

    Args:
        rows: What is kept.

    Attributes:
        version: Number of the last record.
        keep_from: Number of the oldest record that is still needed; `version + 1` if none is.
    """

    def __init__(self, rows: Rows) -> None:
        capacity = rows.table.capacity
        self._rows = rows
        # Of each slot, as last written: the order of its touch, and the record with its key.
        self._stamp = np.zeros(capacity, np.int64)
        self._written = np.zeros(capacity, np.int64)
        self._stamps = 0
        self.version = 0
        self.keep_from = 1
        # The pass under way: where it began, 0 when there is none, and how far it is.
        self._pass, self._cursor = 0, 0
        # Where the last one ended, the rows written since, and whether the next is overdue.
        self._ended, self._logged = 0, 0
        self._overdue = False
        self._row_bytes = ROW_BYTES
        self._looked = 0  # rows touched since the last record, at the last look

    @property
    def unsaved(self) -> int:
        """Rows touched since the last record."""
        return self._rows.table.unsaved

    @property
    def arrival_bytes(self) -> float:
        """Estimate what one arrival adds, at most."""
        return max(self._row_bytes, ROW_BYTES)

    def owed(self, arrivals: int) -> int:
        """Estimate the bytes of the next record if so many arrivals came before it."""
        table = self._rows.table
        touched = min(table.unsaved + arrivals, table.capacity)
        passes = self._pass or self._is_long(self.version + 1, len(table))
        copied = min(max(len(table) - touched, 0), COPY_SLOTS) if passes else 0
        looked = min(self._looked, touched)
        unknown = touched - looked + copied
        return round(looked * self._row_bytes + unknown * self.arrival_bytes)

    def look(self) -> None:
        """See what rows touched lately take, if many were touched since the last look (law 4)."""
        table = self._rows.table
        if table.unsaved < self._looked + LOOK_ROWS:
            return
        self._looked = table.unsaved
        slots, fresh = table.recent(min(_SAMPLE_ROWS, table.unsaved))
        columns = {_TOUCHED + n: c for n, c in self._rows.touched_columns(slots).items()}
        columns |= {_WHOLE + n: c for n, c in self._rows.whole_columns(slots[fresh]).items()}
        self._row_bytes = max(self._row_bytes, len(pack(columns)) / slots.size)

    def delta(self) -> bytes | None:
        """Return the next record, or nothing when nothing changed; what it holds counts as saved.

        A record that was returned must be kept, because no later one repeats it.
        """
        table = self._rows.table
        touched, fresh, gone = table.changes()
        version = self.version + 1
        first = self._stamps
        self._looked = 0
        self._stamps += touched.size
        self._stamp[touched] = np.arange(first, self._stamps)
        copied, renewed = self._copy(version, touched, first)
        rows = np.concatenate([copied, touched])
        whole = np.concatenate([np.ones(copied.size, np.bool_), fresh | renewed])
        if rows.size + gone.size == 0:
            return None
        self.version = version
        self._written[rows[whole]] = version
        self._logged += rows.size
        columns: Columns = {
            "head": np.array([table.capacity, first]),
            "slots": rows,
            "whole": whole.view(np.uint8),
            "stamps": self._stamp[copied],
            "gone": np.sort(gone),
        }
        columns |= {_TOUCHED + n: c for n, c in self._rows.touched_columns(rows).items()}
        columns |= {_WHOLE + n: c for n, c in self._rows.whole_columns(rows[whole]).items()}
        record = pack(columns)
        if rows.size >= _ROWS_TELLING:
            self._row_bytes = len(record) / rows.size
        return record

    def load(self, records: Iterable[tuple[int, bytes]], version: int) -> None:
        """Put the table together from its records.

        Args:
            records: Number and content of each since `keep_from`, in order.
            version: Number of the last one ever written.

        Raises:
            ValueError: They are no records of such a table, or not all of them.
        """
        table = self._rows.table
        alive = np.zeros(table.capacity, np.bool_)
        found: Columns = {}
        self._written[:] = 0
        for number, record in records:
            columns = unpack(record)
            capacity, first = columns.pop("head").tolist()
            if capacity != table.capacity:
                raise ValueError(f"a table of {capacity} keys, not of {table.capacity}")
            slots, gone = columns.pop("slots"), columns.pop("gone")
            whole, stamps = columns.pop("whole").view(np.bool_), columns.pop("stamps")
            self._stamps = first + slots.size - stamps.size
            self._stamp[slots] = np.concatenate([stamps, np.arange(first, self._stamps)])
            self._written[slots[whole]] = number
            alive[slots], alive[gone] = True, False
            for name, column in columns.items():
                if name not in found:
                    found[name] = np.zeros((table.capacity, *column.shape[1:]), column.dtype)
                found[name][slots[whole] if name.startswith(_WHOLE) else slots] = column
        slots = np.flatnonzero(alive)
        slots = slots[np.argsort(self._stamp[slots])]
        if not self._written[slots].all():
            raise ValueError("rows without their keys")
        columns = {n[len(_WHOLE) :]: c[slots] for n, c in found.items()} if slots.size else {}
        try:
            self._rows.load(slots, columns)
        except KeyError as error:
            raise ValueError(f"no column {error}") from error
        self.version = version
        # What earlier runs wrote is copied forward soon, whatever they had copied themselves.
        self._overdue = True

    def _copy(
        self, version: int, touched: NDArray[np.int64], first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Take a step of the pass, if there is one or one is to begin.

        Returns:
            The slots to copy beside those touched, the one touched longest ago first; and which
            of those touched are to be written whole.
        """
        table = self._rows.table
        if not self._pass and self._is_long(version, len(table)):
            self._pass, self._cursor, self._overdue = version, 0, False
        if not self._pass:
            return np.empty(0, np.int64), np.zeros(touched.size, np.bool_)
        used = int(table.state[UNUSED])
        begin, end = self._cursor, min(self._cursor + COPY_SLOTS, used)
        old = self._written < self._pass
        slots = begin + np.flatnonzero(old[begin:end] & (table.links[begin:end, HOME] >= 0))
        copied = slots[self._stamp[slots] < first]
        renewed = old[touched] & (touched >= begin) & (touched < end)
        self._cursor = end
        if end == used:
            self.keep_from, self._pass = self._pass, 0
            self._ended, self._logged = version, 0
        return copied[np.argsort(self._stamp[copied])], renewed

    def _is_long(self, version: int, live: int) -> bool:
        """Tell whether the log is long enough for what the table holds."""
        rows: int = LOG_ROWS_PER_ROW * live + COPY_SLOTS
        return self._overdue or self._logged >= rows or version - self._ended > RECORDS_MAX
