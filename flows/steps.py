"""Adapters: the cores as steps of a dataflow.

Laws:

1. A step holds one core object for one shard, feeds it batches, and counts. What it decides, the
   core decides.
2. State is pickled at the moment of the snapshot, because Bytewax may serialise it later, and only
   when recovery is on.
3. The only broad `except` of the project is here, round the model: what it cannot score is counted
   as unscored with its reason, and the run goes on.

Source: Bytewax, `bytewax.operators.StatefulBatchLogic`.
"""

from __future__ import annotations

import itertools
import pickle
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from bytewax.operators import StatefulBatchLogic

from connectors.clock import monotonic_ns
from connectors.metrics import STAGE_SECONDS
from connectors.scores import ScoreBatch
from core import findings, records, topics
from core.dam import Dam
from core.frame import device_frames, host_frames
from core.headers import decode_headers
from core.netflow import FlowTable
from core.reasons import DROPS, IGNORED, MALFORMED, REASONS
from core.shards import split
from models.features import RowBatch, WindowFeatures
from models.judge import Judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch, HeaderBatch, PacketBatch, RecordBatch
    from flows.run import Run

V = TypeVar("V")
W = TypeVar("W")

_pages = itertools.count()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Packets with their headers."""

    packets: PacketBatch
    headers: HeaderBatch


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What one batch of packets means for one shard.

    Attributes:
        frames: Frames of the shard's keys.
        reasons: `(REASONS,) int64`; packets by reason, for one shard of each batch only.
        rejects: Malformed packets as records, likewise.
    """

    frames: FrameBatch
    reasons: NDArray[np.int64]
    rejects: RecordBatch | None


@dataclass(frozen=True, slots=True)
class Passage:
    """What the dam made of arrivals: all of them with their marks, and those now released."""

    arrivals: FrameBatch
    marks: NDArray[np.uint8]
    released: FrameBatch | None


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model made of rows."""

    findings: RecordBatch | None
    scores: ScoreBatch


def decode(packets: PacketBatch) -> Decoded:
    """Read the headers of a batch."""
    with STAGE_SECONDS.labels("decode").time():
        return Decoded(packets, decode_headers(packets))


def frame(run: Run) -> Callable[[Decoded], Iterable[tuple[str, Arrivals]]]:
    """Return the step that takes frames out of packets and sends each to its shard."""
    capture, shards = run.settings.capture, run.settings.run.shards
    body_bytes_max = run.settings.frame.body_bytes_max
    by_device = capture.by == "device"
    dead_letters = topics.TELEMETRY_DLQ if by_device else topics.FLOWS_DLQ
    nothing = np.zeros(REASONS, np.int64)

    def step(decoded: Decoded) -> list[tuple[str, Arrivals]]:
        with STAGE_SECONDS.labels("frame").time():
            packets, headers = decoded.packets, decoded.headers
            if by_device:
                reason, frames = device_frames(packets, headers, capture.port, body_bytes_max)
            else:
                reason, frames = host_frames(packets, headers)
            counts = np.bincount(reason, minlength=REASONS)
            rejects = records.rejects(packets, reason, dead_letters)
            parts = split(frames, shards) or [(0, frames)]
            return [
                (f"{shard:04d}", Arrivals(part, nothing, None) if n else
                 Arrivals(part, counts, rejects))
                for n, (shard, part) in enumerate(parts)
            ]  # fmt: skip

    return step


class Step(StatefulBatchLogic[V, W, bytes | None], Generic[V, W]):
    """One core object of one shard; subclasses say how it is fed, ended, saved and counted."""

    name: str

    def __init__(self, run: Run, saved: bytes | None) -> None:
        """Build the core, or restore it from what `snapshot` returned."""
        self.run = run
        self._page = f"{self.name}/{next(_pages)}"
        self._seconds = STAGE_SECONDS.labels(self.name)
        self.build()
        if saved is not None:
            self.restore(pickle.loads(saved))  # noqa: S301  our own recovery store
            self._count()

    @abstractmethod
    def build(self) -> None:
        """Make the core object."""

    @abstractmethod
    def take(self, value: V) -> Iterable[W]:
        """Feed one item."""

    def end(self) -> Iterable[W]:
        """Flush what is held, at the end of input."""
        return ()

    @abstractmethod
    def state(self) -> Any:
        """Return everything `restore` needs."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Go on from what `state` returned."""

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """Return what was counted, for the ledger."""

    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        """Feed items; see `StatefulBatchLogic`."""
        begun = monotonic_ns()
        out = [each for value in values for each in self.take(value)]
        self._count()
        self._seconds.observe((monotonic_ns() - begun) * 1e-9)
        return out, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[W], bool]:
        """Flush at the end of input; see `StatefulBatchLogic`."""
        out = list(self.end())
        self._count()
        return out, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes | None:
        """Return the state as bytes, or nothing without recovery (law 2)."""
        return pickle.dumps(self.state(), 5) if self.run.recovers else None

    def _count(self) -> None:
        self.run.ledger.write(self._page, self.totals())


