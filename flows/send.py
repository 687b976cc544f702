"""Send a scenario as UDP datagrams: the simulator, live.

Laws:

1. The same seed sends the payloads that `penstock simulate` writes, in the same order.
2. `packets = sent + Σ unsent + Σ left_out`, of what was due until it ended; nothing is left out but
   what no datagram can be: packets that are broken below UDP or are not for our port, and payloads
   larger than a datagram.
3. Memory is bounded: while one slice of the scenario is sent, one more is made, and one counted.

Not here: sockets and pace (`connectors.sender`).
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from connectors.clock import monotonic_ns
from connectors.sender import Sender
from core.errors import UsageError
from core.kernels import load_kernels
from core.odd import ODD, odd_each
from core.scenario import Kind, Traffic

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from connectors.sender import Schedule
    from core.endpoint import Endpoint
    from core.scenario import Plan

BEHIND_SHARE = 0.02
"""Part of the time by which sending may take longer than asked before a line says so."""


class SendSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent.

    Attributes:
        to: Where to: the address and port that were found.
        scenario: Its scenario.
        sent: Datagrams that the network took.
        seconds: How long it took, from the first moment of the scenario to the last.
        rate: Datagrams sent per second of these.
        bytes: Bytes of their payloads.
        frames: Those of them that hold a well-formed device frame.
        devices: Devices that sent at least one of those.
        malformed: The other ones, by kind.
        left_out: Packets of the scenario that no datagram can be, by kind.
        unsent: Datagrams that could not be sent.
        errors: How often the system gave which error; `ECONNREFUSED` for datagrams that were sent
            and that nobody took, others for what waited or is unsent.
        late_ms_max: How long after its time the latest datagram was sent, ms.
        interrupted: Whether a signal ended it before its time.
    """

    to: str
    scenario: str
    sent: int
    seconds: float
    rate: float
    bytes: int
    frames: int
    devices: int
    malformed: dict[str, int]
    left_out: dict[str, int]
    unsent: int
    errors: dict[str, int]
    late_ms_max: float
    interrupted: bool

    def line(self) -> str:
        """Return what people are told."""
        text = f"{self.to}: {self.sent:,} datagrams of {self.devices:,} devices"
        text += f" in {self.seconds:.1f} s, {self.rate:,.0f} a second, {self.bytes:,} bytes"
        if left_out := sum(self.left_out.values()):
            text += f"; {left_out:,} packets left out that no datagram can be"
        refused = self.errors.get("ECONNREFUSED", 0)
        parts = ((self.unsent, "could not be sent"), (refused, "answered: nobody listens"))
        return text + "".join(f"; {count:,} {what}" for count, what in parts if count)


