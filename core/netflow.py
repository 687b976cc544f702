"""Network flows: packets of a host summed up by conversation.

Laws:

1. A flow is the packets between two ends (address and port) of one protocol; both directions are
   one flow, and the end that sent its first packet is its source. Packets without IP are flows
   between MAC addresses, so that the packets of all flows add up to the packets observed.
2. A flow ends after `idle_s` of silence, is reported in part every `active_s`, and ends early when
   a newer one needs its place; the record says which. All of it by packet time alone.
3. A part of a flow that is reported by its age keeps the source of the whole.
4. Of ICMP, a request and its answer are one flow; any other message is a flow of one direction.
5. Ports of a fragmented datagram are known only in its first piece; the others are a flow of
   their own, with ports 0.
6. A table sees the packets of its shard, and a shard is chosen by source. With several shards the
   two directions of a conversation may be two flows; their Community ID is the same.

Source: RFC 7011 (IPFIX) for the terms; idle and active timeouts as in Cisco NetFlow v9, RFC 3954.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.keytable import KeyTable, oldest
from core.netflow_kernels import (
    BYTES,
    BYTES_BACK,
    DPORT,
    ETHERTYPE,
    FIRST_NS,
    FLAGS,
    FLAGS_BACK,
    LAST_NS,
    NAMES,
    NUMBERS,
    ORDINAL,
    PACKETS,
    PACKETS_BACK,
    PROTO,
    SOURCE,
    SPORT,
    WORDS,
    end_all,
    expire,
    key_many,
    observe,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch
    from core.packing import Columns

SECOND_NS = 1_000_000_000

# Of the numbers of a live flow: those that any of its packets may change, and those that none does.
_CHANGING = [
    FIRST_NS, LAST_NS, PACKETS, BYTES, PACKETS_BACK, BYTES_BACK, FLAGS, FLAGS_BACK, ORDINAL
]  # fmt: skip
_LASTING = [PROTO, SPORT, DPORT, ETHERTYPE]


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Ended flows, in the order in which they ended.

    Attributes:
        numbers: `(n, 14) int64`; columns of `core.netflow_kernels`, `FIRST_NS` … `END`.
        names: `(n, 5) uint64`; source and destination host, and the file of the first packet.
    """

    numbers: NDArray[np.int64]
    names: NDArray[np.uint64]

    def __len__(self) -> int:
        return int(self.numbers.shape[0])


class FlowTable:
    """The live flows of one shard.

    Args:
        flows_max: Flows followed at once; the one silent longest ends when it needs the place.
        idle_s: Silence that ends a flow, seconds.
        active_s: Age at which a flow is reported in part, seconds.
        seed: Secret of the table's hash; results do not depend on it.
    """

    def __init__(self, *, flows_max: int, idle_s: int, active_s: int, seed: int) -> None:
        self._table = KeyTable.create(flows_max, WORDS, seed)
        self._flows = (
            np.zeros((flows_max, NUMBERS), np.int64),
            np.zeros((flows_max, NAMES), np.uint64),
        )
        self._clock = np.zeros(1, np.int64)
        self._idle_ns, self._active_ns = idle_s * SECOND_NS, active_s * SECOND_NS

    def __len__(self) -> int:
        return len(self._table)

    def observe(self, frames: FrameBatch) -> FlowBatch:
        """Count packets into flows; return the flows that ended on the way."""
        # Whatever ends was live before, or was begun here, and a packet begins at most one.
        numbers, names = out = _room(len(self) + len(frames))
        count = observe(
            self._table.arrays(), self._flows, self._clock, self._idle_ns, self._active_ns,
            (frames.clock_ns, frames.key_hi, frames.key_lo, frames.peer_hi, frames.peer_lo,
             frames.proto, frames.sport, frames.dport, frames.ethertype, frames.tcp_flags,
             frames.size, frames.source, frames.ordinal),
            np.zeros(WORDS, np.uint64), out,
        )  # fmt: skip
        return FlowBatch(numbers[:count], names[:count])

    @property
    def next_ns(self) -> int | None:
        """The time at which a tick ends a flow; `None` while there is none."""
        slot = int(oldest(self._table.arrays()))
        return int(self._flows[0][slot, LAST_NS]) + self._idle_ns if slot >= 0 else None

    def tick(self, now_ns: int) -> FlowBatch:
        """Let time pass without a packet; return the flows that ended, as the next one would."""
        numbers, names = out = _room(len(self))
        count = expire(self._table.arrays(), self._flows, now_ns, self._idle_ns, out, 0)
        return FlowBatch(numbers[:count], names[:count])

    def finish(self) -> FlowBatch:
        """End every live flow, at the end of input."""
        numbers, names = out = _room(len(self))
        count = end_all(self._table.arrays(), self._flows, out)
        return FlowBatch(numbers[:count], names[:count])

    def snapshot(self) -> int:
        """Return the latest time seen; flows are kept in a log of their own."""
        return int(self._clock[0])

    def restore(self, state: int) -> None:
        """Go on from a snapshot; what the log holds is loaded next."""
        self._clock[0] = state

    @property
    def table(self) -> KeyTable:
        """Keys of flows; see `core.row_log.Rows`, also for the next three."""
        return self._table

    def touched_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return what packets change of their flow, the first of a part among them."""
        numbers, names = self._flows
        return {"counts": numbers[slots][:, _CHANGING], "source": names[slots, SOURCE]}

    def whole_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return the ends of flows, which are their keys."""
        numbers, names = self._flows
        return {"kind": numbers[slots][:, _LASTING], "ends": names[slots, :SOURCE]}

    def load(self, slots: NDArray[np.int64], columns: Columns) -> None:
        """Hold these flows."""
        if slots.size == 0:
            return
        numbers, names = self._flows
        numbers[slots[:, None], _CHANGING] = columns["counts"]
        numbers[slots[:, None], _LASTING] = columns["kind"]
        names[slots, SOURCE] = columns["source"]
        names[slots, :SOURCE] = columns["ends"]
        keys = np.empty((slots.size, WORDS), np.uint64)
        key_many(self._flows, slots, keys)
        self._table.place(keys, slots)


def _room(rows: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    return np.empty((rows, NUMBERS), np.int64), np.empty((rows, NAMES), np.uint64)
