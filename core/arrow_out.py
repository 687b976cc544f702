"""Arrow messages: the records of a batch as one Arrow stream for each partition.

Laws:

1. All records of a message are of its partition, which is that of their keys, in the order of the
   batch. The message itself has no key: it is of many.
2. A message has at most `message_bytes_max` bytes as Kafka counts them, headers included. A record
   that alone has more is a message of its own, and the only one that is refused for its size.
3. The batch of what is returned is in the order of the messages: the records of a message are rows
   `first_row` … `first_row + rows` of it, so that a message can be taken apart again.
4. The time of a message is that of its last record, `ce_time` and `ce_source` are those of its
   first, and its `ce_id` names the packets of both and the hash of its value.

Each value is a whole stream of the Arrow IPC format: schema, one record batch, end.

Source: Apache Arrow columnar format, "IPC Streaming Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core import cloudevents, record_columns
from core.kernels import A_i4, A_i8, i8, kernel, none
from core.outgoing import ARROW, Headers, Outgoing, Which, constant_headers, timestamps_ms
from core.partitioner import partitions_of
from core.record_columns import ROW_BYTES
from core.xxh64 import xxh64

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from core.batches import RecordBatch

ENVELOPE_BYTES = 1_536
"""Of a message, beside its rows: the frame of the stream, padding, headers, the frame of Kafka."""

# Where texts end is only read, and may come from wherever.
_ENDS = A_i8.copy(readonly=True)


@kernel(none(A_i4, A_i8, A_i8))
def _group(partition: Any, group_end: Any, order: Any) -> None:
    """Write the rows of each partition after those of the one before, and where they end.

    Args:
        partition: `(n,) int32`; partition of each row.
        group_end: `(partitions,) int64`; zeros, written.
        order: `(n,) int64`; written.
    """
    for i in range(partition.size):
        group_end[partition[i]] += 1
    start = 0
    for p in range(group_end.size):
        size = group_end[p]
        group_end[p] = start
        start += size
    for i in range(partition.size):
        p = partition[i]
        order[group_end[p]] = i
        group_end[p] += 1


@kernel(i8(_ENDS, _ENDS, A_i8, i8, A_i8))
def _cut(value_end: Any, key_end: Any, group_end: Any, bytes_max: Any, first: Any) -> Any:
    """Write the first row of each message; return how many there are.

    Args:
        value_end: `(n,) int64`; where the value of each row ends, group after group.
        key_end: `(n,) int64`; where its key ends.
        group_end: `(groups,) int64`; where each group ends.
        bytes_max: Most bytes of the rows of one message that has more than one.
        first: `(n,) int64`; written.
    """
    count = 0
    row = 0
    before = 0
    for group in range(group_end.size):
        total = 0
        begins = True
        while row < group_end[group]:
            texts = value_end[row] + key_end[row]
            row_bytes = texts - before + ROW_BYTES
            before = texts
            total += row_bytes
            if begins or total > bytes_max:
                first[count] = row
                count += 1
                total = row_bytes
                begins = False
            row += 1
    return count


def arrow_messages(
    batch: RecordBatch, headers: Which, partitions: int, message_bytes_max: int
) -> Outgoing:
    """Return records as Arrow streams, one or more for each partition.

    Args:
        batch: Records of a topic of `core.topics.TOPICS`, keys and values in UTF-8.
        headers: Which headers the messages get.
        partitions: How many the topic has, at least 1.
        message_bytes_max: Largest message as Kafka counts it.
    """
    count = len(batch)
    partition = partitions_of(batch, partitions)
    group_end, order = np.zeros(partitions, np.int64), np.empty(count, np.int64)
    _group(partition, group_end, order)
    batch = batch if partitions == 1 else batch.take(order)
    first, bytes_max = np.empty(count, np.int64), message_bytes_max - ENVELOPE_BYTES
    first = first[: _cut(batch.value_end, batch.key_end, group_end, bytes_max, first)]
    rows = np.diff(first, append=count)
    last = first + rows - 1
    room = batch.values.size + batch.keys.size + ROW_BYTES * count
    room += ENVELOPE_BYTES * first.size
    values = _streams(batch, first.tolist(), rows.tolist(), room)
    return Outgoing(
        topic=batch.topic,
        values=values,
        keys=[None] * len(values),
        timestamps_ms=timestamps_ms(batch.at_ns[last]),
        headers=_headers(batch, headers, values, first, last),
        partitions=partition[order[first]].tolist(),
        rows=rows.tolist(),
        first_row=first.tolist(),
        batch=batch,
    )


def _streams(batch: RecordBatch, first: list[int], rows: list[int], room: int) -> list[pa.Buffer]:
    """Return each run of rows as an Arrow stream; all in one buffer, so that each is copied once.

    Args:
        batch: The records.
        first: First row of each run.
        rows: Rows of each.
        room: Bytes for all streams, at least.
    """
    import pyarrow as pa

    columns = record_columns.columns(batch)
    arena = pa.allocate_buffer(room)
    begin, found = 0, []
    with pa.FixedSizeBufferWriter(arena) as sink:
        for run in zip(first, rows, strict=True):
            with pa.ipc.new_stream(sink, columns.schema) as stream:
                stream.write_batch(columns.slice(*run))
            found.append(arena.slice(begin, sink.tell() - begin))
            begin = sink.tell()
    return found


def _headers(
    batch: RecordBatch,
    which: Which,
    values: list[pa.Buffer],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> list[Headers]:
    """Return the headers of each message."""
    found: list[Headers] = []
    if which == "none":
        return found
    columns = (
        values,
        batch.source[first].tolist(),
        batch.ordinal[first].tolist(),
        batch.ordinal[last].tolist(),
        cloudevents.times(batch.at_ns[first]),
        (last - first + 1).tolist(),
    )
    for value, source, begin, end, time, rows in zip(*columns, strict=True):
        row = {"content-type": ARROW}
        if which == "cloudevents":
            row = constant_headers(batch.topic, source, ARROW)
            hashed = int(xxh64(np.frombuffer(value, np.uint8), 0, len(value), np.uint64(0)))
            row["ce_id"] = f"{batch.topic}:{begin}-{end}:{hashed:016x}".encode()
            row["ce_time"] = time
        found.append(row | {"rows": b"%d" % rows})
    return found
