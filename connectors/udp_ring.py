"""The ring of live UDP: a thread that receives datagrams into arenas (`connectors.ring`).

Delivery guarantee: at most once. What the kernel acknowledged to nobody is lost when this process
dies: what waits in the receive buffers, in the ring, and in the graph.

Order: datagrams of one socket leave in the order in which the kernel queued them. Those of a device
keep theirs while its 4-tuple is unchanged, because the kernel then keeps them on one socket.

Laws, beside those of every ring:

1. `sent = received + kernel_dropped + ring_dropped`, once the ring has ended, for all that reached
   the sockets between `start` and the end; `>=` where the kernel joined datagrams (`joined`) and
   dropped some of them.
2. The ring itself drops in one case: at the end, what waits in the kernel for longer than `DRAIN_S`
   without an arena becoming free is received, counted and dropped.
3. It ends within 100 ms, and the time it takes to empty the receive buffers.

Sources: socket(7), udp(7), recvmmsg(2).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from connectors.ring import ROW_BYTES, Ring, RingCounts, RingOptions
from connectors.udp_receiver import Receiver
from connectors.udp_socket import UdpSocket
from core.datagrams import (
    BYTES,
    DATAGRAMS,
    JOINED,
    KERNEL_DROPPED,
    TRUNCATED,
    Datagrams,
)

if TYPE_CHECKING:
    from connectors.arenas import Arena
    from core.errors import PenstockError

_TURN_CALLS = 16
"""Calls in a row for one socket, before the others have their turn."""


class UdpCounts(RingCounts, frozen=True, kw_only=True):
    """What became of datagrams up to now.

    Of joined datagrams `kernel_dropped` is a lower bound (`connectors.udp_socket`).

    Attributes:
        joined: Datagrams received that the kernel had joined with others into one message.
        errors: Errors of the network that sockets told of; none of them cost a datagram.
    """

    joined: int
    errors: int


class UdpRing(Ring[UdpSocket, Datagrams]):
    """Receives in a daemon thread from `start` until `stopping`, into batches to be taken."""

    def __init__(
        self, sockets: list[UdpSocket], options: RingOptions, stopping: threading.Event
    ) -> None:
        """Set memory aside.

        Args:
            sockets: Open sockets; the ring closes them when it ends.
            options: See `RingOptions`.
            stopping: Ends the ring.
        """
        super().__init__("udp", sockets, Datagrams.COLUMNS, options.bytes_max, options, stopping)
        self._receiver = Receiver(options.bytes_max)

    def counts(self) -> UdpCounts:
        """Return what became of datagrams up to now."""
        seen = self._sums()
        kept = seen - self._dropped
        return UdpCounts(
            received=int(kept[DATAGRAMS]),
            received_bytes=int(kept[BYTES]),
            truncated=int(kept[TRUNCATED]),
            joined=int(kept[JOINED]),
            kernel_dropped=int(seen[KERNEL_DROPPED]),
            ring_dropped=int(self._dropped[DATAGRAMS]),
            errors=self._receiver.errors,
        )

    def _turn(self, socket: UdpSocket) -> bool:
        """Receive from one socket; tell whether it may have more."""
        for _ in range(_TURN_CALLS):
            if self._arena() is None:
                return True
            count = self._receiver.receive(socket)
            if not self._store():
                return True
            if count < self._receiver.messages_max:
                return False
        return True

    def _store(self) -> bool:
        """Unpack what was received; tell whether there were arenas enough."""
        while self._receiver.pending:
            arena = self._arena()
            if arena is None:
                return False
            if not self._receiver.unpack(arena):
                self._hand_over()
        return True

    def _idle(self) -> None:
        """Ask what was dropped: SO_RXQ_OVFL tells of it with the next message only."""
        for socket in self._sockets:
            socket.count_drops()

    def _batch(self, arena: Arena, index: int) -> Datagrams:
        dropped = int(self._sums()[KERNEL_DROPPED])
        return Datagrams(index=index, kernel_dropped=dropped, **arena.filled())

    def _drain(self) -> PenstockError | None:
        """Refuse what comes, and empty the sockets of what came before."""
        for socket in self._sockets:
            socket.refuse()
        kept = self._store()
        for socket in self._sockets:
            while self._receiver.pending or self._receiver.receive(socket):
                # What follows a datagram that was dropped is dropped too: one gap, at the end.
                kept = kept and self._store()
                if not kept:
                    self._scrap()
        return None

    def _scrap(self) -> None:
        """Count what was received, and drop it."""
        before = self._sums()
        while self._receiver.pending:
            self._scratch.rows = self._scratch.used = 0
            self._receiver.unpack(self._scratch)
        self._dropped += self._sums() - before

    def _close(self) -> None:
        for socket in self._sockets:
            with suppress(OSError):  # one that failed has said so
                socket.count_drops()
            socket.close()

    def _lasts_s(self, rate_hz: float) -> float:
        granted = min(each.granted_bytes for each in self._sockets)
        return granted / ROW_BYTES / max(rate_hz, 1.0)

    def _kernel_bytes(self) -> int:
        waiting = 0
        for socket in self._sockets:
            with suppress(OSError):  # closed meanwhile
                waiting += socket.waiting_bytes()
        return waiting
