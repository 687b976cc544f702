"""The ring of live UDP: a thread that receives into arenas, and a bounded queue of full ones.

Delivery guarantee: at most once. What the kernel acknowledged to nobody is lost when this process
dies: what waits in the receive buffers, in the ring, and in the graph.

Order: datagrams of one socket leave in the order in which the kernel queued them. Those of a device
keep theirs while its 4-tuple is unchanged, because the kernel then keeps them on one socket.

Laws:

1. `sent = received + kernel_dropped + ring_dropped`, once the ring has ended, for all that reached
   the sockets between `start` and the end; `>=` where the kernel joined datagrams (`joined`) and
   dropped some of them.
2. When no arena is free, nothing is received: the receive buffers of the kernel fill and it drops
   what is newest, and counts it. To receive only to drop would take the processor from whoever is
   too slow already. The ring itself drops in one case: at the end, what waits in the kernel for
   longer than `DRAIN_S` without an arena becoming free is received, counted and dropped.
3. A batch is as large as the load wants: it is handed over when it is full, or when none waits to
   be taken. Between receipts of a few the thread pauses for `GATHER_S`, so that a thousand wakes a
   second are the most.
4. On `stopping` the sockets refuse at once what comes, what they hold is handed over, and the
   thread ends: within 100 ms, and the time it takes to empty the receive buffers.

Sources: socket(7), udp(7), recvmmsg(2), epoll(7).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from select import EPOLLIN, epoll
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from connectors.arenas import Arena, Arenas, scratch
from connectors.udp_receiver import Receiver
from core.datagrams import BYTES, DATAGRAMS, JOINED, KERNEL_DROPPED, TALLY_FIELDS, TRUNCATED
from core.errors import PenstockError, RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.udp_socket import UdpSocket
    from core.datagrams import Datagrams

IDLE_S = 0.04
"""How long the thread waits for a datagram, or an arena, before it looks whether it is to stop."""
GATHER_S = 0.001
DRAIN_S = 0.05
_TURN_CALLS = 16
"""Calls in a row for one socket, before the others have their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingOptions:
    """Sizes of a ring.

    Attributes:
        arenas: Arenas there are: being filled, in the queue, or with batches that are alive.
        rows_max: Datagrams of a batch at most.
        arena_bytes: Their bytes at most; at least `bytes_max`.
        bytes_max: Bytes kept of a datagram.
    """

    arenas: int = 16
    rows_max: int = 8192
    arena_bytes: int = 4 << 20
    bytes_max: int = 65_536


class UdpCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of datagrams up to now; `kernel_dropped` is final once the ring has ended.

    Attributes:
        received: Datagrams put into arenas.
        received_bytes: Bytes they had.
        truncated: Of those, the ones cut short.
        joined: Of those, the ones that the kernel had joined with others into one message.
        kernel_dropped: Messages the kernel dropped: as many datagrams where none are joined, a
            lower bound of them otherwise (`connectors.udp_socket`).
        ring_dropped: Datagrams dropped here at the end, for want of an arena.
        errors: Errors of the network that sockets told of; none of them cost a datagram.
    """

    received: int
    received_bytes: int
    truncated: int
    joined: int
    kernel_dropped: int
    ring_dropped: int
    errors: int


class UdpOccupancy(msgspec.Struct, frozen=True, kw_only=True):
    """How full the ring is.

    Attributes:
        queued_arenas: Batches that wait to be taken.
        queued_datagrams: Their datagrams, and those of the batch being filled.
        busy_arenas: Arenas that are not free.
        arenas: All there are.
        kernel_bytes: Taken of the receive buffers, the kernel's own headers included.
    """

    queued_arenas: int
    queued_datagrams: int
    busy_arenas: int
    arenas: int
    kernel_bytes: int

    def gauges(self) -> dict[str, int]:
        """Return it for the ledger, by name."""
        return {
            "ring_packets": self.queued_datagrams,
            "ring_batches": self.busy_arenas,
            "ring_batches_all": self.arenas,
            "kernel_bytes": self.kernel_bytes,
        }


class UdpRing:
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
        self._sockets, self._options, self._stopping = sockets, options, stopping
        self._arenas = Arenas(
            options.arenas, options.rows_max, max(options.arena_bytes, options.bytes_max)
        )
        self._receiver = Receiver(options.bytes_max)
        self._filling: Arena | None = None
        self._full: SimpleQueue[Datagrams | PenstockError | None] = SimpleQueue()
        self._handed = self._taken = 0
        self._dropped = np.zeros(TALLY_FIELDS, np.int64)
        self._scratch = scratch(options.rows_max, options.bytes_max)
        self._thread = threading.Thread(target=self._run, name="udp-ring", daemon=True)
        self.ended = False
        """Whether everything was taken; `get` returns nothing more."""

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def get(self, wait_s: float) -> Datagrams | None:
        """Return the next batch, or `None` when none came within `wait_s` seconds.

        Raises:
            SourceError: A socket failed for good.
        """
        if self.ended:
            return None
        try:
            item = self._full.get(timeout=wait_s)
        except Empty:
            return None
        if item is None or isinstance(item, PenstockError):
            self.ended = True
            if item is not None:
                raise item
            return None
        self._taken += len(item)
        return item

    def join(self) -> None:
        """Wait until the thread has ended, after `stopping` was set."""
        self._thread.join()

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

    def occupancy(self) -> UdpOccupancy:
        """Return how full the ring is; of the kernel's buffers while they are open."""
        waiting = 0
        for socket in self._sockets:
            try:
                waiting += socket.waiting_bytes()
            except OSError:  # closed meanwhile
                continue
        return UdpOccupancy(
            queued_arenas=self._full.qsize(),
            queued_datagrams=max(0, self.counts().received - self._taken),
            busy_arenas=self._arenas.count - self._arenas.free,
            arenas=self._arenas.count,
            kernel_bytes=waiting,
        )

    def _run(self) -> None:
        # Whatever kills a thread, the worker must not wait for it for ever.
        end: PenstockError | None = RunError("the udp receiver failed; please report this")
        try:
            self._receive()
            self._drain()
            end = None
        except PenstockError as error:
            end = error
        finally:
            self._hand_over()
            for socket in self._sockets:
                with suppress(OSError):  # one that failed has said so
                    socket.count_drops()
                socket.close()
            self._full.put(end)

    def _receive(self) -> None:
        """Receive until `stopping`."""
        sockets = {socket.fileno(): socket for socket in self._sockets}
        with epoll(len(sockets)) as poll:
            for number in sockets:
                poll.register(number, EPOLLIN)
            while not self._stopping.is_set():
                waits = self._filling is not None and self._filling.rows > 0
                ready = poll.poll(GATHER_S if waits else IDLE_S)
                more = False
                for number, _ in ready:
                    more |= self._turn(sockets[number])
                if self._full.empty():
                    self._hand_over()
                if ready and not more:
                    self._stopping.wait(GATHER_S)

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

    def _arena(self) -> Arena | None:
        """Return the arena being filled; `None` when there is none and we are to stop."""
        while self._filling is None:
            stopping = self._stopping.is_set()
            self._filling = self._arenas.take(DRAIN_S if stopping else IDLE_S)
            if stopping:
                break
        return self._filling

    def _store(self) -> bool:
        """Unpack what was received; tell whether there were arenas enough."""
        while self._receiver.pending:
            arena = self._arena()
            if arena is None:
                return False
            if not self._receiver.unpack(arena):
                self._hand_over()
        return True

    def _hand_over(self) -> None:
        if self._filling is not None and self._filling.rows:
            dropped = sum(int(socket.tally[KERNEL_DROPPED]) for socket in self._sockets)
            batch = self._filling.batch(self._handed, dropped)
            self._handed += len(batch)
            self._filling = None
            self._full.put(batch)

    def _drain(self) -> None:
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

    def _scrap(self) -> None:
        """Count what was received, and drop it."""
        before = self._sums()
        while self._receiver.pending:
            self._scratch.rows = self._scratch.used = 0
            self._receiver.unpack(self._scratch)
        self._dropped += self._sums() - before

    def _sums(self) -> NDArray[np.int64]:
        sums: NDArray[np.int64] = np.sum([socket.tally for socket in self._sockets], axis=0)
        return sums