class DamStep(Step[Arrivals, Passage]):
    """Rate-limits the frames of a shard, and keeps the account of its packets."""

    name = "dam"

    def build(self) -> None:
        """Make the dam, if it is on."""
        s = self.run.settings.dam
        self._reasons = np.zeros(REASONS, np.int64)
        self._dam: Dam | None = None
        self._passed = self._passed_bytes = 0
        if self.run.settings.dam_is_on:
            self._dam = Dam(
                rate_hz=s.rate_hz, burst=s.burst, queue_len_max=s.queue_len_max,
                queue_bytes_max=s.queue_bytes_max, device_rate_hz=s.device_rate_hz,
                device_burst=s.device_burst,
                devices_max=s.devices_max if s.device_rate_hz else 1, seed=self.run.seed,
            )  # fmt: skip

    def take(self, value: Arrivals) -> Iterable[Passage]:
        """Judge arrivals."""
        self._reasons += value.reasons
        frames = value.frames
        if self._dam is None:
            self._passed += len(frames)
            self._passed_bytes += int(frames.size.sum())
            return [Passage(frames, np.zeros(len(frames), np.uint8), frames)]
        judged = self._dam.arrive(frames)
        return [Passage(frames, judged.marks, judged.released)]

    def end(self) -> Iterable[Passage]:
        """Release what is queued."""
        if self._dam is None:
            return []
        released = self._dam.drain().released
        if released is None:
            return []
        return [Passage(released.take(slice(0, 0)), np.zeros(0, np.uint8), released)]

    def state(self) -> Any:
        """Return the dam and the account."""
        dam = self._dam.snapshot() if self._dam is not None else None
        return dam, self._reasons, self._passed, self._passed_bytes

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        saved, self._reasons, self._passed, self._passed_bytes = state
        if self._dam is not None:
            self._dam.restore(saved)

    def totals(self) -> dict[str, int]:
        """Return the account of packets and frames."""
        counts = {f"ignored.{r.name.lower()}": int(self._reasons[r]) for r in IGNORED}
        counts |= {f"malformed.{r.name.lower()}": int(self._reasons[r]) for r in MALFORMED}
        if self._dam is None:
            return counts | {
                "frames": self._passed,
                "passed": self._passed,
                "passed_bytes": self._passed_bytes,
            }
        dam, account = self._dam, self._dam.counts
        counts |= {f"dropped.{d.name.lower()}": int(account.dropped[d]) for d in DROPS}
        return counts | {
            "frames": account.arrived,
            "passed": account.passed,
            "passed_bytes": account.passed_bytes,
            "queued": account.queued,
            "queue_depth": dam.depth,
            "queue_bytes": dam.depth_bytes,
            "queued_max": dam.depth_max,
            "tokens": int(dam.tokens),
            "rate_hz": dam.rate_hz,
        }


class FeatureStep(Step[Passage, RowBatch]):
    """Counts every arrival, passed or not, into the window of its key."""

    name = "features"

    def build(self) -> None:
        """Make empty windows."""
        s = self.run.settings.features
        self._windows = WindowFeatures(
            window_ns=s.window_ns, keys_max=s.keys_max, key_idle_s=s.key_idle_s,
            seed=self.run.seed, track=self.run.scores is not None,
        )  # fmt: skip

    def take(self, value: Passage) -> Iterable[RowBatch]:
        """Count arrivals."""
        rows = self._windows.update(value.arrivals)
        return () if rows is None else (rows,)

    def end(self) -> Iterable[RowBatch]:
        """Close the last window."""
        rows = self._windows.finish()
        return () if rows is None else (rows,)

    def state(self) -> Any:
        """Return the windows."""
        return self._windows.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._windows.restore(state)

    def totals(self) -> dict[str, int]:
        """Return how many keys are remembered."""
        return {"keys": self._windows.keys}


class ScoreStep(Step[RowBatch, Scored]):
    """Scores rows, then learns them; holds the only broad `except` (law 3)."""

    name = "score"

    def build(self) -> None:
        """Make the detectors."""
        by_device = self.run.settings.capture.by == "device"
        self._judge = Judge(self.run.settings.anomaly, is_device=by_device)
        self._totals: Counter[str] = Counter()

    def take(self, value: RowBatch) -> Iterable[Scored]:
        """Judge rows."""
        try:
            judged = self._judge.judge(value)
        except Exception as error:  # noqa: BLE001  whatever a model raises, packets flow on
            reason = type(error).__name__
            if self._totals[f"unscored.{reason}"] == 0:
                self.run.notify(f"the model failed ({reason}: {error}); such rows are unscored")
            self._totals[f"unscored.{reason}"] += len(value)
            return ()
        warming = int(np.isnan(judged.scores).sum())
        self._totals["rows_warming"] += warming
        self._totals["rows_scored"] += len(value) - warming
        self._totals["findings"] += len(judged.findings)
        self._totals["findings_suppressed"] += judged.suppressed
        scores = judged.scores[value.packet_row].astype(np.float32)
        batch = ScoreBatch(value.packet_index, scores)
        return (Scored(findings.encode(judged.findings), batch),)

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
        """Count released packets."""
        if value.released is None:
            return ()
        ended = self._table.observe(value.released)
        return (records.flows(ended),) if len(ended) else ()

    def end(self) -> Iterable[RecordBatch]:
        """End every flow."""
        ended = self._table.finish()
        return (records.flows(ended),) if len(ended) else ()

    def state(self) -> Any:
        """Return the flow table."""
        return self._table.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._table.restore(state)

    def totals(self) -> dict[str, int]:
        """Return how many flows are followed."""
        return {"flows": len(self._table)}


def readings(passage: Passage) -> list[RecordBatch]:
    """Encode released device frames as telemetry records."""
    if passage.released is None or len(passage.released) == 0:
        return []
    with STAGE_SECONDS.labels("encode").time():
        return [records.telemetry(passage.released)]
