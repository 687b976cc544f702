"""Live sources: what every source has in common whose packets come by themselves and only once.

Delivery guarantee: at most once. What was received and is not delivered when the process dies is
lost: with recovery on, what came since the last complete epoch; without, what is in the graph.

Laws:

1. `received = packets_in + what waits in the ring`; what the kernel or the ring dropped is counted
   by them, and on the ledger as `kernel_dropped` and `ring_dropped`.
2. Time goes on when no packets come: a tick carries the clock's reading, `LAG_NS` ago, to every
   shard, when somebody there waits for it (`connectors.waiting`), and every second in any case. A
   batch is followed by a tick to the shards that got nothing of it.
3. A tick is a promise: what is handed on later is not of an earlier time. What the kernel stamped
   before it all the same, and that is less than `STEP_BACK_NS` before, takes the time of the tick.
   So a recording, which holds no ticks, is replayed to the same records.
4. A socket that fails ends the run as a signal would, once what came before was handed on; the
   line that says so is given to `give_up`.
5. On `stopping` the ring ends receipt, and everything that it accepted is handed on, pressure or
   not: it is bounded by the ring.
6. Several parts share the load, on as many workers. Each is in order; together they are in none.

Source: Bytewax, "Custom connectors", `FixedPartitionedSource`.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.clock import monotonic_ns, wall_ns
from connectors.engine_store import START_OVER
from connectors.pressure import Pressure
from connectors.waiting import Waiting
from core.batches import HeaderBatch, Intake, PacketBatch
from core.errors import SourceError
from core.timeline import START, settle

if TYPE_CHECKING:
    from connectors.ledger import Ledger
    from connectors.recording import Recording
    from connectors.ring import Ring

WAIT_S = 0.05
"""How long the worker waits for packets before other steps get their turn, if it is alone."""
BESIDE_S = 0.005
"""The same where other parts, on other workers, may have something for this one."""
SOON_S = 0.01
"""The same right after a batch, because the steps may say only then what they wait for."""
LAG_NS = 10_000_000
"""What was stamped so long ago has been handed on, or the machine is too slow for its load."""
HEARTBEAT_NS = 1_000_000_000
STEP_BACK_NS = 1_000_000_000
REPORT_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class LiveState:
    """What a snapshot holds: no position, because nothing can be read again.

    Attributes:
        digest: Of the settings that shape results.
        counts: Totals of the ledger, by name.
        clock: State of the timeline.
    """

    digest: str
    counts: tuple[tuple[str, int], ...] = ()
    clock: tuple[int, int] = START


@dataclass(slots=True, kw_only=True)
class LiveSource(FixedPartitionedSource[Intake, LiveState]):
    """A source of packets as they come; subclasses say from where.

    Attributes:
        ledger: Receives what the source counted.
        digest: Identifies the settings that shape results; a resume under others is refused.
        stopping: Set by a signal; ends the source.
        notify: Called with one line for the user.
        give_up: Called with one line for the user when there will be no more packets.
        pressure: What a sink whose queue is full makes this source pause by.
        waiting: Until when the steps have nothing to do.
        parts: How many parts share the load.
        recording: Where everything handed on is written as well, if anywhere.
        on_look: Called by each part with its name whenever it looks for packets.
    """

    ledger: Ledger
    digest: str
    stopping: threading.Event
    notify: Callable[[str], None]
    give_up: Callable[[str], None]
    pressure: Pressure = field(default_factory=Pressure)
    waiting: Waiting = field(default_factory=Waiting)
    parts: int = 1
    recording: Recording | None = None
    on_look: Callable[[str], None] = lambda _: None

    @property
    @abstractmethod
    def name(self) -> str:
        """What it receives on, for identities and for people."""

    @abstractmethod
    def check(self) -> None:
        """See that it can be received from, before anything is written.

        Raises:
            PenstockError: It cannot.
        """

    @abstractmethod
    def open(self) -> Ring[Any, Any]:
        """Open what one part receives from, not started.

        Raises:
            SourceError: It cannot be opened.
        """

    @abstractmethod
    def packets(self, batch: Any, source: int) -> tuple[PacketBatch, HeaderBatch | None]:
        """Return what a batch of the ring holds, and its headers where they are known.

        Args:
            batch: As `Ring.get` returned it.
            source: Identity of this part of this run.
        """

    def totals(self, counts: Any) -> dict[str, int]:
        """Return what is told of a ring's counts beside what it received."""
        return {"kernel_dropped": counts.kernel_dropped, "ring_dropped": counts.ring_dropped}

    def list_parts(self) -> list[str]:
        """Return as many parts as were asked for."""
        return [f"live-{part:04d}" for part in range(self.parts)]

    def build_part(self, step_id: str, for_part: str, resume_state: LiveState | None) -> LivePart:
        """Open one part, and begin to receive.

        Raises:
            SourceError: It cannot be opened, or was stopped under other settings.
        """
        del step_id
        if resume_state is not None and resume_state.digest != self.digest:
            raise SourceError(f"the recovery folder was written with other settings; {START_OVER}")
        return LivePart(self, for_part, resume_state or LiveState(self.digest))


