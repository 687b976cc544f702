"""Flows as a step: the packets of hosts, summed up by conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core import records
from core.netflow import FlowTable
from core.row_log import RowLog
from flows.items import Passage
from flows.steps import Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.batches import FrameBatch, RecordBatch
    from flows.keeper import Journal


class FlowStep(Step[Passage, "RecordBatch"]):
    """Sums up the packets of hosts by conversation."""

    name = "flows"

    def build(self) -> None:
        """Make an empty flow table."""
        s = self.run.settings.flows
        self._table = FlowTable(
            flows_max=s.flows_max, idle_s=s.idle_s, active_s=s.active_s, seed=self.run.seed
        )

    def take(self, value: Passage) -> Iterable[RecordBatch]:
        """Count released packets, or let time pass."""
        if value.released is not None:
            ended = self._table.observe(value.released)
            if len(ended):
                yield records.flows(ended)
        if value.released_ns:
            ended = self._table.tick(value.released_ns)
            if len(ended):
                yield records.flows(ended)

    @property
    def next_ns(self) -> int | None:
        """When the flow that is silent longest ends."""
        return self._table.next_ns

    def end(self) -> Iterable[RecordBatch]:
        """End every flow."""
        ended = self._table.finish()
        return (records.flows(ended),) if len(ended) else ()

    def journals(self) -> dict[str, Journal]:
        """Keep the flows in a log."""
        return {"flows": RowLog(self._table)}

    def keyed(self, value: Passage) -> FrameBatch | None:
        """Return what was released."""
        return value.released

    def state(self) -> Any:
        """Return the latest time seen."""
        return self._table.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._table.restore(state)

    def totals(self) -> dict[str, int]:
        """Return how many flows are followed."""
        return {"flows": len(self._table)}
