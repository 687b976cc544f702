"""The log of a queue against the queue itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batches import FrameBatch, concat
from core.dam import Dam
from core.queue_log import QueueLog
from tests.frames import frame_batch
from tests.logs import Kept, Log


class Line:
    """Frames that wait, as few lines as possible."""

    def __init__(self, head: int = 0, tail: int = 0) -> None:
        self.head, self.tail = head, tail
        self.frames: list[FrameBatch] = []

    @property
    def span(self) -> tuple[int, int]:
        return self.head, self.tail

    @property
    def depth_bytes(self) -> int:
        return sum(int(each.body_len.sum()) for each in self.frames)

    def queued(self, count: int) -> FrameBatch:
        return concat(self.frames[-count:])

    def load_queue(self, frames: FrameBatch | None) -> None:
        count = 0 if frames is None else len(frames)
        if count != self.tail - self.head:
            raise ValueError("not as many")
        self.frames = [frames.take(slice(i, i + 1)) for i in range(count)] if frames else []

    def push(self, count: int) -> None:
        for _ in range(count):
            number = self.tail
            body = np.full(number % 7, number % 251, np.uint8)
            one = frame_batch(at_ns=np.array([number]), body_len=np.array([body.size]))
            self.frames.append(concat([one])) if body.size == 0 else self.frames.append(
                FrameBatch(arena=body, **{n: getattr(one, n) for n in one.COLUMNS})
            )
            self.tail += 1

    def pop(self, count: int) -> None:
        count = min(count, len(self.frames))
        del self.frames[:count]
        self.head += count


def told(frames: list[FrameBatch]) -> Iterator[tuple[int, bytes]]:
    """When each frame came, and its body."""
    for each in frames:
        yield int(each.at_ns[0]), concat([each]).arena.tobytes()


STEPS = st.lists(st.tuples(st.sampled_from(["push", "pop", "write", "again"]), st.integers(0, 9)),
                 max_size=60)  # fmt: skip


@given(STEPS)
def test_records_put_together_are_the_queue(steps: list[tuple[str, int]]) -> None:
    """After any arrivals, departures and restarts, with old records gone when they may."""
    live = Line()
    queue, log, written = QueueLog(live), Log(), 0
    for kind, number in [*steps, ("again", 0)]:
        if kind == "push":
            live.push(number)
        elif kind == "pop":
            live.pop(number)
        else:
            due = queue.unsaved
            assert (log.write(queue) > 0) == (due > 0)
            written += due
            again = Line(*live.span)
            other = QueueLog(again)
            log.read(other)
            assert list(told(again.frames)) == list(told(live.frames))
            assert queue.unsaved == other.unsaved == 0
            assert len(log.records) <= live.tail - live.head
            if kind == "again":
                live, queue = again, other
    assert written <= live.tail  # none of them twice


def test_what_is_owed() -> None:
    """Nothing while nothing waits; then what waits unwritten, and what would wait beside it."""
    live = Line()
    queue, log = QueueLog(live), Log()
    assert (queue.unsaved, queue.owed(1000)) == (0, 0)
    live.push(10)
    assert queue.unsaved == 10
    assert 0 < queue.owed(0) < queue.owed(5)
    log.write(queue)
    assert queue.owed(0) == 0 < queue.owed(5)


@pytest.mark.parametrize("damage", ["missing", "junk", "of rows"])
def test_what_is_not_all_of_it_is_refused(damage: str) -> None:
    """Frames that are not there are missed."""
    live = Line()
    queue, log = QueueLog(live), Log()
    for _ in range(2):
        live.push(3)
        log.write(queue)
    if damage == "missing":
        del log.records[0]
    else:
        log.records[0] = (1, b"junk")
    with pytest.raises(ValueError, match="not"):
        log.read(QueueLog(Line(*live.span)))


def test_a_dam_writes_what_came_since_the_last_snapshot() -> None:
    """Frames are written once while they wait, devices when they are heard, nothing in between."""

    def dam() -> Dam:
        return Dam(
            rate_hz=10, burst=1, queue_len_max=5000, queue_bytes_max=1 << 20,
            device_rate_hz=1000, device_burst=1000, devices_max=5000,
        )  # fmt: skip

    live = dam()
    kept = Kept(live)
    keys = np.random.default_rng(1).integers(0, 1 << 60, 3000)
    live.arrive(frame_batch(at_ns=np.zeros(3000), key_lo=keys))
    whole = kept.write(live)
    assert kept.write(live) == 0
    live.arrive(frame_batch(at_ns=[5], key_lo=keys[:1]))
    assert 0 < kept.write(live) < whole / 10
    again = kept.read(dam())
    for each in (live.drain(), again.drain()):
        assert each.released is not None
        assert len(each.released) == 3000
        assert each.released.key_lo.tolist() == [*keys[1:].tolist(), keys[0]]
