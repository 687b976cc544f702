"""Adapters: the cores as steps of a dataflow.

Laws:

1. A step holds one core object for one shard, feeds it batches, and counts. What it decides, the
   core decides.
2. State is saved at the moment of the snapshot, because Bytewax may serialise what it is given
   later, and only when recovery is on: small parts as they are, rows as records of a log that holds
   what was touched (`flows.keeper`).
3. The only broad `except` of the project is here, round the model: what it cannot score is counted
   as unscored with its reason, and the run goes on.

Source: Bytewax, `bytewax.operators.StatefulBatchLogic`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from bytewax.operators import StatefulBatchLogic

from connectors.clock import monotonic_ns
from connectors.metrics import STAGE_SECONDS
from connectors.scores import ScoreBatch
from core import findings, records
from core.headers import decode_headers
from core.names import Names
from core.netflow import FlowTable
from core.row_log import RowLog
from core.shards import shard_of
from flows.items import Arrivals, Decoded, Passage, Scored
from flows.keeper import Journal, Keeper
from models.features import RowBatch, WindowFeatures

if TYPE_CHECKING:
    from core.batches import FrameBatch, PacketBatch, RecordBatch
    from core.controls import Retune
    from flows.run import Run

V = TypeVar("V")
W = TypeVar("W")

COUNT_NS = 50_000_000
"""How long the ledger may not know of what a step counted, while the run lasts."""
_pages = itertools.count()


def decode(packets: PacketBatch) -> Decoded:
    """Read the headers of a batch."""
    with STAGE_SECONDS.labels("decode").time():
        return Decoded(packets, decode_headers(packets))


def shard_name(shard: int) -> str:
    """Return the key under which a shard's items flow; as sinks name their parts."""
    return f"{shard:04d}"


def to_every_shard(run: Run) -> Callable[[Retune], Iterable[tuple[str, Retune]]]:
    """Return the step that sends a command to each shard."""
    names = [shard_name(shard) for shard in range(run.settings.run.shards)]
    return lambda command: [(name, command) for name in names]


def with_commands(
    run: Run,
) -> Callable[[tuple[str, Arrivals]], Iterable[tuple[str, Arrivals | Retune]]]:
    """Return the step that puts what a run is told before what arrives, for each shard.

    It waits for the next arrival, a tick at the latest. A source of its own would double what an
    idle run costs.
    """
    to_each = to_every_shard(run)

    def step(arrived: tuple[str, Arrivals]) -> list[tuple[str, Arrivals | Retune]]:
        commands: list[tuple[str, Arrivals | Retune]] = []
        with suppress(IndexError):  # none, as ever
            commands.extend(to_each(run.commands.popleft()))
        return [*commands, arrived]

    return step


class Step(StatefulBatchLogic[V, W, bytes | None], Generic[V, W]):
    """One core object of one shard; subclasses say how it is fed, ended, saved and counted."""

    name: str

    def __init__(self, run: Run, saved: bytes | None) -> None:
        """Build the core, or restore it from what `snapshot` returned."""
        self.run = run
        self._page = f"{self.name}/{next(_pages)}"
        self._counted_ns = 0
        self._seconds = STAGE_SECONDS.labels(self.name)
        self.build()
        self._keeper: Keeper | None = None
        if run.recovers:
            self._keeper = Keeper(run, self.name, self.journals())
        if self._keeper is not None and saved is not None:
            self.restore(self._keeper.open(saved))
            self._keeper.load()
            self._count()
            run.waiting.write(self._page, self.next_ns)

    @abstractmethod
    def build(self) -> None:
        """Make the core object."""

    @abstractmethod
    def take(self, value: V) -> Iterable[W]:
        """Feed one item."""

    def end(self) -> Iterable[W]:
        """Flush what is held, at the end of input."""
        return ()

    def journals(self) -> dict[str, Journal]:
        """Return what is kept in logs, by names no other step has."""
        return {}

    @abstractmethod
    def keyed(self, value: V) -> FrameBatch | RowBatch | None:
        """Return what bears the keys of an item, if it has any."""

    @abstractmethod
    def state(self) -> Any:
        """Return everything `restore` needs, but for what is kept in logs."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Go on from what `state` returned; what is kept in logs is loaded next."""

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """Return what was counted, for the ledger."""

    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        """Feed items; see `StatefulBatchLogic`."""
        begun = monotonic_ns()
        if self._keeper is not None and not self._keeper.shard:
            self._keeper.shard = self._shard(values)
        out = [each for value in values for each in self.take(value)]
        if self._keeper is not None:
            self._keeper.look()
        ended = monotonic_ns()
        if ended - self._counted_ns >= COUNT_NS:
            self._counted_ns = ended
            self._count()
        self._seconds.observe((ended - begun) * 1e-9)
        self.run.waiting.write(self._page, self.next_ns)
        return out, StatefulBatchLogic.RETAIN

    @property
    def next_ns(self) -> int | None:
        """The time for which it waits if nothing arrives; `None` when a tick would do nothing."""
        return None

    def on_eof(self) -> tuple[Iterable[W], bool]:
        """Flush at the end of input; see `StatefulBatchLogic`.

        A run that was stopped and can be resumed keeps what it holds: it goes on as if there had
        been no stop.
        """
        out = [] if self.run.recovers and self.run.interrupted else list(self.end())
        self._count()
        return out, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes | None:
        """Return what Bytewax is to keep, or nothing without recovery (law 2)."""
        return None if self._keeper is None else self._keeper.save(self.state())

    def _shard(self, values: list[V]) -> str:
        """Return the shard that items belong to; empty when none has a key."""
        for value in values:
            rows = self.keyed(value)
            if rows is not None and len(rows):
                key_hi, key_lo = int(rows.key_hi[0]), int(rows.key_lo[0])
                return shard_name(shard_of(key_hi, key_lo, self.run.settings.run.shards))
        return ""

    def _count(self) -> None:
        self.run.ledger.write(self._page, self.totals())


