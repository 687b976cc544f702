"""The dam: an exact token bucket and a bounded queue for what overflows it.

Laws:

1. Time is data. `now` is the latest packet time seen; a packet that claims an earlier one is judged
   at `now`, because real captures step backwards.
2. Arithmetic is exact: tokens are counted in 1e-9 frame, so `rate_hz * ns` needs no rounding.
   Results do not depend on how arrivals are cut into batches, and any gap costs O(1).
3. An arrival passes when nothing is queued and a token is there. Else it is queued if frames and
   bytes allow, else dropped and counted. `arrived = passed + held + dropped` at every moment.
4. The queue drains in order at multiples of 10 ms of capture time: at each, as many frames leave as
   there are whole tokens, before any arrival of that time or later is judged. Everything queues
   while anything is queued, so frames leave in the order they were accepted and no device is ever
   reordered.
5. A device's own bucket is judged first, and a token it spends is spent whatever the dam then says.
   Of `devices_max` devices the one seen longest ago is forgotten; seen again it starts full.

A frame counts as `body_len + FRAME_OVERHEAD` bytes of the queue. Frames that stay queued at the end
of a batch are copied, so that they keep no arena alive.

Not here: the kernels (`core.dam_kernels`), one dam per shard (`flows`), and who changes the rate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.batches import FrameBatch, concat
from core.dam_kernels import (
    BURST_MAX,
    BYTES,
    CAP,
    COUNTS,
    DEPTH,
    DEPTH_MAX,
    DRAIN_NS,
    FIELDS,
    FRAME_OVERHEAD,
    HEAD,
    LAST_TICK,
    LEN_MAX,
    NOW,
    RATE,
    RATE_HZ_MAX,
    RELEASED,
    RELEASED_BYTES,
    SEEN,
    TOKEN,
    TOKENS,
    advance,
    drain,
    judge,
)
from core.keytable import KeyTable
from core.reasons import Drop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.packing import Columns


@dataclass(frozen=True, slots=True)
class Judged:
    """What the dam did in one call.

    Attributes:
        marks: `(n,) uint8`; `core.reasons.Drop` of each arrival, in order.
        released: The frames that left, in the order they were accepted; `None` when none did.
        released_at_ns: `(len(released),) int64`; when each left, never decreasing.
    """

    marks: NDArray[np.uint8]
    released: FrameBatch | None
    released_at_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DamCounts:
    """Totals since the dam was made; `arrived = passed + held + dropped.sum()`.

    Attributes:
        arrived: Frames judged.
        passed: Frames released, at once or from the queue.
        held: Frames in the queue.
        dropped: `(len(Drop),) int64`; frames dropped, by `Drop`; zero where it is no drop.
        queued: Frames that had to wait.
        passed_bytes: Sum of `FrameBatch.size` over frames released.
    """

    arrived: int
    passed: int
    held: int
    dropped: NDArray[np.int64]
    queued: int
    passed_bytes: int


class Dam:
    """One token bucket with its overflow queue, and a bucket for each device.

    Args:
        rate_hz: Frames passed on average, 1 … `RATE_HZ_MAX`.
        burst: Most frames passed at once, 1 … `BURST_MAX`; the bucket starts full.
        queue_len_max: Frames that may wait.
        queue_bytes_max: Bytes that may wait, `body_len + FRAME_OVERHEAD` a frame.
        device_rate_hz: Frames passed for one device, 0 … `RATE_HZ_MAX`; 0 = no such limit.
        device_burst: Most frames passed at once for one device, 1 … `BURST_MAX`.
        devices_max: Devices with a bucket.
        seed: Secret of the hash of devices, `uint64`; results do not depend on it.

    Raises:
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self, *, rate_hz: int, burst: int, queue_len_max: int, queue_bytes_max: int,
        device_rate_hz: int = 0, device_burst: int = 1, devices_max: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        _check("device_rate_hz", device_rate_hz, 0, RATE_HZ_MAX)
        _check("device_burst", device_burst, 1, BURST_MAX)
        _check("queue_len_max", queue_len_max, 0, 1 << 30)
        _check("queue_bytes_max", queue_bytes_max, 0, 1 << 40)
        devices = devices_max if device_rate_hz else 1
        self._table = KeyTable.create(devices, 2, seed)
        self._arrays = self._table.arrays()
        self._buckets = np.zeros((devices, 2), np.int64)
        self._limits = np.array(
            [queue_len_max, queue_bytes_max, device_rate_hz, device_burst * TOKEN], np.int64
        )
        self._ring = np.zeros(max(1, queue_len_max), np.int64)
        self._queue: deque[FrameBatch] = deque()
        self._offset = 0  # frames of the first chunk that have left
        self._state = np.zeros(FIELDS, np.int64)
        self._retune(rate_hz, burst)
        self._state[TOKENS] = self._state[CAP]

    def _retune(self, rate_hz: int, burst: int) -> None:
        _check("rate_hz", rate_hz, 1, RATE_HZ_MAX)
        _check("burst", burst, 1, BURST_MAX)
        self._state[RATE], self._state[CAP] = rate_hz, burst * TOKEN

    def arrive(self, frames: FrameBatch) -> Judged:
        """Judge arrivals in order.

        Args:
            frames: Any number of frames; their times may step backwards.

        Returns:
            A mark for each, and what left the dam: earlier frames from the queue, and these.
            When nothing is queued and nothing dropped, `released` is `frames` itself.
        """
        held = self.depth
        marks = np.empty(len(frames), np.uint8)
        at_ns = np.empty(held + len(frames), np.int64)
        count = judge(
            frames.clock_ns, frames.body_len, frames.key_hi, frames.key_lo,
            self._state, self._limits, self._ring, self._arrays, self._buckets, marks, at_ns,
        )  # fmt: skip
        accepted = count + self.depth - held
        if accepted < len(frames):
            frames = frames.take(marks < Drop.QUEUE_FULL)
        return Judged(marks, self._release(int(count), held, frames), _head(at_ns, count))

    def tick(self, now_ns: int) -> Judged:
        """Let time pass without an arrival; an earlier `now_ns` changes nothing."""
        at_ns = np.empty(self.depth, np.int64)
        return self._left(advance(self._state, self._ring, at_ns, 0, now_ns), at_ns)

    @property
    def next_ns(self) -> int | None:
        """The time at which a tick releases something; `None` while nothing is queued."""
        if not self.depth:
            return None
        now_ns, tokens, rate = (int(self._state[field]) for field in (NOW, TOKENS, RATE))
        wait_ns = max(0, -(-(TOKEN - tokens) // rate))
        return max(now_ns // DRAIN_NS + 1, -(-(now_ns + wait_ns) // DRAIN_NS)) * DRAIN_NS

    def drain(self) -> Judged:
        """Release everything queued, at the times it would leave if nothing more arrived.

        What would leave after the last boundary an int64 can name leaves at that boundary.
        """
        held = self.depth
        at_ns = np.empty(held, np.int64)
        count = drain(self._state, self._ring, at_ns, 0, LAST_TICK)
        if count < held:
            advance(self._state, self._ring, at_ns, count, LAST_TICK * DRAIN_NS)
            at_ns[count:] = self._state[NOW]
            self._state[[HEAD, DEPTH, BYTES]] = 0
        return self._left(held, at_ns)

    def retune(self, rate_hz: int, burst: int, at_ns: int) -> Judged:
        """Change the rate while running; tokens above the new burst are lost, none are given.

        Args:
            rate_hz: New rate, 1 … `RATE_HZ_MAX`.
            burst: New burst, 1 … `BURST_MAX`.
            at_ns: When; up to then the old rate holds. Before the first arrival no time has
                passed yet, and the bucket is full at the new burst.

        Returns:
            What left the queue up to `at_ns`.

        Raises:
            ValueError: An argument is out of its bounds; the old rate stays.
        """
        _check("rate_hz", rate_hz, 1, RATE_HZ_MAX)
        _check("burst", burst, 1, BURST_MAX)
        state = self._state
        if not state[SEEN]:
            state[TOKENS] = burst * TOKEN
        left = self.tick(at_ns) if state[SEEN] else self._left(0, np.empty(0, np.int64))
        self._retune(rate_hz, burst)
        state[TOKENS] = min(state[TOKENS], state[CAP])
        return left

    @property
    def depth(self) -> int:
        """Frames queued."""
        return int(self._state[DEPTH])

    @property
    def depth_bytes(self) -> int:
        """Bytes queued, `FRAME_OVERHEAD` a frame included."""
        return int(self._state[BYTES])

    @property
    def depth_max(self) -> int:
        """Most frames ever queued."""
        return int(self._state[DEPTH_MAX])

    @property
    def tokens(self) -> int:
        """Whole tokens in the bucket."""
        return int(self._state[TOKENS]) // TOKEN

    @property
    def rate_hz(self) -> int:
        """Frames passed on average."""
        return int(self._state[RATE])

    @property
    def counts(self) -> DamCounts:
        """Totals since the dam was made."""
        marks = self._state[COUNTS:]
        dropped = marks.copy()
        dropped[: Drop.QUEUE_FULL] = 0
        return DamCounts(
            arrived=int(marks.sum()),
            passed=int(self._state[RELEASED]),
            held=self.depth,
            dropped=dropped,
            queued=int(marks[Drop.QUEUED]),
            passed_bytes=int(self._state[RELEASED_BYTES]),
        )

    def snapshot(self) -> NDArray[np.int64]:
        """Return bucket, rate and totals; devices and queue are kept in logs of their own."""
        return self._state.copy()

    def restore(self, state: NDArray[np.int64]) -> None:
        """Go on where the dam of a snapshot was, with its rate and this one's bounds.

        What the logs hold is loaded next. A queue above this dam's bounds drains before anything
        more is queued.
        """
        self._state[:] = state
        self._state[HEAD] = 0

    @property
    def table(self) -> KeyTable:
        """Devices with a bucket; see `core.row_log.Rows`, also for the next three."""
        return self._table

    def touched_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return tokens and time of devices."""
        return {"bucket": self._buckets[slots]}

    def whole_columns(self, slots: NDArray[np.int64]) -> Columns:
        """Return the keys of devices."""
        return {"key": self._table.keys[slots]}

    def load(self, slots: NDArray[np.int64], columns: Columns) -> None:
        """Hold these devices."""
        if slots.size:
            self._table.place(columns["key"], slots)
            self._buckets[slots] = columns["bucket"]

    @property
    def span(self) -> tuple[int, int]:
        """Numbers of the queue's ends; see `core.queue_log.Queue`, also for the next two."""
        tail = int(self._state[COUNTS + Drop.QUEUED])
        return tail - self.depth, tail

    def queued(self, count: int) -> FrameBatch:
        """Return the frames queued last."""
        pieces: list[FrameBatch] = []
        for chunk in reversed(self._live()):
            if count == 0:
                break
            pieces.append(chunk.take(slice(max(len(chunk) - count, 0), None)))
            count -= len(pieces[-1])
        return concat(pieces[::-1])

    def load_queue(self, frames: FrameBatch | None) -> None:
        """Hold these frames."""
        count = 0 if frames is None else len(frames)
        if count != self.depth:
            raise ValueError(f"{count} frames queued, not {self.depth}")
        self._offset = 0
        self._queue.clear()
        self._ring = np.zeros(max(1, int(self._limits[LEN_MAX]), count), np.int64)
        if frames is not None:
            self._queue.append(frames)
            self._ring[:count] = frames.body_len.astype(np.int64) + FRAME_OVERHEAD

    def _left(self, count: int, at_ns: NDArray[np.int64]) -> Judged:
        """Take `count` frames from the head of the queue."""
        held = self.depth + int(count)
        return Judged(np.empty(0, np.uint8), self._release(count, held, None), _head(at_ns, count))

    def _release(self, count: int, held: int, accepted: FrameBatch | None) -> FrameBatch | None:
        """Take `count` frames from (queue of `held` + accepted), and queue the rest of these."""
        pieces = self._pop(min(count, held))
        if accepted is not None and len(accepted):
            new = max(0, count - held)
            if new == len(accepted):
                pieces.append(accepted)
            else:
                if new:
                    pieces.append(accepted.take(slice(0, new)))
                self._push(accepted.take(slice(new, None)))
        if not pieces:
            return None
        released = pieces[0] if len(pieces) == 1 else concat(pieces)
        self._state[RELEASED] += len(released)
        self._state[RELEASED_BYTES] += int(released.size.sum(dtype=np.int64))
        return released

    def _live(self) -> list[FrameBatch]:
        """Return the queue as chunks without the frames that have left."""
        pieces = list(self._queue)
        if self._offset:
            pieces[0] = pieces[0].take(slice(self._offset, None))
        return pieces

    def _push(self, frames: FrameBatch) -> None:
        """Copy frames to the tail; chunks shrink towards it by half, so there are O(log n)."""
        pieces = [frames]
        size = len(frames)
        while self._queue and len(self._queue[-1]) < 2 * size:
            chunk = self._queue.pop()
            if not self._queue:
                chunk, self._offset = chunk.take(slice(self._offset, None)), 0
            pieces.append(chunk)
            size += len(chunk)
        self._queue.append(concat(pieces[::-1]))

    def _pop(self, count: int) -> list[FrameBatch]:
        """Take frames from the head, in as many pieces as there were chunks."""
        pieces = []
        while count > 0:
            chunk = self._queue[0]
            first, last = self._offset, min(len(chunk), self._offset + count)
            count -= last - first
            whole = last - first == len(chunk)
            pieces.append(chunk if whole else chunk.take(slice(first, last)))
            self._offset = last
            if last == len(chunk):
                self._queue.popleft()
                self._offset = 0
        return pieces


def _head(at_ns: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the first `count` times, without keeping a larger array alive."""
    return at_ns if count == at_ns.size else at_ns[:count].copy()


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: want {low} … {high}, got {value}")
