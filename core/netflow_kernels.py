"""The loops of `core.netflow`: packets into flows, ended flows into rows.

Laws: those of `core.netflow` and of `core.kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.community import icmp_answer
from core.kernels import A2_i8, A2_u8, A_i4, A_i8, A_u1, A_u8, Tuple, b1, i8, kernel, none, u8
from core.keytable import TABLE, find_or_insert, oldest, remove
from core.protocols import PROTO_ICMP, PROTO_ICMPV6

WORDS = 5

# Columns of a flow's numbers. "Back" is what the end that answered sent.
FIRST_NS, LAST_NS, PACKETS, BYTES, PACKETS_BACK, BYTES_BACK = 0, 1, 2, 3, 4, 5
FLAGS, FLAGS_BACK, PROTO, SPORT, DPORT, ETHERTYPE, ORDINAL, END = 6, 7, 8, 9, 10, 11, 12, 13
NUMBERS = 14
# Columns of its words: the end that began it, the other end, the file of its first packet.
SRC_HI, SRC_LO, DST_HI, DST_LO, SOURCE = 0, 1, 2, 3, 4
NAMES = 5

END_IDLE, END_ACTIVE, END_EVICTED, END_INPUT = 0, 1, 2, 3

FLOWS_T = Tuple((A2_i8, A2_u8))
FRAMES_T = Tuple((
    A_i8, A_u8, A_u8, A_u8, A_u8, A_i4, A_i4, A_i4, A_i4, A_u1, A_i4, A_u8, A_i8,
))  # fmt: skip


@kernel(none(u8, u8, i8, u8, u8, i8, i8, i8, A_u8))
def _probe(
    src_hi: Any, src_lo: Any, sport: Any, dst_hi: Any, dst_lo: Any, dport: Any, proto: Any,
    ethertype: Any, probe: Any,
) -> None:  # fmt: skip
    """Write the key of a packet's flow, alike for both directions.

    An ICMP request and its answer share a flow; other ICMP messages are one-way, and their ends
    are not exchanged: just as in the Community ID, or one flow would have packets of two ids.
    """
    one_way = False
    if proto in (PROTO_ICMP, PROTO_ICMPV6):
        answer = icmp_answer(proto, sport)
        one_way = answer < 0
        if not one_way:
            dport = answer
    swap = src_hi > dst_hi or (
        src_hi == dst_hi and (src_lo > dst_lo or (src_lo == dst_lo and sport > dport))
    )
    if swap and not one_way:
        src_hi, src_lo, dst_hi, dst_lo = dst_hi, dst_lo, src_hi, src_lo
        sport, dport = dport, sport
    probe[0] = src_hi
    probe[1] = src_lo
    probe[2] = dst_hi
    probe[3] = dst_lo
    # Fields of 16, 16, 16 and 9 bits, because without IP the protocol is -1.
    probe[4] = np.uint64(
        (int(sport) << 41) | (int(dport) << 25) | (int(ethertype) << 9) | (int(proto) + 1)
    )


@kernel(i8(FLOWS_T, i8, i8, FLOWS_T, i8))
def _emit(flows: Any, slot: Any, end: Any, out: Any, count: Any) -> Any:
    """Copy an ended flow to the output; return the new number of rows."""
    for i in range(NUMBERS):
        out[0][count, i] = flows[0][slot, i]
    for i in range(NAMES):
        out[1][count, i] = flows[1][slot, i]
    out[0][count, END] = end
    return count + 1


@kernel(i8(TABLE, FLOWS_T, i8, i8, FLOWS_T, i8))
def expire(table: Any, flows: Any, now: Any, idle_ns: Any, out: Any, count: Any) -> Any:
    """End the flows that have been silent; return the new number of rows of `out`."""
    slot = oldest(table)
    while slot >= 0 and now - flows[0][slot, LAST_NS] >= idle_ns:
        count = _emit(flows, slot, END_IDLE, out, count)
        remove(table, slot)
        slot = oldest(table)
    return count


@kernel(none(FLOWS_T, i8, i8, FRAMES_T, i8, b1))
def _begin(flows: Any, slot: Any, now: Any, frames: Any, i: Any, fresh: Any) -> None:
    """Begin a flow, or the next part of one, with packet `i` as its first.

    The parts of a flow have the same source, whoever sends the first packet of each.
    """
    numbers, names = flows
    for j in range(PACKETS, FLAGS_BACK + 1):
        numbers[slot, j] = 0
    numbers[slot, FIRST_NS] = now
    numbers[slot, ORDINAL] = frames[12][i]
    names[slot, SOURCE] = frames[11][i]
    if not fresh:
        return
    numbers[slot, PROTO] = frames[5][i]
    numbers[slot, SPORT] = frames[6][i]
    numbers[slot, DPORT] = frames[7][i]
    numbers[slot, ETHERTYPE] = frames[8][i]
    names[slot, SRC_HI] = frames[1][i]
    names[slot, SRC_LO] = frames[2][i]
    names[slot, DST_HI] = frames[3][i]
    names[slot, DST_LO] = frames[4][i]


@kernel(i8(TABLE, FLOWS_T, A_i8, i8, i8, FRAMES_T, A_u8, FLOWS_T))
def observe(
    table: Any, flows: Any, clock: Any, idle_ns: Any, active_ns: Any, frames: Any, probe: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Count packets into their flows; return how many ended flows were written to `out`.

    A packet that steps back in time is counted at the latest time seen, `clock[0]`.
    """
    at_ns, src_hi, src_lo, dst_hi, dst_lo, proto, sport, dport, ethertype, flags, size, _, _ = (
        frames
    )
    numbers, names = flows
    count = 0
    for i in range(at_ns.size):
        now = max(clock[0], at_ns[i])
        clock[0] = now
        count = expire(table, flows, now, idle_ns, out, count)
        _probe(
            src_hi[i], src_lo[i], sport[i], dst_hi[i], dst_lo[i], dport[i], proto[i],
            ethertype[i], probe,
        )  # fmt: skip
        slot, evicted, fresh = find_or_insert(table, probe)
        if evicted:
            count = _emit(flows, slot, END_EVICTED, out, count)
        old = not fresh and now - numbers[slot, FIRST_NS] >= active_ns
        if old:
            count = _emit(flows, slot, END_ACTIVE, out, count)
        if fresh or old:
            _begin(flows, slot, now, frames, i, fresh)
        numbers[slot, LAST_NS] = now
        # Ports tell the ends of a host that talks to itself apart; of ICMP, the types do.
        back = (
            names[slot, SRC_HI] != src_hi[i]
            or names[slot, SRC_LO] != src_lo[i]
            or numbers[slot, SPORT] != sport[i]
        )
        if back:
            numbers[slot, PACKETS_BACK] += 1
            numbers[slot, BYTES_BACK] += size[i]
            numbers[slot, FLAGS_BACK] |= int(flags[i])
        else:
            numbers[slot, PACKETS] += 1
            numbers[slot, BYTES] += size[i]
            numbers[slot, FLAGS] |= int(flags[i])
    return count


@kernel(i8(TABLE, FLOWS_T, FLOWS_T))
def end_all(table: Any, flows: Any, out: Any) -> Any:
    """End every flow, the one silent longest first; return how many rows were written."""
    count = 0
    slot = oldest(table)
    while slot >= 0:
        count = _emit(flows, slot, END_INPUT, out, count)
        remove(table, slot)
        slot = oldest(table)
    return count


@kernel(none(FLOWS_T, A_i8, A2_u8))
def key_many(flows: Any, slots: Any, keys: Any) -> None:
    """Write the key of the flow in each slot: that of its first packet."""
    numbers, names = flows
    for i in range(slots.size):
        slot = slots[i]
        _probe(
            names[slot, SRC_HI], names[slot, SRC_LO], numbers[slot, SPORT],
            names[slot, DST_HI], names[slot, DST_LO], numbers[slot, DPORT],
            numbers[slot, PROTO], numbers[slot, ETHERTYPE], keys[i],
        )  # fmt: skip
