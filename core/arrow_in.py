"""Arrow messages read: from the bytes of an Arrow stream to the records in it, or nothing.

Laws:

1. Any bytes give records or `None`, and nothing else happens: every offset and every text is
   checked before it is used.
2. Records take no more memory than a few times their message: compressed streams, and columns that
   share their bytes, are refused. Whoever wants messages compressed lets Kafka do it.
3. Columns are those of `core.record_columns`, by name and type, in that order; no value is null,
   and packets are numbered from 0.

Not here: how such messages are written (`core.arrow_out`), what a value means (`core.readings`).

Source: Apache Arrow columnar format, "IPC Streaming Format", Message.fbs; FlatBuffers, "Internals".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from core.record_columns import schema

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

CONTINUATION = b"\xff\xff\xff\xff"
"""How every stream begins, and no JSON text does."""

_HEADER, _COMPRESSION = 2, 3
"""Fields of a flatbuffer: the header of a Message, the compression of a RecordBatch."""


class ArrowRows(NamedTuple):
    """The records of one message.

    Attributes:
        values: `uint8`; the values one after another.
        lengths: `(n,) int32`; bytes of each.
        at_ns: `(n,) int64`; time of the packet each speaks of, ns since the epoch.
        source: `(n,) uint64`, ordinal: `(n,) int64`; that packet's file and number in it.
    """

    values: NDArray[np.uint8]
    lengths: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]


_NO_ROWS = ArrowRows(
    values=np.empty(0, np.uint8),
    lengths=np.empty(0, np.int32),
    at_ns=np.empty(0, np.int64),
    source=np.empty(0, np.uint64),
    ordinal=np.empty(0, np.int64),
)


def arrow_rows(message: bytes) -> ArrowRows | None:
    """Return the records of a message, or `None` when it is no Arrow stream of records.

    Args:
        message: Any bytes.
    """
    import pyarrow as pa

    try:
        batches = _batches(message)
        if batches is None:
            return None
        for batch in batches:
            batch.validate()  # or `nbytes` would read offsets beyond their buffer
        if sum(batch.nbytes for batch in batches) > len(message):
            return None
        for batch in batches:
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                return None
        rows = _joined([_rows(batch) for batch in batches])
    except (pa.lib.ArrowException, struct.error, ValueError, TypeError, OverflowError, OSError):
        return None  # a stream that is none, in whichever way the reader puts it
    return None if (rows.ordinal < 0).any() else rows


def _batches(message: bytes) -> list[pa.RecordBatch] | None:
    """Read the record batches of a stream; `None` when it holds anything else."""
    import pyarrow as pa

    found: list[pa.RecordBatch] = []
    is_first = True
    for part in pa.ipc.MessageReader.open_stream(pa.py_buffer(message)):
        if part.metadata_version != pa.MetadataVersion.V5:
            return None  # those before have another way to say that they are compressed
        if is_first:
            if part.type != "schema" or not _is_ours(pa.ipc.read_schema(part)):
                return None
            is_first = False
            continue
        if part.type != "record batch" or _is_compressed(part.metadata.to_pybytes()):
            return None
        found.append(pa.ipc.read_record_batch(part, schema()))
    return None if is_first else found


def _is_ours(found: pa.Schema) -> bool:
    ours = schema()
    return bool(found.names == ours.names and found.types == ours.types)


def _is_compressed(metadata: bytes) -> bool:
    """Tell whether the bodies of a record batch are compressed; raise `struct.error` beyond it."""
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = _field(metadata, message, _HEADER)
    if not header:
        return True
    (ahead,) = struct.unpack_from("<I", metadata, header)
    return bool(_field(metadata, header + ahead, _COMPRESSION))


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a field of a table lies, 0 when it is left out."""
    (back,) = struct.unpack_from("<i", metadata, table)
    vtable = table - back
    if vtable < 0:
        raise struct.error("a table outside its buffer")
    (size,) = struct.unpack_from("<H", metadata, vtable)
    if 4 + 2 * number >= size:
        return 0
    (ahead,) = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)
    return table + ahead if ahead else 0


def _rows(batch: pa.RecordBatch) -> ArrowRows:
    """Copy the columns of a batch that is sound."""
    import pyarrow as pa

    time, _, value, _, source, ordinal = batch.columns
    count = batch.num_rows
    if count == 0:
        return _NO_ROWS
    _, offsets, data = value.buffers()
    ends = np.frombuffer(offsets, np.int32)[value.offset : value.offset + count + 1]
    values = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return ArrowRows(
        values=values[int(ends[0]) : int(ends[-1])].copy(),
        lengths=np.diff(ends),
        at_ns=np.array(time.view(pa.int64()).to_numpy()),
        source=np.array(source.to_numpy()),
        ordinal=np.array(ordinal.to_numpy()),
    )


def _joined(parts: list[ArrowRows]) -> ArrowRows:
    if len(parts) == 1:
        return parts[0]
    return ArrowRows(*(np.concatenate(columns) for columns in zip(_NO_ROWS, *parts, strict=True)))
