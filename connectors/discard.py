"""The null sink: receives the encoded records, counts them, and discards them.

Laws: those of `connectors.shard_sink`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bytewax.outputs import StatefulSinkPartition

from connectors.shard_sink import Delivered, ShardSink
from core.batches import RecordBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardState:
    """What a `DiscardPart` resumes from.

    Attributes:
        delivered: Records taken per topic since the flow first started.
    """

    delivered: tuple[tuple[str, int], ...]


class DiscardPart(StatefulSinkPartition[RecordBatch, DiscardState]):
    """One part of a `DiscardSink`."""

    def __init__(self, part: str, on_delivered: Delivered, state: DiscardState | None) -> None:
        self._part = part
        self._on_delivered = on_delivered
        self._delivered = dict(state.delivered) if state is not None else {}
        if state is not None:
            on_delivered(part, dict(self._delivered))

    def write_batch(self, values: list[RecordBatch]) -> None:
        """Count the records of the batches."""
        for batch in values:
            self._delivered[batch.topic] = self._delivered.get(batch.topic, 0) + len(batch)
        self._on_delivered(self._part, dict(self._delivered))

    def snapshot(self) -> DiscardState:
        """Return the counts."""
        return DiscardState(delivered=tuple(self._delivered.items()))


class DiscardSink(ShardSink[DiscardState]):
    """Receives the same encoded bytes as any other sink and keeps none of them.

    Delivery guarantee: none, by intent. The counts are exact after a resume.

    Args:
        parts: Number of shards, 1 … 10,000.
        on_delivered: Called with a part and its cumulative records per topic after each write.
    """

    def build_part(
        self, step_id: str, for_part: str, resume_state: DiscardState | None
    ) -> DiscardPart:
        """Build one part; see `ShardSink.build_part`."""
        del step_id
        return DiscardPart(for_part, self.on_delivered, resume_state)
