"""What all sinks of records share: one part for each shard, on whatever worker.

Laws:

1. A sink has one part per shard, named after it ("0000", "0001", …), so that what is delivered
   depends on the number of shards and never on the number of workers.
2. Every sink counts the records it took per topic, keeps the counts in its snapshot, and reports
   them cumulatively, so that a resumed run says how much was delivered in all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from core.batches import RecordBatch
from core.errors import SettingError

S = TypeVar("S")

PARTS_MAX = 10_000
"""Part names have four digits; Bytewax sorts them as strings."""

Delivered = Callable[[str, dict[str, int]], None]
"""Called with a part and its records delivered per topic since the flow first started."""


class ShardSink(FixedPartitionedSink[RecordBatch, S]):
    """A sink whose parts are the shards: key "0007" goes to part "0007" on whatever worker.

    Every worker lists every part; Bytewax gives each part to exactly one of them.

    Args:
        parts: Number of shards, 1 … 10,000.
        on_delivered: Called after each write, on the worker's thread.

    Raises:
        SettingError: `parts` is out of bounds.
    """

    def __init__(self, *, parts: int, on_delivered: Delivered) -> None:
        if not 1 <= parts <= PARTS_MAX:
            raise SettingError(f"parts: {parts} is not within 1 … {PARTS_MAX}")
        self._names = [f"{part:04d}" for part in range(parts)]
        self.on_delivered = on_delivered

    def list_parts(self) -> list[str]:
        """Return the names of all parts, which are those of the shards."""
        return self._names

    def part_fn(self, item_key: str) -> int:
        """Return the index, in the sorted part names, of the part of a shard."""
        return int(item_key)

    @abstractmethod
    def build_part(
        self, step_id: str, for_part: str, resume_state: S | None
    ) -> StatefulSinkPartition[RecordBatch, S]:
        """Build one part; Bytewax calls it with the part's first item, or at once on resume."""
