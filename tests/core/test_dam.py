"""The dam against a slow one that counts in fractions and walks every tick."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batches import FrameBatch, concat
from core.dam import Dam, Judged
from core.dam_kernels import DRAIN_NS, FRAME_OVERHEAD, TOKEN, TOKENS, refill
from core.reasons import Drop
from tests.logs import Kept
from tests.plain import printed

LOW, HIGH = -(1 << 63), (1 << 63) - 1
Frame = tuple[int, int, int]  # at_ns, device, body_len


def batch(frames: list[Frame], first: int = 0) -> FrameBatch:
    """Frames whose body repeats the low byte of their index."""
    n = len(frames)
    columns: dict[str, Any] = {k: np.zeros(n, t) for k, t in FrameBatch.COLUMNS.items()}
    columns["at_ns"][:] = columns["clock_ns"][:] = [f[0] for f in frames]
    columns["key_lo"][:] = [f[1] for f in frames]
    columns["body_len"][:] = columns["size"][:] = [f[2] for f in frames]
    columns["body"][:] = np.cumsum(columns["body_len"], dtype=np.int64) - columns["body_len"]
    columns["index"][:] = np.arange(first, first + n)
    return FrameBatch(np.repeat(columns["index"].astype(np.uint8), columns["body_len"]), **columns)


@dataclass
class Slow:
    """The laws of the dam, one sentence a line."""

    rate_hz: int
    burst: int
    queue_len_max: int
    queue_bytes_max: int
    device_rate_hz: int = 0
    device_burst: int = 1
    devices_max: int = 1

    def __post_init__(self) -> None:
        self.tokens = Fraction(self.burst)
        self.now: int | None = None
        self.queue: deque[tuple[int, int]] = deque()
        self.devices: OrderedDict[int, tuple[Fraction, int]] = OrderedDict()
        self.out: list[tuple[int, int]] = []

    def fill(self, at_ns: int) -> None:
        assert self.now is not None
        gained = Fraction(self.rate_hz * (at_ns - self.now), TOKEN)
        self.tokens, self.now = min(Fraction(self.burst), self.tokens + gained), at_ns

    def boundaries(self, until_ns: int) -> None:
        assert self.now is not None
        at_ns = (self.now // DRAIN_NS + 1) * DRAIN_NS
        while self.queue and at_ns <= until_ns:
            self.fill(at_ns)
            while self.queue and self.tokens >= 1:
                self.tokens -= 1
                self.out.append((self.queue.popleft()[0], at_ns))
            at_ns += DRAIN_NS

    def advance(self, at_ns: int) -> int:
        self.now = at_ns if self.now is None else self.now
        at_ns = max(self.now, at_ns)
        self.boundaries(at_ns)
        self.fill(at_ns)
        return at_ns

    def drain(self) -> None:
        if self.queue:
            assert self.now is not None
            self.boundaries(HIGH)
            self.out += [(frame, self.now) for frame, _ in self.queue]
            self.queue.clear()

    def device_passes(self, device: int, now: int) -> bool:
        full = Fraction(self.device_burst)
        tokens, last = self.devices.pop(device, (full, now))
        tokens = min(full, tokens + Fraction(self.device_rate_hz * (now - last), TOKEN))
        if len(self.devices) == self.devices_max:
            self.devices.popitem(last=False)
        passes = tokens >= 1
        self.devices[device] = (tokens - passes, now)
        return passes

    def arrive(self, frame: int, at_ns: int, device: int, body_len: int) -> Drop:
        now = self.advance(at_ns)
        size = body_len + 64
        if self.device_rate_hz and not self.device_passes(device, now):
            return Drop.DEVICE_RATE
        if not self.queue and self.tokens >= 1:
            self.tokens -= 1
            self.out.append((frame, now))
            return Drop.PASSED
        if len(self.queue) >= self.queue_len_max:
            return Drop.QUEUE_FULL
        if self.depth_bytes + size > self.queue_bytes_max:
            return Drop.QUEUE_BYTES
        self.queue.append((frame, size))
        return Drop.QUEUED

    def retune(self, rate_hz: int, burst: int, at_ns: int) -> None:
        if self.now is None:
            self.tokens = Fraction(burst)
        else:
            self.advance(at_ns)
        self.rate_hz, self.burst = rate_hz, burst
        self.tokens = min(self.tokens, Fraction(burst))

    @property
    def depth_bytes(self) -> int:
        return sum(size for _, size in self.queue)


gaps = st.one_of(
    st.integers(0, 3),
    st.integers(0, 4 * DRAIN_NS),
    st.sampled_from([0, DRAIN_NS, DRAIN_NS - 1, 10**9, 10**12 + 1, 10**17, HIGH, LOW]),
    st.integers(-(10**9), 10**9),
)
starts = st.sampled_from([0, LOW, -1, 1_600_000_000_123_456_789, HIGH - 3 * DRAIN_NS, -(10**17)])
rates = st.sampled_from([1, 3, 50, 100, 997, 1_000_000])
bursts = st.sampled_from([1, 2, 7, 100_000_000])


@st.composite
def dams(draw: st.DrawFn) -> dict[str, int]:
    return {
        "rate_hz": draw(rates), "burst": draw(bursts),
        "queue_len_max": draw(st.integers(0, 9)),
        "queue_bytes_max": draw(st.sampled_from([0, 200, 1 << 20])),
        "device_rate_hz": draw(st.sampled_from([0, 0, 1, 100])),
        "device_burst": draw(st.integers(1, 4)), "devices_max": draw(st.integers(1, 3)),
    }  # fmt: skip


@st.composite
def arrivals(draw: st.DrawFn, max_size: int = 40) -> list[Frame]:
    """Frames whose times are steps from one another, cut off at the ends of int64."""
    at_ns, frames = draw(starts), []
    for gap, device, body_len in draw(
        st.lists(st.tuples(gaps, st.integers(0, 4), st.integers(0, 90)), max_size=max_size)
    ):
        at_ns = min(HIGH, max(LOW, at_ns + gap))
        frames.append((at_ns, device, body_len))
    return frames


def released(judged: Judged) -> list[tuple[int, int]]:
    """What left, as (index, time); and its bodies are still its own."""
    if judged.released is None:
        assert judged.released_at_ns.size == 0
        return []
    out = judged.released
    for index, at, size in zip(out.index, out.body, out.body_len, strict=True):
        assert (out.arena[at : at + size] == index % 256).all()
    return list(zip(out.index.tolist(), judged.released_at_ns.tolist(), strict=True))


def run(dam: Dam, frames: list[Frame], cuts: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Feed frames in pieces, and drain."""
    marks: list[int] = []
    out: list[tuple[int, int]] = []
    edges = [0, *sorted(min(c, len(frames)) for c in cuts), len(frames)]
    for first, last in pairwise(edges):
        judged = dam.arrive(batch(frames[first:last], first))
        marks += judged.marks.tolist()
        out += released(judged)
    return marks, out + released(dam.drain())


