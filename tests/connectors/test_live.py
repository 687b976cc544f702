"""Live parts by a ring made up: ticks, promises, pressure, the end, and what is counted."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from connectors.clock import wall_ns
from connectors.ledger import Ledger
from connectors.live import HEARTBEAT_NS, LAG_NS, LivePart, LiveSource, LiveState
from connectors.ring import Occupancy
from connectors.udp_ring import UdpCounts
from core.batches import HeaderBatch, Intake, PacketBatch
from core.errors import SourceError

SECOND = 1_000_000_000


def packets(*at_ns: int) -> PacketBatch:
    """Return packets of nothing at these times."""
    count = len(at_ns)
    return PacketBatch(
        arena=np.zeros(1, np.uint8),
        start=np.zeros(count, np.int64),
        caplen=np.zeros(count, np.int32),
        wirelen=np.full(count, 10, np.int32),
        at_ns=np.array(at_ns, np.int64),
        linktype=np.zeros(count, np.int32),
        ordinal=np.arange(count),
        index=0,
        source=0,
    )


class Ring:
    """A ring that has what it is given."""

    def __init__(self) -> None:
        self.batches: deque[PacketBatch] = deque()
        self.ended = False
        self.started = self.joined = False
        self.failure: SourceError | None = None
        self.kernel_dropped = self.ring_dropped = self.taken = 0

    def start(self) -> None:
        self.started = True

    def join(self) -> None:
        self.joined = True

    def get(self, wait_s: float) -> PacketBatch | None:
        self.waited_s = wait_s
        if not self.batches:
            if self.failure is not None:
                self.ended = True
                raise self.failure
            return None
        self.taken += len(self.batches[0])
        return self.batches.popleft()

    def counts(self) -> UdpCounts:
        return UdpCounts(
            received=self.taken, received_bytes=0, truncated=0, joined=0, errors=0,
            kernel_dropped=self.kernel_dropped, ring_dropped=self.ring_dropped,
        )  # fmt: skip

    def occupancy(self) -> Occupancy:
        return Occupancy(queued_rows=3, busy_arenas=2, arenas=16, kernel_bytes=77)


@dataclass(slots=True, kw_only=True)
class Source(LiveSource):
    """A source of a ring made up."""

    ring: Ring = field(default_factory=Ring)

    @property
    def name(self) -> str:
        return "made up"

    def check(self) -> None:
        """Nothing can be wrong."""

    def open(self) -> Any:
        return self.ring

    def packets(self, batch: Any, source: int) -> tuple[PacketBatch, HeaderBatch | None]:
        return replace(batch, source=source), None


@pytest.fixture
def source() -> Source:
    """Return a source that nobody stops."""
    return made([])


def made(said: list[str]) -> Source:
    return Source(
        ledger=Ledger(), digest="d", stopping=threading.Event(), notify=said.append,
        give_up=said.append,
    )  # fmt: skip


def built(source: Source, state: LiveState | None = None) -> LivePart:
    return source.build_part("source", "live-0000", state)


def test_a_heartbeat_and_then_only_what_somebody_waits_for(source: Source) -> None:
    """The first idle look says the time; later ones are silent until it is due."""
    part = built(source)
    begun_ns = wall_ns()
    (beat,) = part.next_batch()
    assert beat.packets is None
    assert begun_ns - LAG_NS <= beat.tick_ns <= wall_ns() - LAG_NS
    assert part.next_batch() == []
    source.waiting.write("dam", wall_ns() + HEARTBEAT_NS // 2)
    assert part.next_batch() == []
    source.waiting.write("dam", beat.tick_ns)
    (tick,) = part.next_batch()
    assert tick.packets is None
    assert tick.tick_ns >= beat.tick_ns
    source.waiting.write("dam", None)
    assert part.next_batch() == []


def test_the_wait_ends_when_somebody_needs_the_time(source: Source) -> None:
    """A ring is waited for no longer than until the first tick that is due."""
    part = built(source)
    part.next_batch()
    part.next_batch()
    assert source.ring.waited_s == 0.05
    source.waiting.write("dam", wall_ns() - SECOND)
    part.next_batch()
    assert source.ring.waited_s == pytest.approx(0.001)


def test_packets_carry_the_time_for_the_others(source: Source) -> None:
    """A batch says what time it has become; times in it keep, and never fall for the stages."""
    part = built(source)
    source.ring.batches += [packets(5 * SECOND, 4 * SECOND), packets(6 * SECOND)]
    (first,), (second,) = part.next_batch(), part.next_batch()
    assert first.packets is not None
    assert second.packets is not None
    assert first.packets.at_ns.tolist() == [5 * SECOND, 4 * SECOND]
    assert first.packets.clock_ns.tolist() == [5 * SECOND, 5 * SECOND]
    assert (first.tick_ns, second.tick_ns) == (5 * SECOND, 6 * SECOND)
    assert (first.packets.index, second.packets.index) == (0, 2)
    assert first.packets.source == second.packets.source != 0


def test_a_tick_is_a_promise(source: Source) -> None:
    """What is stamped a little before a tick takes its time; a clock set back is left as it is."""
    part = built(source)
    (tick,) = part.next_batch()
    early, late, back = tick.tick_ns - 1, tick.tick_ns + 1, tick.tick_ns - 2 * SECOND
    source.ring.batches.append(packets(early, late, back))
    (intake,) = part.next_batch()
    assert intake.packets is not None
    assert intake.packets.at_ns.tolist() == [tick.tick_ns, late, back]
    assert intake.packets.clock_ns.tolist() == [tick.tick_ns, late, late]


def test_pressure_holds_but_not_at_the_end(source: Source) -> None:
    """While a sink is full nothing is taken; when the run is to end, everything is."""
    part = built(source)
    source.pressure.on_relief(lambda _: False)
    source.pressure.press()
    source.ring.batches.append(packets(SECOND))
    assert part.next_batch() == []
    source.stopping.set()
    (intake,) = part.next_batch()
    assert intake.packets is not None
    source.ring.ended = True
    with pytest.raises(StopIteration):
        part.next_batch()


def test_counts_are_in_the_ledger_and_go_on(source: Source) -> None:
    """A resumed part adds to what was counted before; its packets are of another source."""
    part = built(source)
    source.ring.batches.append(packets(SECOND, SECOND))
    (first,) = part.next_batch()
    source.ring.kernel_dropped, source.ring.ring_dropped = 3, 1
    state = part.snapshot()
    part.close()
    assert source.ring.joined
    assert source.stopping.is_set()
    again = made([])
    part = built(again, state)
    again.ring.batches.append(packets(2 * SECOND))
    again.ring.kernel_dropped = 4
    (second,) = part.next_batch()
    part.close()
    total = again.ledger.total()
    assert (total["packets_in"], total["bytes_in"], total["packets_resumed"]) == (3, 30, 2)
    assert (total["kernel_dropped"], total["ring_dropped"]) == (7, 1)
    assert (total["ring_packets"], total["ring_batches"], total["kernel_bytes"]) == (3, 2, 77)
    assert _source(first) != _source(second)


def test_a_socket_that_fails_ends_the_run_when_all_is_handed_on() -> None:
    """What came before is handed on, one line is said, and the ledger knows that it failed."""
    said: list[str] = []
    source = made(said)
    source.ring.failure = SourceError("packet eth0: is gone")
    source.ring.batches.append(packets(SECOND))
    part = built(source)
    assert part.next_batch()[0].packets is not None
    with pytest.raises(StopIteration):
        part.next_batch()
    assert said == ["packet eth0: is gone"]
    assert source.ledger.total()["sources_failed"] == 1


def _source(intake: Intake) -> int:
    assert intake.packets is not None
    return intake.packets.source


def test_other_settings_are_refused(source: Source) -> None:
    """A part does not go on with what was saved under other settings."""
    with pytest.raises(SourceError, match="other settings"):
        built(source, LiveState("another"))


def test_parts_are_named_in_order(source: Source) -> None:
    """Names sort as their numbers do."""
    assert source.list_parts() == ["live-0000"]
    source.parts = 11
    assert source.list_parts() == sorted(source.list_parts())
