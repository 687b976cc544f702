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
from core.reasons import FIRST_MALFORMED, REASONS
from core.shards import split
from core.wire import as_raw
from flows.items import Arrivals
from flows.steps import shard_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch, HeaderBatch, PacketBatch, RecordBatch
    from core.kinds import Kind
    from core.readings import Readings
    from flows.items import Decoded
    from flows.run import Run


def frame(run: Run) -> Callable[[Decoded], Iterable[tuple[str, Arrivals]]]:
    """Return the step that takes frames out of packets and sends each to its shard.

    Args:
        run: What the steps share.
    """
    dead_letters, shards = _dead_letters(run), run.settings.run.shards

    def step(decoded: Decoded) -> list[tuple[str, Arrivals]]:
        with STAGE_SECONDS.labels("frame").time():
            packets = decoded.packets
            reason, frames = _judged(run, packets, decoded.headers)
            rejects = _rejects(packets, decoded.headers, reason, dead_letters)
            if run.evidence is not None:
                run.evidence.see(packets, decoded.headers, frames)
            return _to_shards(frames, reason, rejects, shards)

    return step


def _rejects(
    packets: PacketBatch, headers: HeaderBatch, reason: NDArray[np.uint8], topic: str
) -> RecordBatch | None:
    """Return the malformed packets as dead letters: datagrams as the packets they were."""
    bad = np.flatnonzero(reason >= FIRST_MALFORMED)
    if bad.size == 0:
        return None
    return records.rejects(as_raw(packets.take(bad), headers.take(bad)), reason[bad], topic)


def deal(run: Run, kind: Kind) -> Callable[[Readings], Iterable[tuple[str, Arrivals]]]:
    """Return the step that makes arrivals of what a topic holds.

    Args:
        run: What the steps share.
        kind: What the topic holds.
    """
    dead_letters, shards = _dead_letters(run), run.settings.run.shards

    def again(rows: Readings) -> tuple[NDArray[np.uint8], FrameBatch]:
        """Judge the packets of dead letters again."""
        packets = rows.packets()
        reason, frames = _judged(run, packets, decode_headers(packets))
        # What is no packet is of no link type that decodes, and keeps the reason it came with.
        reason = np.where(rows.reason == 0, reason, rows.reason)
        return reason, replace(frames, source=rows.source[frames.index - rows.index])

    def step(rows: Readings) -> list[tuple[str, Arrivals]]:
        with STAGE_SECONDS.labels("frame").time():
            reason, frames = again(rows) if kind.is_of_packets else (rows.reason, rows.frames())
            rejects = records.rejects(rows.packets(), reason, dead_letters, rows.source)
            return _to_shards(frames, reason, rejects, shards)

    return step


def _judged(
    run: Run, packets: PacketBatch, headers: HeaderBatch
) -> tuple[NDArray[np.uint8], FrameBatch]:
    """Return why each packet is no frame, 0 where it is one, and the frames."""
    capture, bytes_max = run.settings.capture, run.settings.frame.body_bytes_max
    if run.payloads is not None:
        return run.payloads.frames(packets, headers, run.port, bytes_max)
    if capture.by == "device":
        return device_frames(packets, headers, run.port, bytes_max)
    return host_frames(packets, headers)


def _dead_letters(run: Run) -> str:
    return topics.TELEMETRY_DLQ if run.settings.capture.by == "device" else topics.FLOWS_DLQ


def _to_shards(
    frames: FrameBatch, reason: NDArray[np.uint8], rejects: RecordBatch | None, shards: int
) -> list[tuple[str, Arrivals]]:
    """Send what a batch holds to the shards of its keys.

    Args:
        frames: The arrivals in it.
        reason: `(n,) uint8`; why each of its rows is no arrival, 0 where it is one.
        rejects: Dead letters of what is malformed in it.
        shards: Number of shards, at least 1.
    """
    counts = np.bincount(reason, minlength=REASONS)
    parts = dict(split(frames, shards))
    # What is no frame has no key; it is always the first shard's, whoever else is there.
    ours = parts.pop(0) if 0 in parts else frames.take(slice(0, 0))
    nothing = np.zeros(REASONS, np.int64)
    others = [(shard, Arrivals(part, nothing, None)) for shard, part in parts.items()]
    return [(shard_name(shard), each)
            for shard, each in [(0, Arrivals(ours, counts, rejects)), *others]]  # fmt: skip
