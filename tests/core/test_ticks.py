"""Ticks: time without packets gives what the next packet would have given, only sooner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.dam import Dam
from core.dam_kernels import DRAIN_NS
from core.netflow import FlowTable
from core.netflow_kernels import END, END_IDLE, ORDINAL
from tests.core.test_netflow import ACTIVE_S, IDLE_S, Packet, frames, rows
from tests.frames import SECOND_NS, frame_batch

STEPS = st.lists(
    st.tuples(st.sampled_from([0, 10_000_000, SECOND_NS, 3 * SECOND_NS]), st.integers(1, 4)),
    min_size=1, max_size=20,
)  # fmt: skip


@given(st.sampled_from([1, 3, 99, 100, 101, 1000]), st.integers(1, 9), st.integers(0, 30))
def test_a_dam_knows_when_the_next_frame_leaves(rate_hz: int, burst: int, late_ns: int) -> None:
    """Before that time a tick does nothing, at it a frame leaves; then the next is due."""
    dam = Dam(rate_hz=rate_hz, burst=burst, queue_len_max=50, queue_bytes_max=1 << 20)
    assert dam.next_ns is None
    at_ns = 5 * SECOND_NS + late_ns
    dam.arrive(frame_batch(at_ns=[at_ns] * (burst + 4), key_lo=range(burst + 4)))
    left = 0
    while (next_ns := dam.next_ns) is not None:
        assert next_ns % DRAIN_NS == 0
        assert dam.tick(next_ns - 1).released is None
        assert dam.next_ns == next_ns
        released = dam.tick(next_ns).released
        assert released is not None
        left += len(released)
    assert left == 4


@given(STEPS)
def test_flows_end_by_ticks_as_they_do_by_packets(steps: list[tuple[int, int]]) -> None:
    """The same records in the same order; each flow that a tick ended was silent for long."""
    packets: list[Packet] = []
    at_ns = SECOND_NS
    for step_ns, host in steps:
        at_ns += step_ns
        packets.append((at_ns, host, 9, 17, 1000, 53, 0, 60))
    plain, ticked = _table(), _table()
    wanted = [plain.observe(frames(packets)), plain.finish()]
    found = []
    for packet in packets:
        if (next_ns := ticked.next_ns) is not None:
            assert len(ticked.tick(next_ns - 1)) == 0
            if next_ns <= packet[0]:
                ended = ticked.tick(next_ns)
                assert ended.numbers[:, END].tolist() == [END_IDLE] * max(1, len(ended))
                found.append(ended)
        ended = ticked.tick(packet[0])
        found.append(ended)
        found.append(ticked.observe(frames([packet])))
    found.append(ticked.finish())
    assert [row[:ORDINAL] for row in rows(found)] == [row[:ORDINAL] for row in rows(wanted)]
    assert ticked.next_ns is None


def _table() -> FlowTable:
    return FlowTable(flows_max=16, idle_s=IDLE_S, active_s=ACTIVE_S, seed=1)