class LivePart(StatefulSourcePartition[Intake, LiveState]):
    """One part of a live source; lives on one worker."""

    def __init__(self, source: LiveSource, part: str, resume: LiveState) -> None:
        """Begin to receive; counts go on where those of a snapshot were."""
        self._source, self._part, self._page = source, part, f"source/{part}"
        self._before = dict(resume.counts)
        self._clock = resume.clock
        self._packets = self._bytes = self._failed = 0
        self._told_ns = self._ticked_ns = 0  # by anything, and by a tick
        self._wait_s = BESIDE_S if source.parts > 1 else WAIT_S
        self._reported_ns = 0
        # Ordinals begin at 0 in each run, so that each is a source of its own.
        named = f"{source.name} {part} {wall_ns()}"
        self._identity = int.from_bytes(blake2b(named.encode(), digest_size=8).digest(), "big")
        self._fresh = True
        self._ring = source.open()
        self._report(0)
        self._ring.start()

    def next_batch(self) -> list[Intake]:
        """Return what came, the time if it matters to somebody, or end the source."""
        self._source.on_look(self._part)
        stopping = self._source.stopping.is_set()
        if not stopping and self._source.pressure.holds(WAIT_S):
            return []
        batch = self._take()
        now_ns = monotonic_ns()
        self._fresh = batch is not None
        if batch is None:
            if self._ring.ended:
                self._source.on_look(self._part)  # who has not heard that the run stops, does
                self._report(now_ns)
                raise StopIteration
            if now_ns - self._reported_ns >= HEARTBEAT_NS:
                self._report(now_ns)
            return self._tick()
        intake = self._hand_on(*self._source.packets(batch, self._identity))
        if now_ns - self._reported_ns >= REPORT_NS:
            self._report(now_ns)
        return [intake]

    def _take(self) -> Any | None:
        """Return a batch of the ring, if one comes; its end is that of the run."""
        try:
            return self._ring.get(self._patience_s())
        except SourceError as error:
            self._failed = 1
            self._source.give_up(str(error))
            return None

    def _patience_s(self) -> float:
        """Return how long to wait for packets: until somebody waits for the time, at most."""
        most_s = min(SOON_S, self._wait_s) if self._fresh else self._wait_s
        next_ns = self._source.waiting.next_ns
        if next_ns is None:
            return most_s
        return min(most_s, max(1e-3, (next_ns + LAG_NS - wall_ns()) * 1e-9))

    def _tick(self) -> list[Intake]:
        """Say what time it has become, if that is news to anybody."""
        time_ns = wall_ns() - LAG_NS
        next_ns = self._source.waiting.next_ns
        due = next_ns is not None and next_ns <= time_ns
        if not due and time_ns - self._told_ns < HEARTBEAT_NS:
            return []
        # A clock that was set far ahead is believed when it says so twice, as packets are.
        settled, self._clock = settle(np.array([time_ns]), self._clock)
        self._told_ns = self._ticked_ns = int(settled[0])
        return [Intake(None, tick_ns=self._ticked_ns)]

    def _hand_on(self, packets: PacketBatch, headers: HeaderBatch | None) -> Intake:
        at_ns = packets.at_ns.copy()  # records keep it, and would keep the arena from others
        early = (at_ns < self._ticked_ns) & (at_ns > self._ticked_ns - STEP_BACK_NS)
        if early.any():
            at_ns = np.where(early, self._ticked_ns, at_ns)
        clock_ns, self._clock = settle(at_ns, self._clock)
        packets = replace(packets, at_ns=at_ns, clock_ns=clock_ns, index=self._packets)
        if self._source.recording is not None:
            self._source.recording.write(packets, headers)
        self._packets += len(packets)
        self._bytes += int(packets.wirelen.sum(dtype=np.int64))
        self._told_ns = int(clock_ns[-1])
        return Intake(packets, headers, self._told_ns)

    def _totals(self) -> dict[str, int]:
        """Return what was counted since the flow first started."""
        counts = self._source.totals(self._ring.counts())
        counts |= {"packets_in": self._packets, "bytes_in": self._bytes}
        before = self._before
        return {name: before.get(name, 0) + count for name, count in counts.items()}

    def _report(self, now_ns: int) -> None:
        """Write the page of the ledger."""
        self._reported_ns = now_ns
        page = self._totals() | self._ring.occupancy().gauges()
        page["sources_failed"] = self._failed
        page["packets_resumed"] = self._before.get("packets_in", 0)
        self._source.ledger.write(self._page, page)

    def snapshot(self) -> LiveState:
        """Return the counts; there is no position."""
        return LiveState(self._source.digest, tuple(self._totals().items()), self._clock)

    def close(self) -> None:
        """End the ring, and with it the sockets."""
        self._source.stopping.set()
        self._ring.join()
        self._report(monotonic_ns())
