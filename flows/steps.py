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
from core.docket import Docket
from core.headers import decode_headers
from core.names import Names
from core.row_log import RowLog
from core.shards import shard_of
from flows.items import Arrivals, Decoded, Measured, Passage, Scored
from flows.keeper import Journal, Keeper
from flows.watching import make_watch
from models.features import RowBatch, WindowFeatures

if TYPE_CHECKING:
    from core.batches import FrameBatch, PacketBatch, RecordBatch
    from core.controls import Retune
    from core.sighting import Sighting
    from flows.run import Run
    from models.judge import Judgement

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


class FeatureStep(Step[Passage, Measured]):
    """Counts every arrival, passed or not, into the window of its key."""

    name = "features"

    def build(self) -> None:
        """Make empty windows."""
        s = self.run.settings.features
        names = self._names(s.keys_max)
        self._windows = WindowFeatures(
            window_ns=s.window_ns, keys_max=s.keys_max, key_idle_s=s.key_idle_s,
            seed=self.run.seed, track=self.run.scores is not None, names=names,
        )  # fmt: skip
        self._watch = make_watch(self.run, names)
        self._seen: list[Sighting] = []
        self._until_ns = 0

    def _names(self, keys_max: int) -> Names | None:
        how = self.run.payloads
        return None if how is None else Names(how, keys_max, self.run.seed)

    def take(self, value: Passage) -> Iterable[Measured]:
        """Count arrivals and look at them, or let time pass."""
        windows, arrivals = self._windows, value.arrivals
        rows = windows.tick(value.tick_ns) if value.tick_ns else windows.update(arrivals)
        now_ns = value.tick_ns or (int(arrivals.clock_ns[-1]) if len(arrivals) else 0)
        until_ns = max(self._until_ns, now_ns - now_ns % self.run.settings.features.window_ns)
        if self._watch is not None and len(arrivals):
            self._seen += self._watch.update(arrivals)
        if rows is None and until_ns == self._until_ns:
            return ()
        self._until_ns = until_ns
        seen = [each for each in self._seen if each.window_ns < until_ns]
        self._seen = self._seen[len(seen) :]
        return (Measured(rows, until_ns, seen),)

    @property
    def next_ns(self) -> int | None:
        """The end of the open window."""
        return self._windows.next_ns

    def end(self) -> Iterable[Measured]:
        """Close the last window."""
        seen, self._seen = self._seen, []
        return (Measured(self._windows.finish(), self._until_ns, seen),)

    def journals(self) -> dict[str, Journal]:
        """Keep the keys in logs."""
        journals: dict[str, Journal] = {"features": RowLog(self._windows)}
        if self._watch is not None:
            journals |= {name: RowLog(rows) for name, rows in self._watch.rows().items()}
        return journals

    def keyed(self, value: Passage) -> FrameBatch | None:
        """Return the arrivals."""
        return value.arrivals

    def state(self) -> Any:
        """Return what is no key's own."""
        watch = None if self._watch is None else self._watch.snapshot()
        return self._windows.snapshot(), watch, self._seen, self._until_ns

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        windows, watch, self._seen, self._until_ns = state
        self._windows.restore(windows)
        if self._watch is not None:
            self._watch.restore(watch)

    def totals(self) -> dict[str, int]:
        """Return how many keys are remembered."""
        unseen = 0 if self._watch is None else self._watch.unseen
        return {
            "keys": self._windows.keys, "late": self._windows.late, "findings_suppressed": unseen
        }  # fmt: skip


class ScoreStep(Step[Measured, Scored]):
    """Scores rows, then learns them, and tells findings; holds the only broad `except` (law 3)."""

    name = "score"

    def build(self) -> None:
        """Make the detectors."""
        by_device = self.run.settings.capture.by == "device"
        self._judge = self.run.judge(self.run.settings.anomaly, is_device=by_device)
        s = self.run.settings.findings
        self._docket = Docket(
            quiet_s=s.quiet_s, update_s=s.update_s, open_max=s.open_max,
            per_window_max=self.run.settings.anomaly.findings_per_window_max,
            window_ns=self.run.settings.features.window_ns,
        )  # fmt: skip
        self._totals: Counter[str] = Counter()

    def take(self, value: Measured) -> Iterable[Scored]:
        """Judge rows, group by group where one that fails must not take others along."""
        seen: list[Sighting] = []
        if value.rows is not None:
            for rows in value.rows.groups() if self._judge.by_group else (value.rows,):
                judged = self._judged(rows)
                if judged is not None:
                    seen += judged.sightings
                    scores = judged.scores[rows.packet_row].astype(np.float32)
                    yield Scored(None, ScoreBatch(rows.packet_index, scores))
        # What a model and what a watch saw in a window: the model's first, whatever was cut how.
        seen = sorted([*seen, *value.sightings], key=lambda each: each.window_ns)
        suppressions = self.run.suppressions
        yield from self._told(self._docket.take(seen, value.until_ns, suppressions.covers))
        if line := suppressions.expired(value.until_ns):
            self.run.notify(line)

    def _judged(self, value: RowBatch) -> Judgement | None:
        try:
            judged = self._judge.judge(value)
        except Exception as error:  # noqa: BLE001  whatever a model raises, packets flow on
            reason = type(error).__name__
            if self._totals[f"unscored.{reason}"] == 0:
                self.run.notify(f"the model failed ({reason}: {error}); such rows are unscored")
            self._totals[f"unscored.{reason}"] += len(value)
            return None
        nothing = int(np.isnan(judged.scores).sum())
        self._totals["rows_warming"] += judged.warming
        self._totals["rows_scored"] += len(value) - nothing
        if nothing > judged.warming:
            self._totals["unscored.nan"] += nothing - judged.warming
        return judged

    def _told(self, told: list[findings.Finding]) -> Iterable[Scored]:
        """Count and encode what is told."""
        self._totals["findings"] += sum(each.activity == findings.CREATE for each in told)
        self._totals["finding_records"] += len(told)
        if not told:
            return ()
        kept = self.run.evidence
        either = self.run.settings.capture.by == "host"
        files = frozenset[str]() if kept is None else kept.note(told, either=either)
        return (Scored(findings.encode(told, files), None),)

    def end(self) -> Iterable[Scored]:
        """Close the findings that are open."""
        return self._told(self._docket.finish())

    @property
    def next_ns(self) -> int | None:
        """When the next finding is closed."""
        return self._docket.next_ns

    def keyed(self, value: Measured) -> RowBatch | None:
        """Return the rows."""
        return value.rows

    def state(self) -> Any:
        """Return the detectors and the open findings."""
        return self._judge.snapshot(), self._docket.snapshot(), self._totals

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        saved, docket, self._totals = state
        self._judge.restore(saved)
        self._docket.restore(docket)

    def totals(self) -> dict[str, int]:
        """Return what was scored and told."""
        docket = self._docket
        return dict(self._totals) | {
            "findings_open": len(docket),
            "findings_suppressed": docket.suppressed,
            "findings_muted": docket.muted,
        }


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