commands = st.one_of(
    st.tuples(st.just("tick"), gaps, st.just(1), st.just(1)),
    st.tuples(st.just("retune"), gaps, rates, bursts),
    st.tuples(st.just("restore"), st.just(0), st.just(1), st.just(1)),
    st.tuples(st.just("arrive"), st.integers(0, 12), st.just(1), st.just(1)),
)


@settings(max_examples=250, deadline=None)
@given(dams(), arrivals(), st.lists(commands, max_size=12))
def test_dam_equals_the_slow_one(
    bounds: dict[str, int], frames: list[Frame], steps: list[tuple[str, int, int, int]]
) -> None:
    """Through ticks, new rates and restarts, all the dam says and holds equals the reference."""
    dam, slow = Dam(**bounds, seed=1), Slow(**bounds)
    kept = Kept(dam)
    done, passed, at_ns = 0, 0, 0
    for kind, number, rate_hz, burst in [*steps, ("arrive", len(frames), 1, 1), ("drain", 0, 1, 1)]:
        to_ns = min(HIGH, max(LOW, at_ns + number))
        if kind == "arrive":
            some = frames[done : done + number]
            judged = dam.arrive(batch(some, done))
            assert judged.marks.tolist() == [
                slow.arrive(done + i, *frame) for i, frame in enumerate(some)
            ]
            done += len(some)
            at_ns = some[-1][0] if some else at_ns
        elif kind == "tick":
            judged = dam.tick(to_ns)
            slow.advance(to_ns)
        elif kind == "retune":
            judged = dam.retune(rate_hz, burst, to_ns)
            slow.retune(rate_hz, burst, to_ns)
        elif kind == "restore":
            kept.write(dam)
            dam = kept.read(Dam(**bounds, seed=2))
            continue
        else:
            judged = dam.drain()
            slow.drain()
        assert released(judged) == slow.out
        passed += len(slow.out)
        slow.out.clear()
        assert int(dam._state[TOKENS]) == slow.tokens * TOKEN
        assert 0 <= slow.tokens <= slow.burst
        assert (dam.depth, dam.depth_bytes) == (len(slow.queue), slow.depth_bytes)
        counts = dam.counts
        assert counts.arrived == done == counts.passed + counts.held + counts.dropped.sum()
        assert (counts.passed, counts.held) == (passed, dam.depth)
    assert dam.depth == dam.depth_bytes == 0


