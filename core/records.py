"""Records: frames, flows and rejected packets as the JSON that consumers read.

Laws:

1. A record is a function of packets alone: times are packet times, identities are hashes of where
   a packet lies. A replay gives the same bytes.
2. Values are written by kernels into one buffer, sized by the worst case beforehand.
3. A body is copied byte for byte; an empty one becomes `null`, and so is not lost.

The shape of each record is `docs/schemas/`. Findings are few and are made in `core.findings`.

Source: RFC 8259; Community ID v1 for `community_id`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import FrameBatch, PacketBatch, RecordBatch
from core.community import COMMUNITY_ID_BYTES
from core.frame import ID_LEN
from core.netflow_kernels import LAST_NS, ORDINAL, SOURCE
from core.payload_out import BYTES_PER_BYTE, RECORD_BYTES_MAX, write_payloads
from core.reasons import FIRST_MALFORMED, Reason
from core.record_kernels import (
    FLOW_BYTES_MAX,
    REJECT_BYTES_MAX,
    TELEMETRY_BYTES_MAX,
    write_flows,
    write_rejects,
    write_telemetry,
)
from core.text_key import KEY_BYTES_MAX as TEXT_BYTES_MAX
from core.text_out import ADDRESS_BYTES_MAX
from core.topics import FLOWS, TELEMETRY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.netflow import FlowBatch
    from core.payloads import Payloads

KEY_BYTES_MAX = max(COMMUNITY_ID_BYTES, ADDRESS_BYTES_MAX)
"""Of flows and rejected packets; the longest reason has 16 letters."""
_REASON_NAMES = [Reason(i).name.lower() if i in list(Reason) else "" for i in range(256)]
_NAMES = np.frombuffer("".join(_REASON_NAMES).encode(), np.uint8).copy()
_NAME_END = np.cumsum([len(name) for name in _REASON_NAMES]).astype(np.int64)


class _Room:
    """Buffers for one kernel to write records to, as large as they can get at most."""

    def __init__(self, count: int, value_bytes: int, key_bytes: int) -> None:
        self._values, self._value_end = np.empty(value_bytes, np.uint8), np.empty(count, np.int64)
        self._keys, self._key_end = np.empty(key_bytes, np.uint8), np.empty(count, np.int64)
        self.arrays = self._values, self._value_end, self._keys, self._key_end

    def batch(self, topic: str, **columns: Any) -> RecordBatch:
        """Return what was written, with the columns that are known without it."""
        count = self._value_end.size
        return RecordBatch(
            topic=topic,
            values=self._values[: int(self._value_end[-1]) if count else 0],
            value_end=self._value_end,
            keys=self._keys[: int(self._key_end[-1]) if count else 0],
            key_end=self._key_end,
            **({"seq": np.zeros(count, np.uint32)} | columns),
        )


def telemetry(frames: FrameBatch) -> RecordBatch:
    """Encode device frames: `{"id","seq","data","ts"}`, keyed by device id.

    Args:
        frames: Frames in the order of delivery.

    Returns:
        One record for each frame.
    """
    count = len(frames)
    values_max = TELEMETRY_BYTES_MAX * count + int(frames.body_len.sum())
    room = _Room(count, values_max, ID_LEN * count)
    write_telemetry(
        frames.arena, frames.key_hi, frames.key_lo, frames.seq, frames.body, frames.body_len,
        frames.at_ns, *room.arrays,
    )  # fmt: skip
    return room.batch(
        TELEMETRY, at_ns=frames.at_ns, source=frames.source, ordinal=frames.ordinal, seq=frames.seq
    )


def payloads(frames: FrameBatch, how: Payloads) -> RecordBatch:
    """Encode datagrams of another format: `{"id","data","ts"}`, keyed by their text key.

    Args:
        frames: Frames in the order of delivery.
        how: How their payloads are read.

    Returns:
        One record for each frame.
    """
    count, length = len(frames), frames.body_len.astype(np.int64)
    values_max = int(BYTES_PER_BYTE * length.sum()) + RECORD_BYTES_MAX * count
    # A character more than fits may be begun.
    key_room = np.minimum(length, TEXT_BYTES_MAX) + (ADDRESS_BYTES_MAX + 4)
    room = _Room(count, values_max, int(key_room.sum()))
    write_payloads(
        how.reader, frames.arena, frames.body, frames.body_len, frames.peer_hi, frames.peer_lo,
        frames.at_ns, *room.arrays,
    )  # fmt: skip
    return room.batch(
        TELEMETRY, at_ns=frames.at_ns, source=frames.source, ordinal=frames.ordinal, has_seq=False
    )


def flows(ended: FlowBatch) -> RecordBatch:
    """Encode ended flows, keyed by Community ID, or by source where there is no IP.

    Args:
        ended: Flows in the order in which they ended.

    Returns:
        One record for each flow; its time is that of the flow's last packet.
    """
    count = len(ended)
    room = _Room(count, FLOW_BYTES_MAX * count, KEY_BYTES_MAX * count)
    write_flows(ended.numbers, ended.names, *room.arrays)
    return room.batch(
        FLOWS, at_ns=ended.numbers[:, LAST_NS].copy(), source=ended.names[:, SOURCE].copy(),
        ordinal=ended.numbers[:, ORDINAL].copy(),
    )  # fmt: skip


def rejects(
    packets: PacketBatch,
    reason: NDArray[np.uint8],
    topic: str,
    source: NDArray[np.uint64] | None = None,
) -> RecordBatch | None:
    """Encode malformed packets for a dead-letter topic, keyed by reason.

    Args:
        packets: A batch as captured.
        reason: `(n,) uint8`; the reason of each packet.
        topic: Name of the dead-letter topic.
        source: `(n,) uint64`; the file of each packet, where they are of several.

    Returns:
        One record for each malformed packet, with its captured bytes in base64, its reason, and
        where it lies; `None` when there is none.
    """
    rows = np.flatnonzero(reason >= FIRST_MALFORMED)
    count = rows.size
    if count == 0:
        return None
    bad = packets.take(rows)
    values_max = REJECT_BYTES_MAX * count + int(bad.caplen.sum()) * 4 // 3
    room = _Room(count, values_max, KEY_BYTES_MAX * count)
    source = np.full(count, packets.source, np.uint64) if source is None else source[rows]
    write_rejects(
        bad.arena, bad.start, bad.caplen, bad.wirelen, bad.at_ns, bad.linktype, bad.ordinal,
        source, reason[rows], _NAMES, _NAME_END, *room.arrays,
    )  # fmt: skip
    return room.batch(topic, at_ns=bad.at_ns, source=source, ordinal=bad.ordinal)