class FeatureStep(Step[Passage, RowBatch]):
    """Counts every arrival, passed or not, into the window of its key."""

    name = "features"

    def build(self) -> None:
        """Make empty windows."""
        s = self.run.settings.features
        self._windows = WindowFeatures(
            window_ns=s.window_ns, keys_max=s.keys_max, key_idle_s=s.key_idle_s,
            seed=self.run.seed, track=self.run.scores is not None, names=self._names(s.keys_max),
        )  # fmt: skip

    def _names(self, keys_max: int) -> Names | None:
        how = self.run.payloads
        return None if how is None else Names(how, keys_max, self.run.seed)

    def take(self, value: Passage) -> Iterable[RowBatch]:
        """Count arrivals, or let time pass."""
        windows = self._windows
        rows = windows.tick(value.tick_ns) if value.tick_ns else windows.update(value.arrivals)
        return () if rows is None else (rows,)

    @property
    def next_ns(self) -> int | None:
        """The end of the open window."""
        return self._windows.next_ns

    def end(self) -> Iterable[RowBatch]:
        """Close the last window."""
        rows = self._windows.finish()
        return () if rows is None else (rows,)

    def journals(self) -> dict[str, Journal]:
        """Keep the keys in a log."""
        return {"features": RowLog(self._windows)}

    def keyed(self, value: Passage) -> FrameBatch | None:
        """Return the arrivals."""
        return value.arrivals

    def state(self) -> Any:
        """Return what is no key's own."""
        return self._windows.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._windows.restore(state)

    def totals(self) -> dict[str, int]:
        """Return how many keys are remembered."""
        return {"keys": self._windows.keys, "late": self._windows.late}


class ScoreStep(Step[RowBatch, Scored]):
    """Scores rows, then learns them; holds the only broad `except` (law 3)."""

    name = "score"

    def build(self) -> None:
        """Make the detectors."""
        by_device = self.run.settings.capture.by == "device"
        self._judge = self.run.judge(self.run.settings.anomaly, is_device=by_device)
        self._totals: Counter[str] = Counter()

    def take(self, value: RowBatch) -> Iterable[Scored]:
        """Judge rows, group by group where one that fails must not take others along."""
        for rows in value.groups() if self._judge.by_group else (value,):
            yield from self._judged(rows)

    def _judged(self, value: RowBatch) -> Iterable[Scored]:
        try:
            judged = self._judge.judge(value)
        except Exception as error:  # noqa: BLE001  whatever a model raises, packets flow on
            reason = type(error).__name__
            if self._totals[f"unscored.{reason}"] == 0:
                self.run.notify(f"the model failed ({reason}: {error}); such rows are unscored")
            self._totals[f"unscored.{reason}"] += len(value)
            return ()
        nothing = int(np.isnan(judged.scores).sum())
        self._totals["rows_warming"] += judged.warming
        self._totals["rows_scored"] += len(value) - nothing
        if nothing > judged.warming:
            self._totals["unscored.nan"] += nothing - judged.warming
        self._totals["findings"] += len(judged.findings)
        self._totals["findings_suppressed"] += judged.suppressed
        scores = judged.scores[value.packet_row].astype(np.float32)
        batch = ScoreBatch(value.packet_index, scores)
        return (Scored(findings.encode(judged.findings), batch),)

    def keyed(self, value: RowBatch) -> RowBatch:
        """Return the rows themselves."""
        return value

    def state(self) -> Any:
        """Return the detectors."""
        return self._judge.snapshot(), self._totals

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        saved, self._totals = state
        self._judge.restore(saved)

    def totals(self) -> dict[str, int]:
        """Return what was scored."""
        return dict(self._totals)


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


def readings(run: Run) -> Callable[[Passage], list[RecordBatch]]:
    """Return the step that encodes released frames as telemetry records."""
    how = run.payloads

    def step(passage: Passage) -> list[RecordBatch]:
        frames = passage.released
        if frames is None or len(frames) == 0:
            return []
        with STAGE_SECONDS.labels("encode").time():
            return [records.telemetry(frames) if how is None else records.payloads(frames, how)]

    return step
