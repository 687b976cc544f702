"""Records as Arrow columns: the one schema of Parquet files and of Arrow messages.

Law: columns share the memory of their batch; nothing is copied but the offsets of texts.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from core.batches import RecordBatch

ROW_BYTES = 8 + 4 + 4 + 4 + 8 + 8
"""Of a row in Arrow, beside the bytes of its key and value: two of its numbers are offsets."""


@cache
def schema() -> pa.Schema:
    """Return the schema: time, key, value, seq, source and ordinal, none of them ever null."""
    import pyarrow as pa

    text, stamp = pa.string(), pa.timestamp("ns", "UTC")
    return pa.schema(
        [
            pa.field("time", stamp, nullable=False),
            pa.field("key", text, nullable=False),
            pa.field("value", text, nullable=False),
            pa.field("seq", pa.uint32(), nullable=False),
            pa.field("source", pa.uint64(), nullable=False),
            pa.field("ordinal", pa.int64(), nullable=False),
        ]
    )


def columns(batch: RecordBatch) -> pa.RecordBatch:
    """Return records as an Arrow record batch.

    Args:
        batch: Records whose keys and values are UTF-8, together less than 2 GiB.
    """
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(
        [
            pa.array(batch.at_ns).view(schema().field("time").type),
            _strings(batch.keys, batch.key_end),
            _strings(batch.values, batch.value_end),
            pa.array(batch.seq),
            pa.array(batch.source),
            pa.array(batch.ordinal),
        ],
        schema=schema(),
    )


def _strings(arena: NDArray[np.uint8], end: NDArray[np.int64]) -> pa.Array:
    """Return slices of an arena as Arrow strings that share its memory."""
    import pyarrow as pa

    offsets = np.zeros(end.size + 1, np.int32)
    offsets[1:] = end
    return pa.StringArray.from_buffers(end.size, pa.py_buffer(offsets), pa.py_buffer(arena))
