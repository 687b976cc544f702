"""Dealing: what a source hands on becomes arrivals, each at its shard.

Law: every row of a batch is in exactly one shard's frames, or in the count of its reason, which the
first shard keeps together with the dead letters of the malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from connectors.metrics import STAGE_SECONDS
from core import records, topics
from core.frame import device_frames, host_frames
from core.headers import decode_headers
from core.reasons import REASONS
from core.shards import split
from flows.items import Arrivals
from flows.steps import shard_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch, RecordBatch
    from core.kinds import Kind
    from core.readings import Readings
    from flows.run import Run


def deal(run: Run, kind: Kind) -> Callable[[Readings], Iterable[tuple[str, Arrivals]]]:
    """Return the step that makes arrivals of what a topic holds.

    Args:
        run: What the steps share.
        kind: What the topic holds.
    """
    capture, shards = run.settings.capture, run.settings.run.shards
    body_bytes_max = run.settings.frame.body_bytes_max
    by_device = capture.by == "device"
    dead_letters = topics.TELEMETRY_DLQ if by_device else topics.FLOWS_DLQ

    def judged(rows: Readings) -> tuple[NDArray[np.uint8], FrameBatch]:
        """Judge the packets of dead letters again."""
        packets = rows.packets()
        headers = decode_headers(packets)
        if by_device:
            reason, frames = device_frames(packets, headers, capture.port, body_bytes_max)
        else:
            reason, frames = host_frames(packets, headers)
        # What is no packet is of no link type that decodes, and keeps the reason it came with.
        reason = np.where(rows.reason == 0, reason, rows.reason)
        return reason, replace(frames, source=rows.source[frames.index - rows.index])

    def step(rows: Readings) -> list[tuple[str, Arrivals]]:
        with STAGE_SECONDS.labels("frame").time():
            reason, frames = judged(rows) if kind.is_of_packets else (rows.reason, rows.frames())
            rejects = records.rejects(rows.packets(), reason, dead_letters, rows.source)
            return to_shards(frames, np.bincount(reason, minlength=REASONS), rejects, shards)

    return step


def to_shards(
    frames: FrameBatch, counts: NDArray[np.int64], rejects: RecordBatch | None, shards: int
) -> list[tuple[str, Arrivals]]:
    """Send what a batch holds to the shards of its keys.

    Args:
        frames: The arrivals in it.
        counts: `(REASONS,) int64`; its rows by reason.
        rejects: Dead letters of what is malformed in it.
        shards: Number of shards, at least 1.
    """
    parts = dict(split(frames, shards))
    # What is no frame has no key; it is always the first shard's, whoever else is there.
    ours = parts.pop(0) if 0 in parts else frames.take(slice(0, 0))
    nothing = np.zeros(REASONS, np.int64)
    others = [(shard, Arrivals(part, nothing, None)) for shard, part in parts.items()]
    return [(shard_name(shard), each)
            for shard, each in [(0, Arrivals(ours, counts, rejects)), *others]]  # fmt: skip