@settings(max_examples=150, deadline=None)
@given(dams(), arrivals(80), st.lists(st.integers(0, 80), max_size=20))
def test_batches_do_not_matter(
    bounds: dict[str, int], frames: list[Frame], cuts: list[int]
) -> None:
    """Any split of the arrivals gives the same marks and releases, in order of acceptance."""
    whole, split = Dam(**bounds, seed=3), Dam(**bounds, seed=4)
    marks, out = run(whole, frames, [])
    assert (marks, out) == run(split, frames, cuts)
    assert [index for index, _ in out] == [i for i, m in enumerate(marks) if m < Drop.QUEUE_FULL]
    times = [at_ns for _, at_ns in out]
    assert times == sorted(times)
    assert whole.depth_max == split.depth_max
    assert str(whole.counts) == str(split.counts)


@settings(max_examples=300, deadline=None)
@given(rates, bursts, st.integers(LOW, HIGH), st.integers(LOW, HIGH), st.data())
def test_refill_is_exact_for_any_times(
    rate_hz: int, burst: int, one: int, other: int, data: st.DataObject
) -> None:
    """No gap between two int64 times overflows, and tokens never exceed the burst."""
    last, now = min(one, other), max(one, other)
    tokens = data.draw(st.integers(0, burst * TOKEN))
    want = min(burst * TOKEN, tokens + rate_hz * (now - last))
    assert refill(tokens, burst * TOKEN, rate_hz, last, now) == want


@pytest.mark.parametrize("seed", range(4))
def test_long_overload_equals_the_slow_one(seed: int) -> None:
    """A queue that fills and drains for long, in batches of any size, keeps its order."""
    rng = np.random.default_rng(seed)
    bounds = {"rate_hz": 300, "burst": 3, "queue_len_max": 40, "queue_bytes_max": 1 << 20}
    dam, slow = Dam(**bounds), Slow(**bounds)
    frames = [(at_ns, 0, 7) for at_ns in np.cumsum(rng.integers(0, 6_666_666, 800)).tolist()]
    marks, out = run(dam, frames, rng.integers(0, 800, 200).tolist())
    assert marks == [slow.arrive(i, *frame) for i, frame in enumerate(frames)]
    slow.drain()
    assert out == slow.out


def test_worked_numbers() -> None:
    """100 frames/s, burst 2: two pass, three wait and leave at the boundaries where tokens are."""
    dam = Dam(rate_hz=100, burst=2, queue_len_max=3, queue_bytes_max=10_000)
    judged = dam.arrive(batch([(5, 0, 10)] * 6))
    assert judged.marks.tolist() == [0, 0, 1, 1, 1, 2]
    assert released(judged) == [(0, 5), (1, 5)]
    assert (dam.depth, dam.depth_bytes, dam.tokens) == (3, 3 * (10 + FRAME_OVERHEAD), 0)
    # At 10 ms there are 0.9999995 tokens; at 20 ms 1.9999995; at 30 ms, after one left, 1.9999995.
    assert released(dam.tick(DRAIN_NS)) == []
    assert released(dam.tick(2 * DRAIN_NS)) == [(2, 2 * DRAIN_NS)]
    assert released(dam.tick(DRAIN_NS)) == []
    assert released(dam.drain()) == [(3, 3 * DRAIN_NS), (4, 4 * DRAIN_NS)]
    assert (dam.depth_max, dam.counts.queued, dam.counts.passed_bytes) == (3, 3, 50)
    assert dam.counts.dropped.tolist() == [0, 0, 1, 0, 0]


def test_boundary_drains_before_its_arrival_is_judged() -> None:
    """An arrival exactly on a boundary finds the queue drained, and takes the token left over."""
    dam = Dam(rate_hz=200, burst=2, queue_len_max=9, queue_bytes_max=9_999)
    assert dam.arrive(batch([(0, 0, 1)] * 3)).marks.tolist() == [0, 0, 1]
    assert released(dam.arrive(batch([(DRAIN_NS, 0, 1)], 3))) == [(2, DRAIN_NS), (3, DRAIN_NS)]


