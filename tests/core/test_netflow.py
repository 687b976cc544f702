"""Flows against a table written as a dictionary; every packet is in exactly one record."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batches import FrameBatch
from core.netflow import FlowBatch, FlowTable
from core.netflow_kernels import (
    BYTES,
    BYTES_BACK,
    END,
    END_ACTIVE,
    END_EVICTED,
    END_IDLE,
    END_INPUT,
    FIRST_NS,
    FLAGS,
    FLAGS_BACK,
    LAST_NS,
    ORDINAL,
    PACKETS,
    PACKETS_BACK,
)
from core.row_log import RowLog
from tests.core.test_community import ANSWERS
from tests.frames import SECOND_NS, frame_batch, parts
from tests.logs import Log

IDLE_S, ACTIVE_S = 2, 5
Packet = tuple[int, int, int, int, int, int, int, int]
"""at_ns, source, destination, protocol, source and destination port, TCP flags, size."""


def frames(packets: list[Packet]) -> FrameBatch:
    """Return packets as a batch; hosts are the low words of their addresses."""
    at, src, dst, proto, sport, dport, flags, size = zip(*packets, strict=True)
    return frame_batch(
        at_ns=at, key_lo=src, peer_lo=dst, proto=proto, sport=sport, dport=dport,
        ethertype=[0x0806 if p < 0 else 0x0800 for p in proto], tcp_flags=flags, size=size,
        source=[s % 3 for s in src],
    )  # fmt: skip


@dataclass
class Slow:
    """The laws of a flow table, one sentence a line."""

    flows_max: int
    now: int = 0
    live: OrderedDict[Any, dict[str, Any]] = field(default_factory=OrderedDict)
    out: list[dict[str, Any]] = field(default_factory=list)

    def finish(self, key: Any, end: int) -> dict[str, Any]:
        flow = self.live.pop(key)
        self.out.append(flow | {"end": end})
        return flow

    def packet(self, ordinal: int, packet: Packet) -> None:
        at, src, dst, proto, sport, dport, flags, size = packet
        self.now = max(self.now, at)
        while self.live:
            key, flow = next(iter(self.live.items()))
            if flow["last"] + IDLE_S * SECOND_NS > self.now:
                break
            self.finish(key, END_IDLE)
        pairs = ANSWERS.get(proto, {})
        pairs = pairs | {answer: ask for ask, answer in pairs.items()}
        ends = [(src, sport), (dst, pairs.get(sport, dport))]
        if proto not in ANSWERS or sport in pairs:
            ends.sort()
        key = (*ends, proto)
        start = (src, dst, sport, dport)
        if key not in self.live and len(self.live) == self.flows_max:
            self.finish(next(iter(self.live)), END_EVICTED)
        if key in self.live and self.live[key]["first"] + ACTIVE_S * SECOND_NS <= self.now:
            start = self.finish(key, END_ACTIVE)["start"]
        new = {"first": self.now, "start": start, "proto": proto, "ordinal": ordinal,
               "source": src % 3, "there": [0, 0, 0], "back": [0, 0, 0]}  # fmt: skip
        flow = self.live.pop(key, new)
        self.live[key] = flow
        flow["last"] = self.now
        side = "there" if (flow["start"][0], flow["start"][2]) == (src, sport) else "back"
        packets, total, seen = flow[side]
        flow[side] = [packets + 1, total + size, seen | flags]

    def rows(self) -> list[list[int]]:
        for key in list(self.live):
            self.finish(key, END_INPUT)
        return [
            [f["first"], f["last"], f["there"][0], f["there"][1], f["back"][0], f["back"][1],
             f["there"][2], f["back"][2], f["proto"], f["start"][2], f["start"][3],
             0x0806 if f["proto"] < 0 else 0x0800, f["ordinal"], f["end"],
             0, f["start"][0], 0, f["start"][1], f["source"]]
            for f in self.out
        ]  # fmt: skip


def rows(ended: list[FlowBatch]) -> list[list[int]]:
    """Return ended flows as rows of integers."""
    return [
        [*numbers, *names]
        for flows in ended
        for numbers, names in zip(flows.numbers.tolist(), flows.names.tolist(), strict=True)
    ]


def table(flows_max: int = 64, seed: int = 1) -> FlowTable:
    """Return an empty table."""
    return FlowTable(flows_max=flows_max, idle_s=IDLE_S, active_s=ACTIVE_S, seed=seed)


def run(packets: list[Packet], cuts: list[int], flows_max: int = 64) -> list[list[int]]:
    """Count packets cut into batches, and end everything."""
    flows = table(flows_max)
    ended = [flows.observe(part) for part in parts(frames(packets), cuts)] if packets else []
    return rows([*ended, flows.finish()])


HOSTS = st.integers(1, 3)
SIZES = st.integers(0, 1500)
FLAGS_SEEN = st.integers(0, 255)
MOVES = st.integers(0, 600_000_000) | st.integers(-SECOND_NS, 3 * SECOND_NS)
SHAPES = (
    st.tuples(st.sampled_from([6, 17]), st.integers(1, 2), st.integers(1, 2))
    | st.tuples(st.sampled_from([1, 58]), st.sampled_from([0, 3, 8, 128, 129]), st.integers(0, 3))
    | st.tuples(st.sampled_from([47, -1, 255]), st.just(0), st.just(0))
)
PACKETS_SEEN = st.lists(st.tuples(MOVES, HOSTS, HOSTS, SHAPES, FLAGS_SEEN, SIZES), max_size=40).map(
    lambda moves: [
        (int(at), src, dst, *shape, flags, size)
        for at, (_, src, dst, shape, flags, size) in zip(
            np.cumsum([10 * SECOND_NS] + [m[0] for m in moves])[1:], moves, strict=True
        )
    ]
)
CUTS = st.lists(st.integers(0, 40), max_size=6)


@given(PACKETS_SEEN, CUTS, st.integers(1, 6))
def test_any_packets_in_any_batches_are_the_flows_of_the_reference(
    packets: list[Packet], cuts: list[int], flows_max: int
) -> None:
    """Both directions, ICMP, timeouts, eviction and steps back in time, record by record."""
    slow = Slow(flows_max)
    for ordinal, packet in enumerate(packets):
        slow.packet(ordinal, packet)
    wanted = slow.rows()
    found = run(packets, cuts, flows_max)
    assert found == wanted
    assert sum(row[PACKETS] + row[PACKETS_BACK] for row in found) == len(packets)
    assert sum(row[BYTES] + row[BYTES_BACK] for row in found) == sum(p[7] for p in packets)


@given(PACKETS_SEEN.filter(bool), st.lists(st.integers(0, 40), max_size=5),
       st.integers(0, 2**64 - 1))  # fmt: skip
def test_a_snapshot_goes_on_as_if_nothing_had_happened(
    packets: list[Packet], cuts: list[int], seed: int
) -> None:
    """Restored under another seed, a table ends the same flows in the same order."""
    *begun, rest = parts(frames(packets), cuts)
    first, other = table(6), table(6, seed)
    flows, log = RowLog(first), Log()
    for part in begun:
        first.observe(part)
        log.write(flows)
    other.restore(first.snapshot())
    log.read(RowLog(other))
    assert rows([other.observe(rest), other.finish()]) == rows(
        [first.observe(rest), first.finish()]
    )
    assert len(other) == 0
    log.write(flows)
    log.read(RowLog(other))
    assert len(other) == 0


def at(seconds: float) -> int:
    """Return a time in ns."""
    return int(seconds * SECOND_NS)


def test_both_directions_are_one_flow_from_who_began() -> None:
    """The end that sent first is the source; what the other sends is counted as coming back."""
    flow, = run([(at(1), 9, 5, 6, 4000, 80, 0x02, 60), (at(1.1), 5, 9, 6, 80, 4000, 0x12, 70),
                 (at(1.2), 9, 5, 6, 4000, 80, 0x10, 50)], [])  # fmt: skip
    assert [flow[i] for i in (PACKETS, BYTES, PACKETS_BACK, BYTES_BACK)] == [2, 110, 1, 70]
    assert [flow[i] for i in (FLAGS, FLAGS_BACK, END)] == [0x12, 0x12, END_INPUT]
    assert flow[-4] == 9


def test_silence_ends_a_flow_and_age_reports_it_in_part() -> None:
    """A part keeps the source of the whole, even if only the other end is heard in it."""
    there, back = (9, 5, 17, 4000, 53, 0, 60), (5, 9, 17, 53, 4000, 0, 60)
    ended = run([(at(1), *there), *((at(2 + i), *back) for i in range(7)), (at(10), *there)], [])
    assert [row[END] for row in ended] == [END_ACTIVE, END_IDLE, END_INPUT]
    assert [row[-4] for row in ended] == [9, 9, 9]
    assert [(row[PACKETS], row[PACKETS_BACK]) for row in ended] == [(1, 4), (0, 3), (1, 0)]
    assert [(row[FIRST_NS], row[LAST_NS]) for row in ended] == [
        (at(1), at(5)), (at(6), at(8)), (at(10), at(10))
    ]  # fmt: skip
    assert [row[ORDINAL] for row in ended] == [0, 5, 8]


def test_a_step_back_in_time_ends_nothing() -> None:
    """Time stands still until packets catch up with the latest one."""
    packet = (9, 5, 17, 1, 2, 0, 60)
    (flow,) = run([(at(100), *packet), (at(1), *packet), (at(101), *packet)], [])
    assert (flow[FIRST_NS], flow[LAST_NS], flow[PACKETS]) == (at(100), at(101), 3)


@pytest.mark.parametrize("proto", [1, 58])
def test_only_icmp_messages_that_are_answered_share_a_flow(proto: int) -> None:
    """An echo and its reply are one flow; two hosts that report errors to each other are two."""
    ask, answer = next(iter(ANSWERS[proto].items()))
    echo = [(at(1), 9, 5, proto, ask, 0, 0, 60), (at(1), 5, 9, proto, answer, 0, 0, 60)]
    assert [row[PACKETS_BACK] for row in run(echo, [])] == [1]
    errors = [(at(1), 9, 5, proto, 3, 1, 0, 60), (at(1), 5, 9, proto, 3, 1, 0, 60)]
    assert [row[PACKETS_BACK] for row in run(errors, [])] == [0, 0]
    # A one-way message whose type and code are another's exchanged, the other way round.
    crossed = [(at(1), 5, 9, proto, 1, 3, 0, 60), (at(1), 9, 5, proto, 3, 1, 0, 60)]
    assert len(run(crossed, [])) == 2


def test_a_host_that_talks_to_itself() -> None:
    """Ports, or ICMP types, tell the two ends of one address apart."""
    for proto, there, back in ((6, (4000, 80), (80, 4000)), (1, (8, 0), (0, 0))):
        (flow,) = run([(at(1), 9, 9, proto, *there, 0, 1), (at(1), 9, 9, proto, *back, 0, 1)], [])
        assert (flow[PACKETS], flow[PACKETS_BACK]) == (1, 1)


def test_every_packet_of_a_new_source() -> None:
    """The table stays bounded, and the flow silent longest gives way, in order."""
    n, most = 20_000, 256
    flows = table(most)
    batch = frame_batch(
        at_ns=at(5) + np.arange(n), key_lo=np.arange(n), peer_lo=np.full(n, 7),
        proto=np.full(n, 17), size=np.ones(n),
    )  # fmt: skip
    ended = flows.observe(batch)
    assert len(flows) == most
    assert ended.numbers[:, ORDINAL].tolist() == list(range(n - most))
    assert set(ended.numbers[:, END].tolist()) == {END_EVICTED}
    assert len(flows.finish()) == most
    assert len(flows) == 0
