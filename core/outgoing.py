"""Outgoing messages: records as `Producer.produce` of a Kafka client takes them, column by column.

Laws:

1. A message is a function of its records: key, value, time and headers of a record that is
   delivered again are the same, whoever delivers it.
2. Everything is in the order of the batch; with Arrow, within each partition.
3. The time of a message is packet time in ms, but at least 1: 0 means "now" to librdkafka, and
   Kafka has no times before the epoch. The exact time is among the headers.
4. Rows may share their headers, and nobody changes them.

Not here: Arrow messages (`core.arrow_out`), and whoever sends either (`connectors.outbox`).

Source: CloudEvents 1.0.2, Kafka protocol binding, binary content mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Literal

import numpy as np

from core import cloudevents
from core.topics import TELEMETRY

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from core.batches import RecordBatch

Headers = dict[str, bytes]
"""Headers of one message, in their order. `produce` takes a dictionary for less than a list."""
Which = Literal["cloudevents", "seq", "none"]
"""Which headers: those of CloudEvents too, only the sequence number, or none (`kafka.headers`)."""

BY_KEY = -1
"""The partition of a message whose key decides."""
TIMESTAMP_MS_MIN = 1
JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"
"""Content types: of a message that is one record, and of one that holds many."""
_MS = 1_000_000


@dataclass(slots=True)
class Outgoing:
    """Messages of one topic, in the order in which they are to be sent.

    Attributes:
        topic: Name of the topic as `core.topics` has it, whatever the brokers call it.
        values: Value of each message; those of Arrow messages are slices of one buffer.
        keys: Key of each; `None` for none.
        timestamps_ms: Time of each, ms since the epoch, at least 1.
        headers: Headers of each; an empty list when they have none.
        partitions: Partition of each, or `BY_KEY`.
        rows: Records in each; 1 for JSON.
        first_row: Row of `batch` that the first record of each is.
        batch: The records.
    """

    topic: str
    values: list[bytes] | list[pa.Buffer]
    keys: list[bytes | None]
    timestamps_ms: list[int]
    headers: list[Headers]
    partitions: list[int]
    rows: list[int]
    first_row: list[int]
    batch: RecordBatch

    def __len__(self) -> int:
        return len(self.values)


def json_messages(batch: RecordBatch, headers: Which) -> Outgoing:
    """Return each record as a message of its own.

    Args:
        batch: Records of a topic of `core.topics.TOPICS`.
        headers: Which headers they get.
    """
    count = len(batch)
    return Outgoing(
        topic=batch.topic,
        values=batch.value_list(),
        keys=list(batch.key_list()),
        timestamps_ms=timestamps_ms(batch.at_ns),
        headers=_headers(batch, headers),
        partitions=[BY_KEY] * count,
        rows=[1] * count,
        first_row=list(range(count)),
        batch=batch,
    )


def timestamps_ms(at_ns: NDArray[np.int64]) -> list[int]:
    """Return times as Kafka has them.

    Args:
        at_ns: `(n,) int64`; ns since the epoch.
    """
    found: list[int] = np.maximum(at_ns // _MS, TIMESTAMP_MS_MIN).tolist()
    return found


def constant_headers(topic: str, source: int, content: bytes) -> Headers:
    """Return the headers of CloudEvents, those that differ from record to record still empty.

    Args:
        topic: Name of the topic.
        source: Identity of the file (`uint64`).
        content: Media type of the value.
    """
    return {
        "ce_specversion": cloudevents.SPEC_VERSION,
        "ce_type": topic.encode(),
        "ce_source": cloudevents.source_name(source),
        "ce_id": b"",
        "ce_time": b"",
        "content-type": content,
    }


def _headers(batch: RecordBatch, which: Which) -> list[Headers]:
    count = len(batch)
    if which == "none":
        return []
    has_seq = batch.topic == TELEMETRY and batch.has_seq
    if which == "seq" and not has_seq:
        return [{"content-type": JSON}] * count
    # To copy a dictionary is the cheapest way to make one, and one of bytes, unlike a list of
    # tuples, is nothing that Python's collector of garbage has to follow.
    found = [constant.copy() for constant in _constant(batch, which, has_seq)]
    if which == "cloudevents":
        each = zip(found, cloudevents.ids(batch), cloudevents.times(batch.at_ns), strict=True)
        for row, id_, time in each:
            row["ce_id"] = id_
            row["ce_time"] = time
    if has_seq:
        seqs: list[bytes] = batch.seq.astype(">u4").view("V4").tolist()
        for row, seq in zip(found, seqs, strict=True):
            row["seq"] = seq
    return found


def _constant(batch: RecordBatch, which: Which, has_seq: bool) -> Iterable[Headers]:
    """Return, for each row, the headers that all records of its file have."""

    def of_source(source: int) -> Headers:
        row = {"content-type": JSON}
        if which == "cloudevents":
            row = constant_headers(batch.topic, source, JSON)
        return row | {"seq": b""} if has_seq else row

    first = int(batch.source[0]) if len(batch) else 0
    if (batch.source == first).all():  # as a rule; and sorting costs something
        return repeat(of_source(first), len(batch))
    distinct, which_source = np.unique(batch.source, return_inverse=True)
    each = [of_source(source) for source in distinct.tolist()]
    return [each[i] for i in which_source.tolist()]
