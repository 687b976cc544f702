"""Items: what flows between the steps of the graph.

Law: an item is a batch for one shard, or a command to one shard; it is never changed after it was
handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from connectors.scores import ScoreBatch
    from core.batches import FrameBatch, HeaderBatch, PacketBatch, RecordBatch
    from core.sighting import Sighting
    from models.features import RowBatch


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
        reasons: `(REASONS,) int64`; packets by reason, for the first shard only.
        rejects: Malformed packets as records, likewise.
        tick_ns: The time it has become when there are no frames (`core.batches.Intake`); 0 says
            nothing.
    """

    frames: FrameBatch
    reasons: NDArray[np.int64]
    rejects: RecordBatch | None
    tick_ns: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """What the dam made of arrivals: all of them with their marks, and those now released.

    Attributes:
        arrivals: Every arrival once, in order; what models learn from, so that a throttled flood
            is still seen.
        marks: `(len(arrivals),) uint8`; `core.reasons.Drop` of each.
        released: Frames to deliver now, some of which may have arrived earlier.
        tick_ns: As in `Arrivals`, for who looks at arrivals.
        released_ns: Likewise for who looks at what is released; 0 while earlier frames wait.
    """

    arrivals: FrameBatch
    marks: NDArray[np.uint8]
    released: FrameBatch | None
    tick_ns: int = 0
    released_ns: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What became known of a shard when windows closed, or time passed.

    Attributes:
        rows: Closed rows, none in a mere tick.
        until_ns: Begin of the window that is open; those before are over.
        sightings: What a watch saw in those that are over, in the order of time.
    """

    rows: RowBatch | None
    until_ns: int
    sightings: list[Sighting]


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model made of rows."""

    findings: RecordBatch | None
    scores: ScoreBatch | None
