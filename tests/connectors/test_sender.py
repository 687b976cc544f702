"""The sender: real datagrams on loopback, at times of a clock that the tests turn."""

from __future__ import annotations

import ctypes
import errno
import itertools
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from connectors import sender as module
from connectors.sender import BURST_MIN, GAP_NS, Schedule, Sender
from core.endpoint import Endpoint, parse
from core.errors import SinkError, UsageError
from core.scenario import Plan
from tests.receiver import Receiver, nobody

MS = 1_000_000


class Clock:
    """Stands still but for sleeping, and shows what was done at each time."""

    def __init__(self, seen: Callable[[], int] = lambda: 0) -> None:
        self.now_ns = 10**15
        self.begun_ns, self._seen = self.now_ns, seen
        self.steps: list[tuple[int, int]] = []

    def now(self) -> int:
        return self.now_ns

    def until(self, at_ns: int) -> None:
        assert at_ns > self.now_ns
        self.steps.append((self.now_ns - self.begun_ns, self._seen()))
        self.now_ns = at_ns


def planned(at_ns: list[int], *, devices: int = 7, sizes: list[int] | None = None) -> Plan:
    """Return payloads due at some times; each says who sends it and the how many-th it is."""
    sizes = sizes or [12 + i % 5 for i in range(len(at_ns))]
    device = np.arange(len(at_ns), dtype=np.int32) * 3 % devices
    payloads = [
        f"{d:04d} {i:06d}".encode().ljust(size, b".")[:size]
        for i, (d, size) in enumerate(zip(device.tolist(), sizes, strict=True))
    ]
    length = np.array(sizes, np.int32)
    return Plan(
        np.frombuffer(b"".join(payloads), np.uint8).copy(), np.array(at_ns, np.int64), device,
        np.cumsum(length, dtype=np.int64) - length, length, np.zeros(len(at_ns), np.uint8),
    )  # fmt: skip


def payloads(plan: Plan) -> list[bytes]:
    whole = plan.arena.tobytes()
    return [
        whole[a : a + n] for a, n in zip(plan.start.tolist(), plan.length.tolist(), strict=True)
    ]


def made(to: Endpoint, clock: Clock, rate_hz: float = 1e3, sources: int = 1, **more: Any) -> Sender:
    return Sender(to, rate_hz, sources, lambda: False, now=clock.now, until=clock.until, **more)


