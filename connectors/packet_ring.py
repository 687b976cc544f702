"""The ring of packet sockets: a thread that copies what the kernel captured into arenas.

Delivery guarantee: at most once. What waits in the kernel's blocks, in the ring and in the graph is
lost when this process dies.

Order: packets of one socket leave in the order in which the kernel put them down. Where several
sockets share an interface, those of one flow, in both directions, come to one of them.

Laws, beside those of every ring (`connectors.ring`):

1. `matched = received + filtered + kernel_dropped + ring_dropped`, to the packet, once the ring has
   ended: `matched` passed the filter on the interface between `open_sockets` and the end, and
   `filtered` is what the kernel could not judge, because it had taken a tag off
   (`core.bpf_live`), and the filter then rejected.
2. A packet waits in the kernel for the time a block may take to fill (`PacketOptions.block_ms`) and
   while the thread gathers, while arenas are free and it gets a processor.
3. An interface that goes down or away ends the ring: what was captured before is handed over, and
   then its error is raised.

Sources: packet(7); Linux Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from connectors.clock import monotonic_ns, sleep_until
from connectors.packet_socket import PacketSocket
from connectors.ring import ROW_BYTES, Ring, RingCounts, RingOptions
from core.batches import PacketBatch
from core.errors import SourceError
from core.tpacket import BYTES, COLUMNS, FILTERED, LOST, PACKETS, ROWS, TRUNCATED, USED, walk

if TYPE_CHECKING:
    from connectors.arenas import Arena
    from core.errors import PenstockError

_TURN_WALKS = 4
"""Walks in a row over one ring, before the others have their turn."""
_COUNT_TURNS = 64
"""Turns after which the kernel is asked what it dropped; also whenever nothing comes."""
_DRAIN_WAITS = 25
"""How many times `block_ms` the end waits for a block that the kernel is still filling; kernels
without timers of high resolution take up to two of their ticks."""


class PacketCounts(RingCounts, frozen=True, kw_only=True):
    """What became of packets up to now; exact once the ring has ended.

    Attributes:
        filtered: Packets with a VLAN tag that the filter rejected here.
        frozen: How often the kernel found all its blocks full.
        matched: All that passed the filter in the kernel.
    """

    filtered: int
    frozen: int
    matched: int


class PacketRing(Ring[PacketSocket, PacketBatch]):
    """Receives in a daemon thread from `start` until `stopping`, into batches to be taken."""

    def __init__(
        self, sockets: list[PacketSocket], options: RingOptions, stopping: threading.Event
    ) -> None:
        """Set memory aside.

        Args:
            sockets: Open sockets; the ring closes them when it ends.
            options: See `RingOptions`.
            stopping: Ends the ring.
        """
        snaplen = max(each.options.snaplen for each in sockets)
        super().__init__("packet", sockets, COLUMNS, snaplen, options, stopping)
        self._failure: SourceError | None = None
        self._turns = self._waiting_bytes = 0
        # The first call of a kernel takes long, and no packet is to wait for it; of no block here.
        none, blank = np.zeros(0, np.uint8), self._scratch
        one = sockets[0]
        walk(
            none, none.view(np.uint32), 1, one.rule, one.program, one.mem, one.place.copy(),
            one.tally, blank.memory, *blank.columns.values(),
        )  # fmt: skip

    def counts(self) -> PacketCounts:
        """Return what became of packets up to now."""
        seen = self._sums()
        kept = seen - self._dropped
        return PacketCounts(
            received=int(kept[PACKETS]),
            received_bytes=int(kept[BYTES]),
            truncated=int(kept[TRUNCATED]),
            filtered=int(seen[FILTERED]),
            kernel_dropped=sum(each.kernel_dropped for each in self._sockets),
            ring_dropped=int(self._dropped[PACKETS] + seen[LOST]),
            frozen=sum(each.frozen for each in self._sockets),
            matched=sum(each.matched for each in self._sockets),
        )

    def _receive(self) -> None:
        try:
            super()._receive()
        except SourceError as error:  # to be raised when what came before it was handed over
            self._failure = error

    def _turn(self, socket: PacketSocket) -> bool:
        """Walk over the ring of one socket; tell whether it may have more."""
        self._turns += 1
        if self._turns % _COUNT_TURNS == 0:
            self._count()
        if code := socket.failure():
            raise SourceError(_line(socket, code))
        for _ in range(_TURN_WALKS):
            arena = self._arena()
            if arena is None:
                return True
            if self._walk(socket, arena):
                return False
            self._hand_over()
        return True

    def _walk(self, socket: PacketSocket, arena: Arena) -> bool:
        """Copy packets into an arena, behind what is there; tell whether it held all there were."""
        place, block_bytes = socket.place, socket.options.block_bytes
        place[ROWS], place[USED] = arena.rows, arena.used
        is_empty = walk(
            socket.ring, socket.words, block_bytes, socket.rule, socket.program, socket.mem,
            place, socket.tally, arena.memory, *arena.columns.values(),
        )  # fmt: skip
        arena.rows, arena.used = int(place[ROWS]), int(place[USED])
        return bool(is_empty)

    def _drain(self) -> PenstockError | None:
        """Let nothing more in, and empty the rings of what came before."""
        for socket in self._sockets:
            socket.refuse()
        kept = True
        for socket in self._sockets:
            for _ in range(_DRAIN_WAITS):
                # The kernel hands over the block it was filling when the time of that is up.
                sleep_until(monotonic_ns() + socket.options.block_ms * 1_000_000)
                # What follows a packet that was dropped is dropped too: one gap, at the end.
                kept = kept and self._emptied(socket)
                if not kept:
                    self._scrap(socket)
                socket.count()
                if not socket.outstanding:
                    break
            # Blocks that never came; no kernel is known to do that.
            socket.tally[LOST] += socket.outstanding
        return self._failure

    def _emptied(self, socket: PacketSocket) -> bool:
        """Take all there is in the ring of a socket; tell whether there were arenas enough."""
        while (arena := self._arena()) is not None:
            if self._walk(socket, arena):
                return True
            self._hand_over()
        return False

    def _idle(self) -> None:
        self._count()

    def _scrap(self, socket: PacketSocket) -> None:
        """Count what is in the ring of a socket, and drop it."""
        before, is_empty = self._sums(), False
        while not is_empty:
            self._scratch.rows = self._scratch.used = 0
            is_empty = self._walk(socket, self._scratch)
        self._dropped += self._sums() - before

    def _batch(self, arena: Arena, index: int) -> PacketBatch:
        ordinal = np.arange(index, index + arena.rows)
        return PacketBatch(ordinal=ordinal, index=index, source=0, **arena.filled())

    def _count(self) -> None:
        for each in self._sockets:
            each.count()
        self._waiting_bytes = sum(each.waiting_bytes() for each in self._sockets)

    def _close(self) -> None:
        for each in self._sockets:
            each.close()

    def _lasts_s(self, rate_hz: float) -> float:
        # A block is handed over when its time is up, however little is in it.
        blocks = min(each.ring.size // each.options.block_bytes for each in self._sockets)
        block_s = min(each.options.block_ms for each in self._sockets) * 1e-3
        size = min(each.ring.size for each in self._sockets)
        return min(blocks * block_s, size / ROW_BYTES / max(rate_hz, 1.0))

    def _kernel_bytes(self) -> int:
        return self._waiting_bytes


def _line(socket: PacketSocket, code: int) -> str:
    if code != errno.ENETDOWN:
        return f"packet {socket.name}: receiving failed: {os.strerror(code)}"
    return (
        f"packet {socket.name}: the interface went down or was removed; start again when it is up"
    )
