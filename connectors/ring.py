"""A ring: a thread that receives into arenas, and a bounded queue of full ones.

Laws:

1. `get` returns batches in the order in which they were filled, then raises what ended the thread,
   if that was an error, and from then on returns nothing.
2. When no arena is free, nothing is received: the buffers of the kernel fill and it drops what is
   newest, and counts it. To receive only to drop would take the processor from whoever is too slow
   already.
3. A batch is as large as the load wants: it is handed over when it is full, or when none waits to
   be taken. Between receipts of a few the thread pauses for `GATHER_S`, so that five hundred wakes
   a second are the most; for up to `GATHER_BUSY_S` while more than `BUSY_HZ` rows a second come,
   because there what a batch costs beside its rows counts for more than a moment. It never pauses
   for longer than a quarter of the kernel's buffers lasts.
4. On `stopping` the kernel is told to refuse at once what comes, what it holds is handed over, and
   the thread ends. What waits in the kernel for longer than `DRAIN_S` without an arena becoming
   free is counted and dropped.

Not here: what is received, and how (`connectors.udp_ring`, `connectors.packet_ring`).

Source: epoll(7).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from select import EPOLLIN, epoll
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec
import numpy as np

from connectors.arenas import Arena, Arenas, scratch
from connectors.clock import monotonic_ns
from core.batches import Columns
from core.errors import PenstockError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

IDLE_S = 0.04
"""How long the thread waits for something to receive, or for an arena, before it looks whether it
is to stop."""
ROW_BYTES = 2_304
"""What a row takes of the kernel's buffers, as a rule at most."""
GATHER_S = 0.002
GATHER_BUSY_S = 0.016
BUSY_HZ = 90_000
RATE_S = 0.1
"""How long rows are counted before it is said how many come a second: a burst is no rate."""
DRAIN_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RingOptions:
    """Sizes of a ring.

    Attributes:
        arenas: Arenas there are: being filled, in the queue, or with batches that are alive.
        rows_max: Rows of a batch at most.
        arena_bytes: Their bytes at most; at least `bytes_max`.
        bytes_max: Bytes kept of a datagram; of packets, their socket knows it.
    """

    arenas: int = 16
    rows_max: int = 8192
    arena_bytes: int = 4 << 20
    bytes_max: int = 65_536


class RingCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what came up to now; exact once the ring has ended.

    Attributes:
        received: Rows put into arenas.
        received_bytes: Bytes they had on the wire, or as datagrams.
        truncated: Of those, the ones cut short.
        kernel_dropped: What the kernel had no room for.
        ring_dropped: Rows dropped here: at the end, for want of an arena.
    """

    received: int
    received_bytes: int
    truncated: int
    kernel_dropped: int
    ring_dropped: int


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """How full a ring is.

    Attributes:
        queued_rows: Their rows, and those of the batch being filled.
        busy_arenas: Arenas that are not free.
        arenas: All there are.
        kernel_bytes: Taken of the kernel's buffers.
    """

    queued_rows: int
    busy_arenas: int
    arenas: int
    kernel_bytes: int

    def gauges(self) -> dict[str, int]:
        """Return it for the ledger, by name."""
        return {
            "ring_packets": self.queued_rows,
            "ring_batches": self.busy_arenas,
            "ring_batches_all": self.arenas,
            "kernel_bytes": self.kernel_bytes,
        }


class Socket(Protocol):
    """What a ring receives from."""

    tally: NDArray[np.int64]

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


S = TypeVar("S", bound=Socket)
B = TypeVar("B", bound=Columns)


class Ring(ABC, Generic[S, B]):
    """Receives in a daemon thread from `start` until `stopping`, into batches to be taken.

    Args:
        name: Names the ring.
        sockets: Open sockets; the ring closes them when it ends.
        columns: Columns of its arenas: name → dtype.
        row_bytes_max: Bytes of the largest row.
        options: See `RingOptions`.
        stopping: Ends the ring.
    """

    def __init__(
        self, name: str, sockets: Sequence[S], columns: Mapping[str, type], row_bytes_max: int,
        options: RingOptions, stopping: threading.Event,
    ) -> None:  # fmt: skip
        self._name, self._sockets, self._stopping = name, sockets, stopping
        arena_bytes = max(options.arena_bytes, row_bytes_max)
        self._arenas = Arenas(columns, options.arenas, options.rows_max, arena_bytes)
        # For what is received to be dropped; and what of the tallies that was.
        self._scratch = scratch(columns, options.rows_max, row_bytes_max)
        self._dropped = np.zeros_like(sockets[0].tally)
        self._filling: Arena | None = None
        self._full: SimpleQueue[B | PenstockError | None] = SimpleQueue()
        self._handed = self._taken = 0
        self._thread = threading.Thread(target=self._run, name=f"{name}-ring", daemon=True)
        self.ended = False
        """Whether everything was taken; `get` returns nothing more."""

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def get(self, wait_s: float) -> B | None:
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

    def occupancy(self) -> Occupancy:
        """Return how full the ring is; of the kernel's buffers while they are open."""
        return Occupancy(
            queued_rows=max(0, self.counts().received - self._taken),
            busy_arenas=self._arenas.count - self._arenas.free,
            arenas=self._arenas.count,
            kernel_bytes=self._kernel_bytes(),
        )

    def gather_s(self, rate_hz: float) -> float:
        """Return how long the thread pauses between receipts of a few.

        Args:
            rate_hz: Rows that come in a second, as it seems.
        """
        longest_s = GATHER_BUSY_S if rate_hz > BUSY_HZ else GATHER_S
        return min(longest_s, self._lasts_s(rate_hz) / 4)

    def _run(self) -> None:
        # Whatever kills a thread, the worker must not wait for it for ever.
        end: PenstockError | None = RunError(
            f"the {self._name} receiver failed; please report this"
        )
        try:
            self._receive()
            end = self._drain()
        except PenstockError as error:
            end = error
        finally:
            self._hand_over()
            self._close()
            self._full.put(end)

    def _receive(self) -> None:
        """Receive until `stopping`."""
        sockets = {socket.fileno(): socket for socket in self._sockets}
        with epoll(len(sockets)) as poll:
            for number in sockets:
                poll.register(number, EPOLLIN)
            seen, seen_ns, rate_hz = 0, monotonic_ns(), 0.0
            while not self._stopping.is_set():
                waits = self._filling is not None and self._filling.rows > 0
                ready = poll.poll(GATHER_S if waits else IDLE_S)
                if not ready:
                    self._idle()
                more = False
                for number, _ in ready:
                    more |= self._turn(sockets[number])
                if self._full.empty():
                    self._hand_over()
                if ready and not more:
                    if (passed_s := (monotonic_ns() - seen_ns) * 1e-9) >= RATE_S:
                        rows = self._handed + (self._filling.rows if self._filling else 0)
                        rate_hz = (rows - seen) / passed_s
                        seen, seen_ns = rows, monotonic_ns()
                    self._stopping.wait(self.gather_s(rate_hz))

    def _idle(self) -> None:
        """Do what is to be done now and then while nothing is received."""

    def _arena(self) -> Arena | None:
        """Return the arena being filled; `None` when there is none and we are to stop."""
        while self._filling is None:
            stopping = self._stopping.is_set()
            self._filling = self._arenas.take(DRAIN_S if stopping else IDLE_S)
            if stopping:
                break
            if self._filling is None:  # the kernel may be dropping, and somebody may be looking
                self._idle()
        return self._filling

    def _hand_over(self) -> None:
        if self._filling is not None and self._filling.rows:
            batch = self._batch(self._filling, self._handed)
            self._handed += len(batch)
            self._filling = None
            self._full.put(batch)

    def _sums(self) -> NDArray[np.int64]:
        """Return the tallies of all sockets together."""
        sums: NDArray[np.int64] = np.sum([socket.tally for socket in self._sockets], axis=0)
        return sums

    @abstractmethod
    def counts(self) -> RingCounts:
        """Return what became of what came up to now."""

    @abstractmethod
    def _turn(self, socket: S) -> bool:
        """Receive from one socket; tell whether it may have more."""

    @abstractmethod
    def _batch(self, arena: Arena, index: int) -> B:
        """Return what was filled in, numbered from `index` on."""

    @abstractmethod
    def _drain(self) -> PenstockError | None:
        """Refuse what comes, and empty the sockets; return what is to be raised at the end."""

    @abstractmethod
    def _close(self) -> None:
        """Close the sockets; counts are final then."""

    @abstractmethod
    def _lasts_s(self, rate_hz: float) -> float:
        """Return how long the kernel's buffers hold what comes, at so many rows a second."""

    @abstractmethod
    def _kernel_bytes(self) -> int:
        """Return how much of the kernel's buffers is taken."""
