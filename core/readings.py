"""Readings: records of a topic read back, one row for each, whatever the topic.

Laws:

1. Every record is a row with a reason (`core.reasons`): 0 when it is an arrival, or, in a topic of
   dead letters, a packet that can be judged again. A record that is none of its topic is
   `Reason.RECORD`, and its row holds its bytes.
2. Only a row whose reason is 0 has a time of its own that others may be ordered by.
3. What a topic does not tell (the peer of a device, the number of packets of a flow that have the
   port of the first) is not made up: such columns are 0, or -1 for a protocol.

Not here: how records are decoded (`core.telemetry_in`, `core.flows_in`, `core.letters_in`), and in
which order they come (`core.merge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import Columns, FrameBatch, PacketBatch, gather
from core.link import LINK_USER0

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from core.values import Values

_ARRIVAL = {name: kind for name, kind in FrameBatch.COLUMNS.items() if name != "index"}


@dataclass(slots=True)
class Readings(Columns):
    """Records of a topic as rows.

    Attributes:
        arena: `uint8`; holds records, or the packets that were in them.
        index: Number, in the whole replay, of the first row of this batch, from 0.
        reason: `(n,) uint8`; `core.reasons.Reason`.
        at_ns, clock_ns, key_hi, key_lo, peer_hi, peer_lo, proto, sport, dport, ethertype,
        tcp_flags, size, body, body_len, seq, source, ordinal: as in `FrameBatch`.
        start: `(n,) int64`, length: `(n,) int32`; where in the arena the record or packet lies.
        wirelen, linktype: `(n,) int32`; as in `PacketBatch`. A record is a packet of
            `LINK_USER0`.
        partition, next_offset, next_row: as in `core.values.Values`.
    """

    arena: NDArray[np.uint8]
    index: int
    reason: NDArray[np.uint8]
    at_ns: NDArray[np.int64]
    clock_ns: NDArray[np.int64]
    key_hi: NDArray[np.uint64]
    key_lo: NDArray[np.uint64]
    peer_hi: NDArray[np.uint64]
    peer_lo: NDArray[np.uint64]
    proto: NDArray[np.int32]
    sport: NDArray[np.int32]
    dport: NDArray[np.int32]
    ethertype: NDArray[np.int32]
    tcp_flags: NDArray[np.uint8]
    size: NDArray[np.int32]
    body: NDArray[np.int64]
    body_len: NDArray[np.int32]
    seq: NDArray[np.uint32]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    wirelen: NDArray[np.int32]
    linktype: NDArray[np.int32]
    partition: NDArray[np.int32]
    next_offset: NDArray[np.int64]
    next_row: NDArray[np.int32]

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "reason": np.uint8,
        **_ARRIVAL,
        "start": np.int64,
        "length": np.int32,
        "wirelen": np.int32,
        "linktype": np.int32,
        "partition": np.int32,
        "next_offset": np.int64,
        "next_row": np.int32,
    }

    def __post_init__(self) -> None:
        self.check()

    @classmethod
    def of(cls, values: Values, index: int = 0) -> Readings:
        """Return records that are still to be decoded: their bytes, time and place.

        Args:
            values: The records; the rows share their arena.
            index: Number of the first in the whole replay.
        """
        count = len(values)
        columns: dict[str, Any] = {
            name: np.zeros(count, kind) for name, kind in cls.COLUMNS.items()
        }
        columns |= {name: getattr(values, name) for name in values.COLUMNS}
        # Those that a decoder corrects are not the messages' any more.
        columns |= {name: columns[name].copy() for name in ("at_ns", "source", "ordinal")}
        columns["proto"] = np.full(count, -1, np.int32)
        columns["wirelen"] = values.length.copy()
        columns["linktype"] = np.full(count, LINK_USER0, np.int32)
        return cls(arena=values.arena, index=index, **columns)

    @property
    def known(self) -> NDArray[np.bool_]:
        """`(n,) bool`; whether a row has a time of its own (law 2)."""
        found: NDArray[np.bool_] = self.reason == 0
        return found

    def frames(self) -> FrameBatch:
        """Return the arrivals among the rows, over the same arena."""
        rows = np.flatnonzero(self.reason == 0)
        columns = {name: getattr(self, name)[rows] for name in _ARRIVAL}
        return FrameBatch(arena=self.arena, index=rows + self.index, **columns)

    def packets(self) -> PacketBatch:
        """Return every row as a packet, over the same arena; `source` stays with the rows."""
        return PacketBatch(
            arena=self.arena,
            start=self.start,
            caplen=self.length,
            wirelen=self.wirelen,
            at_ns=self.at_ns,
            linktype=self.linktype,
            ordinal=self.ordinal,
            index=self.index,
            source=0,
            clock_ns=self.clock_ns,
        )


def joined(parts: Sequence[Readings]) -> Readings:
    """Join rows of several batches into one whose arena holds only theirs.

    Args:
        parts: At least one batch.

    Returns:
        Their rows one after another, over an arena that no other batch shares.
    """
    columns = {name: np.concatenate([getattr(part, name) for part in parts])
               for name in Readings.COLUMNS}  # fmt: skip
    length = columns["length"].astype(np.int64)
    start = np.cumsum(length) - length
    columns["body"] += start - columns["start"]
    columns["start"] = start
    arena = np.concatenate([gather(part.arena, part.start, part.length) for part in parts])
    # An arena is never empty, so that every row has a place to begin at.
    return Readings(arena=arena if arena.size else np.zeros(1, np.uint8), index=0, **columns)