def sent(sender: Sender, plan: Plan, clock: Clock) -> Schedule:
    """Send a plan from the beginning of the clock."""
    schedule = sender.lay_out(plan)
    with closing(sender):
        sender.send(schedule, clock.begun_ns)
    return schedule


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_are_those_of_the_plan(host: str) -> None:
    """Byte for byte and in order, over IPv4 and IPv6, an empty one and a large one among them."""
    sizes = [0, 1400, 22, 9000, *range(1, 700)]
    plan, clock = planned([i * MS // 10 for i in range(len(sizes))], sizes=sizes), Clock()
    with Receiver(host) as receiver:
        sender = made(receiver.endpoint, clock)
        assert parse(sender.address) == receiver.endpoint
        schedule = sent(sender, plan, clock)
        assert receiver.end() == payloads(plan)
    assert schedule.rows(sent=True).tolist() == list(range(len(sizes)))
    assert not sender.errors


def test_nothing_is_early_and_nothing_in_larger_bursts() -> None:
    """Due ones go when they are due, at most a burst a time; what is late catches up in bursts."""
    at_ns = [0, 1, *[5 * MS] * 1000, 9 * MS, 600 * MS]
    plan = planned(at_ns)
    with Receiver() as receiver:
        calls: list[int] = []
        clock = Clock(lambda: sum(calls))
        sender = made(receiver.endpoint, clock, rate_hz=100_000.0)
        whole = module._sendmmsg

        def counted(fd: int, begin: int, count: int, flags: int) -> int:
            calls.append(whole(fd, begin, count, flags))
            return calls[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_sendmmsg", counted)
            sent(sender, plan, clock)
        assert receiver.end() == payloads(plan)
    assert max(calls) == 100  # what a ms holds at that rate
    for at, done in clock.steps:
        assert done <= sum(due <= at for due in at_ns)
    # All but the last one are sent no later than bursts allow.
    bursts = [at for (at, done), (_, after) in itertools.pairwise(clock.steps) if after != done]
    assert bursts[-1] <= 9 * MS + 10 * GAP_NS
    awake = [at for at, _ in clock.steps]
    assert min(b - a for a, b in itertools.pairwise(awake)) >= GAP_NS
    assert sender.late_ns_max == 9 * GAP_NS


def test_the_smallest_burst_is_not_small() -> None:
    """At a low rate what is late goes in bursts of `BURST_MIN`."""
    plan, clock = planned([0] * 3 * BURST_MIN + [60 * 1000 * MS]), Clock()
    with Receiver() as receiver:
        sender = made(receiver.endpoint, clock, rate_hz=1.0)
        sent(sender, plan, clock)
        assert receiver.end() == payloads(plan)
    assert [at for at, _ in clock.steps][:3] == [0, GAP_NS, 2 * GAP_NS]


def test_bursts_are_those_of_the_plan_where_it_has_more_than_was_asked() -> None:
    """A herd of 500,000 a second goes at its own rate, a ms at once when it is late."""
    plan = planned([i * 2_000 for i in range(5_000)])
    with closing(made(nobody(), Clock(), rate_hz=1e3, sources=2)) as sender:
        assert sender.lay_out(plan).burst == 250
        assert sender.lay_out(plan.take(slice(0, 0))).burst == BURST_MIN / 2


def test_long_waits_look_whether_to_stop() -> None:
    """Who waits for the next datagram for an hour notices a stop within 50 ms."""
    plan, clock = planned([3600 * 1000 * MS]), Clock()
    stopping = iter([False] * 10)
    sender = Sender(
        nobody(), 1.0, 1, lambda: next(stopping, True), now=clock.now, until=clock.until
    )
    schedule = sent(sender, plan, clock)
    assert schedule.rows(sent=True).size == 0
    assert 0 < clock.now_ns - clock.begun_ns <= 10 * 50 * MS


def test_devices_are_spread_over_sources() -> None:
    """Each device has one source and its order; together they are the plan."""
    plan, clock = planned([i * MS // 20 for i in range(2000)]), Clock()
    with Receiver() as receiver:
        sent(made(receiver.endpoint, clock, sources=3), plan, clock)
        got = receiver.end()
        ports = {(payload[:4], where[1]) for payload, where in receiver.got}
    assert sorted(got) == sorted(payloads(plan))
    assert len(ports) == 7
    assert len({port for _, port in ports}) == 3
    for device in {payload[:4] for payload in got}:
        mine = [payload for payload in got if payload[:4] == device]
        assert mine == sorted(mine)


def test_nobody_listens() -> None:
    """It is told once and counted; the datagrams were sent all the same."""
    plan, clock = planned([i * MS for i in range(200)] + [200 * MS] * 200), Clock()
    told: list[int] = []
    sender = made(nobody(), clock, on_error=told.append)
    schedule = sent(sender, plan, clock)
    assert schedule.rows(sent=True).size == 400
    assert told == [errno.ECONNREFUSED]
    # Loopback answers at once and each datagram; elsewhere answers are rarer.
    assert dict(sender.errors) == {"ECONNREFUSED": 400}


def test_what_is_too_large_is_in_no_share() -> None:
    """IPv6 takes 20 bytes more than IPv4; nothing asks the kernel for what neither has."""
    sizes = [65_507, 65_508, 65_527, 65_528, 9]
    for host, fit in (("127.0.0.1", [0, 4]), ("::1", [0, 1, 2, 4])):
        plan, clock = planned([0] * 5, sizes=sizes), Clock()
        with Receiver(host) as receiver:
            sender = made(receiver.endpoint, clock)
            schedule = sent(sender, plan, clock)
            assert receiver.end() == [payloads(plan)[i] for i in fit]
        assert schedule.rows(sent=True).tolist() == fit
        assert not sender.errors


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_handed_over_together_arrive_one_by_one(host: str) -> None:
    """The same bytes, each device's in order, in fewer messages; empty and large ones go alone."""
    sizes = [0, 1400, *[72, 90, 72] * 600]
    at_ns, clock = [i * MS // 100 for i in range(len(sizes))], Clock()
    plan = planned(at_ns, devices=100, sizes=sizes)
    with Receiver(host) as receiver:
        schedule = sent(made(receiver.endpoint, clock, rate_hz=1e5, gso=True), plan, clock)
        got = receiver.end()
    assert sorted(got) == sorted(payloads(plan))
    for device in range(100):
        mine = [each for each in payloads(plan) if each.startswith(b"%04d" % device)]
        assert [each for each in got if each.startswith(b"%04d" % device)] == mine
    assert schedule.shares[0].ends.size < len(sizes) / 8
    assert sorted(schedule.rows(sent=True).tolist()) == list(range(len(sizes)))
    assert schedule.rows(sent=False).size == 0


@pytest.mark.parametrize(
    ("number", "unsent"),
    [
        (errno.EAGAIN, 0),
        (errno.ENOBUFS, 0),
        (errno.EINTR, 0),
        (errno.ECONNREFUSED, 0),
        (errno.EPERM, 3),
        (errno.EMSGSIZE, 3),
        (errno.ENETUNREACH, 3),
    ],
)
def test_errors_have_names(monkeypatch: pytest.MonkeyPatch, number: int, unsent: int) -> None:
    """A full queue is waited for, other errors cost the datagram; calls cut short are continued."""
    whole, calls = module._sendmmsg, itertools.count()

    def failing(fd: int, begin: int, count: int, flags: int) -> int:
        call = next(calls)
        if call < 3:
            ctypes.set_errno(number)
            return -1
        return int(whole(fd, begin, min(count, 1 + call % 3), flags))

    monkeypatch.setattr(module, "_sendmmsg", failing)
    plan, clock = planned([0] * 50), Clock()
    with Receiver() as receiver:
        sender = made(receiver.endpoint, clock)
        schedule = sent(sender, plan, clock)
        assert receiver.end() == payloads(plan)[unsent:]
    assert schedule.rows(sent=True).tolist() == list(range(unsent, 50))
    assert schedule.rows(sent=False).tolist() == list(range(unsent))
    name = errno.errorcode[number]
    assert dict(sender.errors) == ({name: 3} if number != errno.EINTR else {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-host.invalid:9", "name a host that is known, or an address"),
        (f"{'x' * 300}:9", "not a name of a host"),
        ("255.255.255.255:9", "cannot be sent to: Permission denied"),
    ],
)
def test_where_nothing_can_be_sent_to_is_named(text: str, said: str) -> None:
    """A host that is not known, and one that the system does not let us send to."""
    with pytest.raises(SinkError, match=said) as caught:
        made(parse(text), Clock())
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sources", [0, 257])
def test_sources_have_bounds(sources: int) -> None:
    """At least one socket, and not more than a process may open."""
    with pytest.raises(UsageError, match=f"sources {sources} is out of bounds: give 1 to 256"):
        made(nobody(), Clock(), sources=sources)