def send(
    to: Endpoint,
    *,
    scenario: str,
    devices: int,
    rate_hz: float,
    seconds: float,
    seed: int,
    sources: int,
    gso: bool = False,
    stopping: threading.Event,
    notify: Callable[[str], None],
) -> SendSummary:
    """Send a scenario, steadily, from now on.

    Args:
        to: Where to.
        scenario: One of `core.scenario.SCENARIOS`.
        devices: Steady devices, 1 … 100,000.
        rate_hz: Frames of all steady devices together per second.
        seconds: Length of the scenario.
        seed: 0 or more; another seed sends others.
        sources: Sockets that devices are spread over.
        gso: Whether datagrams of one length go to the kernel several at a time.
        stopping: Set by whoever wants it to end early.
        notify: Is told, in one line, what the user should know.

    Returns:
        What was sent.

    Raises:
        UsageError: An argument is unknown or out of bounds.
        SinkError: The host is not known, or there is no way to it.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is out of bounds: give 0 or more")
    rng = np.random.Generator(np.random.PCG64(seed))
    traffic = Traffic(scenario, devices, rate_hz, seconds, rng, 0)
    sender = Sender(
        to, rate_hz, sources, stopping.is_set,
        gso=gso, on_error=lambda number: notify(_why(to, number, gso=gso)),
    )  # fmt: skip
    account = _Account(traffic, sender.payload_bytes_max)
    load_kernels()  # datagrams have their times, and wait for no compiler
    begun_ns = None
    with closing(sender):
        for schedule in _ahead(traffic, sender.lay_out, account.add, stopping.is_set):
            begun_ns = monotonic_ns() if begun_ns is None else begun_ns
            sender.send(schedule, begun_ns)
        begun_ns = monotonic_ns() if begun_ns is None else begun_ns
        sender.rest(begun_ns + traffic.end_ns)
        passed_ns = max(monotonic_ns() - begun_ns, 1)
    behind_ns = passed_ns - traffic.end_ns
    if behind_ns > BEHIND_SHARE * traffic.end_ns:
        took = f"{passed_ns * 1e-9:.1f} s instead of {seconds:g}"
        notify(f"{to}: sending took {took}; this machine sends no faster, ask for a lower rate")
    return account.summary(sender, passed_ns, interrupted=stopping.is_set())


def _ahead(
    traffic: Traffic,
    lay_out: Callable[[Plan], Schedule],
    count: Callable[[Schedule], None],
    stopping: Callable[[], bool],
) -> Iterator[Schedule]:
    """Yield the scenario slice by slice; beside it, make the next one and count the one before."""
    slices = map(lay_out, traffic.slices())
    counts: list[Future[None]] = []
    with ThreadPoolExecutor(1, "plan") as beside:
        coming = beside.submit(next, slices, None)
        while (schedule := coming.result()) is not None and not stopping():
            coming = beside.submit(next, slices, None)
            yield schedule
            counts.append(beside.submit(count, schedule))
    for each in counts:
        each.result()  # or what it failed with


class _Account:
    """Counts what was sent of each slice, and what was left out."""

    def __init__(self, traffic: Traffic, payload_bytes_max: int) -> None:
        self._traffic, self._payload_bytes_max = traffic, payload_bytes_max
        self._kinds = np.zeros(len(Kind), np.int64)
        self._seen = np.zeros(traffic.population, np.bool_)
        self._bytes = self._unsent = self._too_large = 0

    def add(self, schedule: Schedule) -> None:
        """Count a slice that was sent, or as much of it as was."""
        plan, rows = schedule.plan, schedule.rows(sent=True)
        self._kinds += np.bincount(plan.kind[rows], minlength=len(Kind))
        self._seen[plan.device[rows[plan.kind[rows] == Kind.WELL_FORMED]]] = True
        self._bytes += int(plan.length[rows].sum())
        self._unsent += schedule.rows(sent=False).size
        next_ns = [
            share.at_ns[share.done] for share in schedule.shares if share.done < share.ends.size
        ]
        due = plan.at_ns < min(next_ns, default=self._traffic.end_ns)
        large = (plan.length > self._payload_bytes_max) & due
        self._too_large += int(large.sum())

    def summary(self, sender: Sender, passed_ns: int, *, interrupted: bool) -> SendSummary:
        """Return what was sent in some time."""
        sent = int(self._kinds.sum())
        malformed = {kind.name.lower(): int(self._kinds[kind]) for kind in Kind if kind}
        return SendSummary(
            to=sender.address,
            scenario=self._traffic.scenario,
            sent=sent,
            seconds=round(passed_ns * 1e-9, 6),
            rate=round(sent / (passed_ns * 1e-9), 3),
            bytes=self._bytes,
            frames=int(self._kinds[Kind.WELL_FORMED]),
            devices=int(self._seen.sum()),
            malformed={name: count for name, count in malformed.items() if count},
            left_out=self._left_out(passed_ns),
            unsent=self._unsent,
            errors=dict(sorted(sender.errors.items())),
            late_ms_max=round(sender.late_ns_max * 1e-6, 3),
            interrupted=interrupted,
        )

    def _left_out(self, passed_ns: int) -> dict[str, int]:
        """Return how many packets of each kind were due and are no datagrams."""
        odd = int(odd_each(self._traffic) * len(ODD) * min(passed_ns / self._traffic.end_ns, 1.0))
        each = np.bincount(np.arange(odd) % len(ODD), minlength=len(ODD)).tolist()
        large = [(Kind.BODY_TOO_LARGE.name.lower(), self._too_large)]
        return {name: count for name, count in [*large, *zip(ODD, each, strict=True)] if count}


def _why(to: Endpoint, number: int, *, gso: bool) -> str:
    """Say in one line what an error means for who sends."""
    name, text = errno.errorcode.get(number, number), os.strerror(number)
    if number == errno.ECONNREFUSED:
        return f"{to}: nobody listens there ({name}); sending goes on"
    if gso and number in (errno.EIO, errno.EINVAL):
        return f"{to}: the way there takes no bundles ({name}); send without --gso"
    return f"{to}: {text} ({name}); such datagrams are counted, and sending goes on"
