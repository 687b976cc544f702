"""The two formats of the files sink: JSON lines, and Parquet.

Laws:

1. A writer writes one file from its beginning, holds one descriptor, and knows no name but its own.
2. It raises `OSError` when the disk does; its caller gives it up with `abandon`, which adds nothing
   to the file.
3. Memory is bounded: a line writer keeps nothing, a table writer one row group.

Not here: names, rotation, renaming and syncing (`connectors.files`); the columns of a table
(`core.record_columns`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from core import record_columns
from core.kernels import A_i8, A_u1, i8, kernel

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from core.batches import RecordBatch

Format = Literal["jsonl", "parquet"]

ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES_MAX = 32 << 20
"""A Parquet row group is written at so many rows, or sooner when its values take so many bytes."""

_LF, _CR, _SPACE = np.uint8(10), np.uint8(13), np.uint8(32)


@kernel(i8(A_u1, A_i8, A_u1))
def join_lines(values: Any, value_end: Any, out: Any) -> Any:
    """Write each value on a line of its own.

    Line breaks within a value become spaces. JSON allows them only between tokens (RFC 8259 §2 and
    §7), where all white space means the same, so that the value stays the same JSON value.

    Args:
        values: `uint8`; JSON values one after another.
        value_end: `(n,) int64`; where each ends.
        out: `uint8`; room for `values.size + n` bytes.

    Returns:
        Bytes written to `out`; -1 when it is too small.
    """
    if out.size < values.size + value_end.size:
        return -1
    at = 0
    put = 0
    for i in range(value_end.size):
        stop = min(max(value_end[i], at), values.size)
        # Slices indexed from zero become vector instructions: 30 times as fast as `values[at + j]`.
        value = values[at:stop]
        line = out[put : put + value.size]
        for j in range(value.size):
            byte = value[j]
            line[j] = _SPACE if (byte == _LF) | (byte == _CR) else byte
        put += value.size
        out[put] = _LF
        put += 1
        at = stop
    return put


class Writer(Protocol):
    """A file being written; every method may raise `OSError`."""

    def write(self, batch: RecordBatch) -> None:
        """Append the records of a batch."""

    def close(self) -> None:
        """Complete the file."""

    def abandon(self) -> None:
        """Give up the descriptor; whatever the file holds is of no use."""


class LineWriter:
    """JSONL: one `write` call a batch."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, batch: RecordBatch) -> None:
        """Write the values of a batch."""
        out = np.empty(batch.values.size + len(batch), np.uint8)
        values = np.require(batch.values, requirements=["C", "W"])
        ends = np.require(batch.value_end, requirements=["C", "W"])
        rest = out.data[: join_lines(values, ends, out)]
        # The kernel of the operating system may take less than was offered, on a disk that fills.
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    abandon = close


class TableWriter:
    """Parquet: columns of the batch itself, held back until they fill a row group."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pending: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._file = pa.OSFile(str(path), "wb")
        self._parquet = pq.ParquetWriter(self._file, record_columns.schema(), compression="zstd")

    def write(self, batch: RecordBatch) -> None:
        """Keep a batch, and write a row group when there is enough for one."""
        self._pending.append(record_columns.columns(batch))
        self._rows += len(batch)
        self._bytes += batch.values.size + batch.keys.size
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._pending:
            table = pa.Table.from_batches(self._pending, record_columns.schema())
            self._pending, self._rows, self._bytes = [], 0, 0
            self._parquet.write_table(table, row_group_size=table.num_rows)

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._parquet.close()
        self._file.close()

    def abandon(self) -> None:
        """Close the file without a footer."""
        # The writer's finaliser would otherwise write one.
        self._parquet.is_open = False
        self._file.close()


WRITERS: dict[str, type[LineWriter | TableWriter]] = {
    "jsonl": LineWriter,
    "parquet": TableWriter,
}
