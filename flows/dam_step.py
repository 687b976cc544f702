"""The dam as a step: it limits the frames of a shard, and keeps the account of its packets.

Laws:

1. A command (`core.controls`) holds from the first frame of its packet time on, wherever a batch
   was cut: the batch is judged in two halves.
2. Commands wait in order of their time, bounded; the one that finds no room is refused and said so.
3. What arrives is shown to the burst predictor before it is judged: dropped or not, it arrived.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Any

import numpy as np

from core.batches import FrameBatch
from core.controls import Retune
from core.dam import Dam, Judged
from core.queue_log import QueueLog
from core.reasons import DROPS, IGNORED, MALFORMED, REASONS
from core.row_log import RowLog
from flows.items import Arrivals, Passage
from flows.keeper import Journal
from flows.steps import Step
from models.burst import BurstPredictor

RETUNES_MAX = 1_024
"""Commands that wait for their time in one shard."""

_REASONS = {f"ignored.{r.name.lower()}": int(r) for r in IGNORED}
_REASONS |= {f"malformed.{r.name.lower()}": int(r) for r in MALFORMED}
_NO_MARKS = np.zeros(0, np.uint8)
_DROPS = {f"dropped.{d.name.lower()}": int(d) for d in DROPS}


class DamStep(Step[Arrivals | Retune, Passage]):
    """Rate-limits the frames of a shard, and keeps the account of its packets."""

    name = "dam"

    def build(self) -> None:
        """Make the dam, if it is on."""
        s = self.run.settings.dam
        self._reasons = np.zeros(REASONS, np.int64)
        self._dam: Dam | None = None
        self._passed = self._passed_bytes = 0
        self._waiting: list[Retune] = []
        self._now_ns = -(1 << 63)
        self._burst = BurstPredictor()
        if self.run.settings.dam_is_on:
            self._dam = Dam(
                rate_hz=s.rate_hz, burst=s.burst, queue_len_max=s.queue_len_max,
                queue_bytes_max=s.queue_bytes_max, device_rate_hz=s.device_rate_hz,
                device_burst=s.device_burst,
                devices_max=s.devices_max if s.device_rate_hz else 1, seed=self.run.seed,
            )  # fmt: skip

    def take(self, value: Arrivals | Retune) -> Iterable[Passage]:
        """Judge arrivals, or take a command."""
        if isinstance(value, Retune):
            return self._command(value)
        self._reasons += value.reasons
        frames = value.frames
        if value.tick_ns:
            return self._tick(value.tick_ns, frames)
        if self._dam is None:
            self._passed += len(frames)
            self._passed_bytes += int(frames.size.sum())
            return [Passage(frames, np.zeros(len(frames), np.uint8), frames)]
        if len(frames):
            self._now_ns = max(self._now_ns, int(frames.clock_ns.max()))
        passages = []
        while self._waiting and self._waiting[0].at_ns <= self._now_ns:
            command = self._waiting.pop(0)
            # The first frame of its time or later: none can be before this batch.
            first = int(np.argmax(frames.clock_ns >= command.at_ns))
            passages.append(self._judge(self._dam, frames.take(slice(0, first))))
            passages += self._retune(self._dam, command)
            frames = frames.take(slice(first, None))
        passages.append(self._judge(self._dam, frames))
        return passages

    def _tick(self, now_ns: int, nothing: FrameBatch) -> list[Passage]:
        """Let time pass: commands whose time has come, and what the queue releases."""
        if self._dam is None:
            return [Passage(nothing, _NO_MARKS, None, now_ns, now_ns)]
        self._now_ns = max(self._now_ns, now_ns)
        passages = []
        while self._waiting and self._waiting[0].at_ns <= self._now_ns:
            passages += self._retune(self._dam, self._waiting.pop(0))
        self._burst.tick(now_ns)
        judged = self._dam.tick(now_ns)
        released_ns = 0 if self._dam.depth else now_ns
        passage = Passage(nothing, judged.marks, judged.released, now_ns, released_ns)
        return [*passages, passage]

    @property
    def next_ns(self) -> int | None:
        """When a frame leaves the queue, or the next command holds."""
        times = [command.at_ns for command in self._waiting[:1]]
        if self._dam is not None and (next_ns := self._dam.next_ns) is not None:
            times.append(next_ns)
        return min(times, default=None)

    def _judge(self, dam: Dam, frames: FrameBatch) -> Passage:
        self._burst.arrive(frames.clock_ns, dam.rate_hz)
        judged = dam.arrive(frames)
        return Passage(frames, judged.marks, judged.released)

    def _command(self, command: Retune) -> Iterable[Passage]:
        """Obey at once, or when the time has come."""
        if self._dam is None:
            self.run.notify("a new rate was asked for, but the dam is off; set dam.enabled")
            return []
        if command.at_ns <= self._now_ns or command.at_ns == 0:
            return self._retune(self._dam, command)
        if len(self._waiting) >= RETUNES_MAX:
            self.run.notify(f"{RETUNES_MAX} new rates wait for their time; one more was refused")
            return []
        insort(self._waiting, command, key=lambda waiting: waiting.at_ns)
        return []

    @staticmethod
    def _retune(dam: Dam, command: Retune) -> list[Passage]:
        return _released(dam.retune(command.rate_hz, command.burst, command.at_ns))

    def end(self) -> Iterable[Passage]:
        """Release what is queued; commands of a time that never came are dropped."""
        return _released(self._dam.drain()) if self._dam is not None else []

    def journals(self) -> dict[str, Journal]:
        """Keep devices and queue in logs."""
        if self._dam is None:
            return {}
        return {"devices": RowLog(self._dam), "queue": QueueLog(self._dam)}

    def keyed(self, value: Arrivals | Retune) -> FrameBatch | None:
        """Return the frames that arrived."""
        return value.frames if isinstance(value, Arrivals) else None

    def state(self) -> Any:
        """Return bucket and totals of the dam, the account, what waits, and the predictor."""
        dam = self._dam.snapshot() if self._dam is not None else None
        account = self._reasons, self._passed, self._passed_bytes
        return dam, *account, self._waiting, self._now_ns, self._burst

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        saved, self._reasons, self._passed, self._passed_bytes, *rest = state
        self._waiting, self._now_ns, self._burst = rest
        if self._dam is not None:
            self._dam.restore(saved)

    def totals(self) -> dict[str, int]:
        """Return the account of packets and frames."""
        packets = self._reasons.tolist()
        counts = {name: packets[reason] for name, reason in _REASONS.items()}
        if self._dam is None:
            return counts | {
                "frames": self._passed,
                "passed": self._passed,
                "passed_bytes": self._passed_bytes,
            }
        dam, account = self._dam, self._dam.counts
        counts |= {name: int(account.dropped[drop]) for name, drop in _DROPS.items()}
        return counts | {
            "frames": account.arrived,
            "passed": account.passed,
            "passed_bytes": account.passed_bytes,
            "queued": account.queued,
            "queue_depth": dam.depth,
            "queue_bytes": dam.depth_bytes,
            "queued_max": dam.depth_max,
            "tokens": dam.tokens,
            "rate_hz": dam.rate_hz,
            **self._burst.totals(),
        }


def _released(judged: Judged) -> list[Passage]:
    """Return what left the queue without an arrival."""
    frames = judged.released
    return [Passage(frames.take(slice(0, 0)), judged.marks, frames)] if frames is not None else []
