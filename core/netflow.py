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
from typing import TYPE_CHECKING, Any

import numpy as np

from core.keytable import KeyTable
from core.netflow_kernels import NAMES, NUMBERS, WORDS, end_all, observe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch

SECOND_NS = 1_000_000_000


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

    def finish(self) -> FlowBatch:
        """End every live flow, at the end of input."""
        numbers, names = out = _room(len(self))
        count = end_all(self._table.arrays(), self._flows, out)
        return FlowBatch(numbers[:count], names[:count])

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the live flows."""
        slots = self._table.slots()
        return {
            "keys": self._table.snapshot(),
            "flows": tuple(column[slots] for column in self._flows),
            "clock": self._clock.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot, under any seed, in a table at least as large."""
        placed = self._table.restore(state["keys"])
        kept = placed >= 0
        for column, saved in zip(self._flows, state["flows"], strict=True):
            column[placed[kept]] = saved[kept]
        self._clock[:] = state["clock"]


def _room(rows: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    return np.empty((rows, NUMBERS), np.int64), np.empty((rows, NAMES), np.uint64)