def test_forgotten_device_starts_full() -> None:
    """A device evicted from the table and seen again has its burst back; one remembered has not."""
    dam = Dam(
        rate_hz=1000, burst=100, queue_len_max=0, queue_bytes_max=0,
        device_rate_hz=1, device_burst=1, devices_max=2,
    )  # fmt: skip
    devices = [1, 1, 2, 1, 3, 2, 3]
    marks = dam.arrive(batch([(0, device, 0) for device in devices])).marks.tolist()
    assert marks == [0, 4, 0, 4, 0, 0, 4]


def test_nothing_is_copied_when_everything_passes() -> None:
    """The very batch comes out again, also when frames waited within it."""
    dam = Dam(rate_hz=100, burst=2, queue_len_max=9, queue_bytes_max=9_999)
    frames = batch([(0, 0, 5)] * 2)
    assert dam.arrive(frames).released is frames
    waited = batch([(DRAIN_NS, 0, 5)] * 2 + [(10 * DRAIN_NS, 0, 5)])
    judged = dam.arrive(waited)
    assert judged.marks.tolist() == [0, 1, 0]
    assert judged.released is waited
    assert dam.arrive(batch([])).released is None


def test_held_frames_keep_no_arena_alive() -> None:
    """What stays queued is copied, its arena holds its bodies only, in few chunks."""
    dam = Dam(rate_hz=1, burst=1, queue_len_max=2000, queue_bytes_max=1 << 20)
    for i in range(600):
        frames = batch([(i, 0, 9)], i)
        frames.arena = np.concatenate([frames.arena, np.zeros(10_000, np.uint8)])
        dam.arrive(frames)
    assert dam.depth == 599
    assert sum(chunk.arena.size for chunk in dam._queue) == 599 * 9
    assert len(dam._queue) <= 12
    dam.tick(3 * 10**9)
    assert concat(dam._live()).index.tolist() == list(range(4, 600))


def test_restoring_under_smaller_bounds_loses_nothing_held() -> None:
    """A queue above the new bounds is kept and drains; until then arrivals are dropped."""
    large = Dam(rate_hz=100, burst=1, queue_len_max=50, queue_bytes_max=1 << 20)
    large.arrive(batch([(0, 0, 3)] * 20))
    kept = Kept(large)
    kept.write(large)
    small = kept.read(Dam(rate_hz=100, burst=1, queue_len_max=2, queue_bytes_max=1 << 20))
    assert small.arrive(batch([(1, 0, 3)], 20)).marks.tolist() == [Drop.QUEUE_FULL]
    assert [i for i, _ in released(small.drain())] == list(range(1, 20))


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate_hz", 0), ("rate_hz", 1_000_001), ("burst", 0), ("burst", 100_000_001),
     ("queue_len_max", -1), ("queue_bytes_max", -1), ("device_rate_hz", -1), ("device_burst", 0)],
)  # fmt: skip
def test_settings_out_of_bounds_are_refused(name: str, value: int) -> None:
    """Each bound is checked by name, when the dam is made and when it is retuned."""
    good = {"rate_hz": 1, "burst": 1, "queue_len_max": 1, "queue_bytes_max": 1}
    with pytest.raises(ValueError, match=name):
        Dam(**{**good, name: value})
    dam = Dam(**good)
    if name in {"rate_hz", "burst"}:
        with pytest.raises(ValueError, match=name):
            dam.retune(**{"rate_hz": 1, "burst": 1, name: value}, at_ns=0)
        assert dam.rate_hz == 1


def digest() -> str:
    """A long run with every kind of mark, extreme times included, in one line."""
    rng = np.random.default_rng(11)
    dam = Dam(
        rate_hz=300, burst=20, queue_len_max=30, queue_bytes_max=5000,
        device_rate_hz=40, device_burst=9, devices_max=20, seed=(1 << 64) - 1,
    )  # fmt: skip
    steps = rng.integers(-200_000, 1_500_000, 2500)
    steps[1500:1510] = 30 * DRAIN_NS
    times = [LOW, LOW + 1, *np.cumsum(steps).tolist(), HIGH - 1, HIGH, 0]
    frames = [
        (t, int(rng.zipf(1.5)) % 40, int(size))
        for t, size in zip(times, rng.integers(0, 200, len(times)), strict=True)
    ]
    marks, out = run(dam, frames, [7, 500, 501, 2000])
    assert set(marks) == set(Drop)
    text = repr((marks, out, dam.counts))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_plain_python_gives_the_same() -> None:
    """With `NUMBA_DISABLE_JIT=1` a long run gives the same marks, releases and totals."""
    assert printed(__file__) == digest()


if __name__ == "__main__":
    print(digest())
