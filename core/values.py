"""Values: what the messages of a topic hold, one row for each record, not yet decoded.

Laws:

1. A message is one record, or, when it is an Arrow stream, the records in it; an Arrow stream that
   is not sound is one record of its bytes. Nothing is left out: a message without a value is an
   empty one.
2. A record knows the packet it speaks of, if its message says so; else it is known by its place:
   a hash of cluster, topic and partition, and its offset.
3. It also knows the place after it, where whoever has seen it goes on reading.

Not here: what a value means (`core.readings`).

Source: CloudEvents 1.0.2, Kafka protocol binding, for the headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from core.arrow_in import CONTINUATION, arrow_rows
from core.batches import Columns
from core.cloudevents import SOURCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDINAL_MAX = (1 << 63) - 1
_MS = 1_000_000
_SOURCE = SOURCE.encode()
_URN_BYTES = len(_SOURCE) + 16
_HEX = frozenset(b"0123456789abcdef")

Headers = Sequence[tuple[str, bytes | None]]
"""Headers of a message, in their order."""


@dataclass(slots=True)
class Messages:
    """Messages of a topic as a client hands them out, column by column.

    Attributes:
        values: Their bytes.
        partitions: Partition of each, from 0.
        offsets: Place of each in it.
        timestamps_ms: Time of each, ms since the epoch, as the brokers have it.
        sources, ordinals: The packet that each speaks of, or what stands for one.
    """

    values: list[bytes] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(slots=True)
class Values(Columns):
    """Records of a topic, in the order of their messages.

    Attributes:
        arena: `uint8`; holds the values.
        start: `(n,) int64`; where in the arena each begins.
        length: `(n,) int32`; its bytes.
        at_ns: `(n,) int64`; its time as the message tells it, ns since the epoch.
        source: `(n,) uint64`, ordinal: `(n,) int64`; see law 2.
        partition: `(n,) int32`; where it was read.
        next_offset: `(n,) int64`, next_row: `(n,) int32`; the message after it, or its own, and
            the number of the next record in that.
    """

    arena: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    partition: NDArray[np.int32]
    next_offset: NDArray[np.int64]
    next_row: NDArray[np.int32]

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "start": np.int64,
        "length": np.int32,
        "at_ns": np.int64,
        "source": np.uint64,
        "ordinal": np.int64,
        "partition": np.int32,
        "next_offset": np.int64,
        "next_row": np.int32,
    }

    def __post_init__(self) -> None:
        self.check()

    def value_list(self) -> list[bytes]:
        """Return the values one by one."""
        whole = self.arena.tobytes()
        ends = (self.start + self.length).tolist()
        return [whole[a:b] for a, b in zip(self.start.tolist(), ends, strict=True)]


def unpacked(messages: Messages) -> Values:
    """Return the records of messages.

    Args:
        messages: In the order of each partition.
    """
    packed = [i for i, value in enumerate(messages.values) if value[:4] == CONTINUATION]
    parts = []
    begin = 0
    for i in packed:
        parts += [_plain(messages, slice(begin, i)), _unpacked(messages, i)]
        begin = i + 1
    parts.append(_plain(messages, slice(begin, None)))
    return _joined([part for part in parts if len(part)] or parts[:1])


def _plain(messages: Messages, which: slice) -> Values:
    """Return messages as a record each."""
    values = messages.values[which]
    length = np.array([len(value) for value in values], np.int32)
    # Kafka has no times before the epoch; -1 is none at all.
    at_ms = np.clip(np.array(messages.timestamps_ms[which], np.int64), 0, ORDINAL_MAX // _MS)
    return Values(
        arena=np.frombuffer(bytearray().join(values) or bytearray(1), np.uint8),
        start=np.cumsum(length, dtype=np.int64) - length,
        length=length,
        at_ns=at_ms * _MS,
        source=np.array(messages.sources[which], np.uint64),
        ordinal=np.array(messages.ordinals[which], np.int64),
        partition=np.array(messages.partitions[which], np.int32),
        next_offset=np.array(messages.offsets[which], np.int64) + 1,
        next_row=np.zeros(len(values), np.int32),
    )


def _unpacked(messages: Messages, i: int) -> Values:
    """Return the records of an Arrow message, or the message as one."""
    rows = arrow_rows(messages.values[i])
    if rows is None:
        return _plain(messages, slice(i, i + 1))
    count = rows.at_ns.size
    next_offset = np.full(count, messages.offsets[i], np.int64)
    next_row = np.arange(1, count + 1, dtype=np.int32)
    next_offset[-1:] += 1
    next_row[-1:] = 0
    return Values(
        arena=rows.values if rows.values.size else np.zeros(1, np.uint8),
        start=np.cumsum(rows.lengths, dtype=np.int64) - rows.lengths,
        length=rows.lengths,
        at_ns=np.maximum(rows.at_ns, 0),
        source=rows.source,
        ordinal=rows.ordinal,
        partition=np.full(count, messages.partitions[i], np.int32),
        next_offset=next_offset,
        next_row=next_row,
    )


def _joined(parts: list[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    begin = np.cumsum([0, *(part.arena.size for part in parts)])
    columns = {name: np.concatenate([getattr(part, name) for part in parts])
               for name in Values.COLUMNS}  # fmt: skip
    columns["start"] = np.concatenate(
        [part.start + at for part, at in zip(parts, begin.tolist(), strict=False)]
    )
    return Values(arena=np.concatenate([part.arena for part in parts]), **columns)


def place_source(cluster: str, topic: str, partition: int) -> int:
    """Return what stands for the file of packets in a partition whose messages name none.

    Args:
        cluster: Identity of the cluster.
        topic: Name of the topic, as the brokers have it.
        partition: Number of the partition.
    """
    text = f"kafka/{cluster}/{topic}/{partition}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def named_packet(headers: Headers | None, topic: bytes) -> tuple[int, int] | None:
    """Return file and number of the packet that the headers of a message name, if they do.

    Args:
        headers: Of one message, if it has any.
        topic: Name of its topic as `core.topics` has it, in which one packet is one record.
    """
    if not headers:
        return None
    # As `core.outgoing` lays them out they need no search, which would take most of the time.
    if len(headers) == 7 and headers[2][0] == "ce_source" and headers[3][0] == "ce_id":
        urn, name = headers[2][1], headers[3][1]
    else:
        named = dict(headers)
        urn, name = named.get("ce_source"), named.get("ce_id")
    if urn is None or name is None:
        return None
    # What is remembered has a bounded length.
    source, size = _file_of(urn) if len(urn) == _URN_BYTES else None, len(topic) + 1
    number = name[size:]
    # With more digits it would be no `int64`.
    if source is None or not number.isdigit() or len(number) > 19 or name[:size] != topic + b":":
        return None
    ordinal = int(number)
    return (source, ordinal) if ordinal <= ORDINAL_MAX else None


@lru_cache(maxsize=1024)
def _file_of(urn: bytes) -> int | None:
    digits = urn.removeprefix(_SOURCE)
    if len(digits) != 16 or not _HEX.issuperset(digits):
        return None
    return int(digits, 16)
