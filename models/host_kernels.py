"""The loop of `models.host_watch`: packets of hosts, one after another, each against its past.

Laws: those of `models.watch` and of `core.kernels`.

A host calls: it sends the first packet of a TCP connection, asks by ARP who has an address, or
sends a datagram to a service. What became of a call is told from packets of the caller alone, which
are in one shard: the handshake it completes, the packets it sends to who was found, the third
datagram. Whoever calls hosts and ports it never called before, and fails, does not know them.

Sources: the sequential test of first contacts is the threshold random walk of J. Jung, V. Paxson,
A. Berger and H. Balakrishnan, "Fast portscan detection using sequential hypothesis testing" (2004),
with θ₀ = 0.8 and θ₁ = 0.2, by which a failure and a success weigh the same (ln 4), and with the
clamp of Page's cumulative sum (1954) instead of its lower bound, because hosts change their minds;
distinct counts as in `models.features`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.kernels import (
    A2_f8,
    A2_i8,
    A2_u8,
    A_f8,
    A_i8,
    A_u1,
    Tuple,
    b1,
    f8,
    i8,
    kernel,
    mix,
    none,
    u8,
)
from core.keytable import TABLE, find, find_or_insert_pair, oldest, remove
from core.link import ETHERTYPE_ARP
from core.protocols import PROTO_TCP, PROTO_UDP
from models.contact_kernels import (
    ANSWERED,
    CALLED_SECOND,
    CONTACT_T,
    FRAMES_T,
    HEARD,
    LAST_CONTACT,
    SCAN_CALLS,
    SPORT,
    STATE,
    TRIES,
    UNKNOWN,
    contact,
    repeat,
)
from models.watch_kernels import (
    BEGUN,
    IN_SECOND,
    LAST_NS,
    LATE_NS,
    MET_NS,
    OUT_T,
    RATE,
    RATED,
    SCANNED,
    SECOND,
    SECOND_NS,
    SECOND_ORDINAL,
    TOLD_COUNT,
    TOLD_FROM,
    begin,
    end_second,
    leak,
    tell,
)

# Rules in the order of `models.host_watch.RULES`; those of contacts follow.
FLOOD, ACROSS, DOWN = 0, 1, 2

# Of a host, numbers after those of its rate: first contacts of this second and of the one before
# whose end is not known; those since the walk left zero, the first of them and its time.
PENDING, PENDING_WAS, CALLS, CALL_ORDINAL, CALL_NS = range(RATED, RATED + 5)
INTS = RATED + 5
# Sums, after usual packets/s: failures less successes of first contacts, and their time.
WALK, WALKED_S = 1, 2
SUMS = 3
# Tags: sketches of hosts and of ports that were called in vain, the file of its last packet.
PEERS, PORTS, SOURCE = 0, 1, 2
TAGS = 3

FORGIVEN_S = 60.0
"""One first contact that failed is forgiven in this time."""
BURST = 64
"""So many first contacts within a second that came to nothing yet are not waited for."""
UDP_EPHEMERAL = 32_768
"""Ports from here on are those of clients, and what is sent there is an answer."""
UDP_DNS, UDP_NTP = 53, 123
BEACON_QUIET_NS = SECOND_NS
"""Datagrams with shorter pauses than this are one call."""
_SYN, _ACK, _RST = 0x02, 0x10, 0x04
_ARP = ETHERTYPE_ARP << 32
"""What is called by a question of ARP."""

HOST_T = Tuple((A2_i8, A2_f8, A2_u8))


@kernel(f8(u8))
def _distinct(sketch: Any) -> Any:
    """Estimate how many different things set the bits of a 64-bit sketch."""
    empty = 0
    for i in range(64):
        if (sketch >> np.uint64(i)) & np.uint64(1) == np.uint64(0):
            empty += 1
    return 64.0 * math.log(64.0 / max(empty, 0.5))


@kernel(b1(u8, u8), inline=True)
def _is_one(hi: Any, lo: Any) -> Any:
    """Tell whether an address is that of one host, as far as it tells by itself."""
    if hi == np.uint64(0) and lo >> np.uint64(32) == np.uint64(0xFFFF):
        ipv4 = lo & np.uint64(0xFFFFFFFF)
        return ipv4 >> np.uint64(28) < np.uint64(14) and ipv4 & np.uint64(0xFF) != np.uint64(0xFF)
    return hi >> np.uint64(56) != np.uint64(0xFF)


@kernel(b1(A2_i8, A2_f8, A2_u8, i8, i8, A_f8))
def _fail(ints: Any, sums: Any, tags: Any, slot: Any, second: Any, limits: Any) -> Any:
    """Count first contacts that came to nothing as failures; tell whether they are too many."""
    failed = ints[slot, PENDING_WAS]
    if second - ints[slot, SECOND] > 1:
        failed += ints[slot, PENDING]
        ints[slot, PENDING_WAS] = 0
    else:
        ints[slot, PENDING_WAS] = ints[slot, PENDING]
    ints[slot, PENDING] = 0
    walk = leak(sums, slot, WALK, float(second), FORGIVEN_S) + failed
    sums[slot, WALK] = walk
    if walk == 0.0 and ints[slot, PENDING_WAS] == 0:
        ints[slot, CALLS] = 0
        tags[slot, PEERS] = np.uint64(0)
        tags[slot, PORTS] = np.uint64(0)
    return failed > 0 and walk >= limits[SCAN_CALLS]


@kernel(none(A2_i8, A2_u8, i8, i8, i8, u8, u8, f8, A_f8, OUT_T, A_i8))
def _tell_scan(
    ints: Any, tags: Any, slot: Any, now: Any, window: Any, hi: Any, lo: Any, walk: Any,
    limits: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Tell of a scan: of many hosts, or of many ports."""
    peers, ports = _distinct(tags[slot, PEERS]), _distinct(tags[slot, PORTS])
    rule = DOWN if ports > peers else ACROSS
    tell(out, sizes, rule, window, ints[slot, CALL_NS], now, ints[slot, CALLS],
         ints[slot, CALL_ORDINAL], hi, lo, tags[slot, SOURCE], walk,
         limits[SCAN_CALLS], ports if rule == DOWN else peers)  # fmt: skip
    if sizes[0] > 0:
        out[2][sizes[0] - 1, 3] = peers if rule == DOWN else ports
    # Those were told; the next window counts its own.
    ints[slot, CALLS] = 0


@kernel(none(TABLE, HOST_T, CONTACT_T, i8, i8, u8, u8, u8, u8, i8))
def _answer(
    table: Any, hosts: Any, contacts: Any, slot: Any, second: Any, hi: Any, lo: Any, peer_hi: Any,
    peer_lo: Any, kind: Any,
) -> None:  # fmt: skip
    """Let a call that was waited for have been answered, if there is one."""
    a = mix(hi ^ mix(lo ^ np.uint64(kind)))
    b = mix(peer_hi ^ mix(peer_lo ^ a))
    probe = table[5]
    probe[0] = a ^ mix(b)
    probe[1] = b
    at = find(table, probe)
    ints, sums = hosts[0], hosts[1]
    if at < 0 or contacts[0][at, STATE] != UNKNOWN:
        return
    contacts[0][at, STATE] = ANSWERED
    called = contacts[0][at, CALLED_SECOND]
    if called == second and ints[slot, PENDING] > 0:
        ints[slot, PENDING] -= 1
    elif called == second - 1 and ints[slot, PENDING_WAS] > 0:
        ints[slot, PENDING_WAS] -= 1
    sums[slot, WALK] = max(sums[slot, WALK] - 1.0, 0.0)


@kernel(none(TABLE, TABLE, HOST_T, CONTACT_T, i8, i8))
def _forget(
    table: Any, contact_table: Any, hosts: Any, contacts: Any, now: Any, idle_ns: Any
) -> None:
    """Forget hosts and contacts that were silent for long."""
    slot = oldest(table)
    while slot >= 0 and now - hosts[0][slot, LAST_NS] >= idle_ns:
        remove(table, slot)
        slot = oldest(table)
    slot = oldest(contact_table)
    while slot >= 0 and now - contacts[0][slot, LAST_CONTACT] >= idle_ns:
        remove(contact_table, slot)
        slot = oldest(contact_table)


@kernel(none(HOST_T, i8, i8, i8))
def _meet(hosts: Any, slot: Any, now: Any, second: Any) -> None:
    """Begin with a host that is new."""
    ints, sums, tags = hosts
    for j in range(INTS):
        ints[slot, j] = 0
    for j in range(SUMS):
        sums[slot, j] = 0.0
    for j in range(TAGS):
        tags[slot, j] = np.uint64(0)
    ints[slot, MET_NS] = now
    ints[slot, SECOND] = second
    sums[slot, WALKED_S] = float(second)


@kernel(none(HOST_T, A_i8, A_f8, i8, i8, i8, u8, u8, OUT_T, A_i8))
def _next_second(
    hosts: Any, scalars: Any, limits: Any, slot: Any, second: Any, window: Any, hi: Any, lo: Any,
    out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Judge the seconds of a host that are over."""
    ints, sums, tags = hosts
    if _fail(ints, sums, tags, slot, second, limits):
        _tell_scan(ints, tags, slot, ints[slot, LAST_NS], window, hi, lo, sums[slot, WALK], limits,
                   out, sizes)  # fmt: skip
    least = end_second(ints, sums, slot, second, scalars[BEGUN], limits)
    if least > 0.0:
        tell(out, sizes, FLOOD, window, ints[slot, TOLD_FROM], ints[slot, LAST_NS],
             ints[slot, TOLD_COUNT], ints[slot, SECOND_ORDINAL], hi, lo, tags[slot, SOURCE],
             float(ints[slot, TOLD_COUNT]), least, sums[slot, RATE])  # fmt: skip


@kernel(i8(FRAMES_T, i8, f8), inline=True)
def _call_of(frames: Any, i: Any, to_flood: Any) -> Any:
    """Return what is called by a packet, protocol and port in one number; -1 if nobody is."""
    (_, _, key_hi, key_lo, peer_hi, peer_lo, proto, sport, dport, ethertype, flags, _,
     _) = frames  # fmt: skip
    if not _is_one(peer_hi[i], peer_lo[i]):
        return -1
    if proto[i] == PROTO_TCP:
        is_first = int(flags[i]) & (_SYN | _ACK | _RST) == _SYN
        return (PROTO_TCP << 16) | int(dport[i]) if is_first else -1
    if ethertype[i] == ETHERTYPE_ARP:
        is_self = key_hi[i] == peer_hi[i] and key_lo[i] == peer_lo[i]
        return -1 if is_self else _ARP
    # What comes from a service, or goes to where clients are, is an answer; of names and times
    # nobody waits for a second datagram; and in a flood nobody is called.
    if proto[i] != PROTO_UDP or sport[i] < 1024 or dport[i] >= UDP_EPHEMERAL or to_flood < 0.0:
        return -1
    if dport[i] == UDP_DNS or dport[i] == UDP_NTP or dport[i] == 0:
        return -1
    return (PROTO_UDP << 16) | int(dport[i])


@kernel(none(HOST_T, i8, i8, FRAMES_T, i8))
def _first_contact(hosts: Any, slot: Any, now: Any, frames: Any, i: Any) -> None:
    """Wait for what becomes of a first contact."""
    ints, _, tags = hosts
    if ints[slot, CALLS] == 0:
        ints[slot, CALL_ORDINAL] = frames[12][i]
        ints[slot, CALL_NS] = now
    ints[slot, CALLS] += 1
    ints[slot, PENDING] += 1
    one = np.uint64(1)
    peer = mix(frames[4][i] ^ mix(frames[5][i])) & np.uint64(63)
    tags[slot, PEERS] |= one << peer
    tags[slot, PORTS] |= one << (mix(np.uint64(frames[8][i])) & np.uint64(63))


@kernel(none(TABLE, HOST_T, CONTACT_T, A_f8, A_u1, i8, i8, i8, i8, FRAMES_T, i8, OUT_T, A_i8))
def _call(
    table: Any, hosts: Any, contacts: Any, limits: Any, logins: Any, slot: Any, kind: Any,
    now: Any, window: Any, frames: Any, i: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Judge one call."""
    _, _, key_hi, key_lo, peer_hi, peer_lo, _, sport, _, _, _, _, _ = frames
    ints, second = contacts[0], now // SECOND_NS
    hi, lo = key_hi[i], key_lo[i]
    is_tcp, is_arp = kind >> 16 == PROTO_TCP, kind == _ARP
    at = contact(table, contacts, hi, lo, peer_hi[i], peer_lo[i], kind, now)
    is_call = not is_arp
    if ints[at, STATE] < 0:
        ints[at, STATE] = UNKNOWN
        ints[at, CALLED_SECOND] = second
        _first_contact(hosts, slot, now, frames, i)
        pending = hosts[0][slot, PENDING]
        if pending == max(BURST, limits[SCAN_CALLS]):
            _tell_scan(hosts[0], hosts[2], slot, now, window, hi, lo, float(pending), limits, out,
                       sizes)  # fmt: skip
    elif is_tcp:
        is_call = ints[at, SPORT] != sport[i]  # else it is the same call, sent again
    elif not is_arp:
        is_call = now - ints[at, HEARD] >= BEACON_QUIET_NS
        ints[at, TRIES] += 1
        if ints[at, TRIES] == 2:
            _answer(table, hosts, contacts, slot, second, hi, lo, peer_hi[i], peer_lo[i], kind)
    ints[at, SPORT] = sport[i]
    ints[at, HEARD] = now
    if is_call:
        repeat(contacts, limits, logins, at, now, window, is_tcp, frames, i, out, sizes)


@kernel(
    none(TABLE, TABLE, HOST_T, CONTACT_T, A_i8, A_f8, A_u1, i8, i8, FRAMES_T, OUT_T, A_i8)
)  # fmt: skip
def watch_hosts(
    table: Any, contact_table: Any, hosts: Any, contacts: Any, scalars: Any, limits: Any,
    logins: Any, window_ns: Any, idle_ns: Any, frames: Any, out: Any, sizes: Any,
) -> None:  # fmt: skip
    """Look at packets in their order; write what is seen to `out`, and count it in `sizes`."""
    (at_ns, clock_ns, key_hi, key_lo, peer_hi, peer_lo, proto, _, dport, ethertype, flags, source,
     ordinal) = frames  # fmt: skip
    ints = hosts[0]
    slot = np.int64(-1)
    hi, lo = np.uint64(0), np.uint64(0)
    for i in range(at_ns.size):
        now = clock_ns[i]
        if now - at_ns[i] >= LATE_NS:
            continue
        begin(scalars, now)
        window, second = now // window_ns, now // SECOND_NS
        if second != scalars[SCANNED]:
            scalars[SCANNED] = second
            _forget(table, contact_table, hosts, contacts, now, idle_ns)
            slot = np.int64(-1)
        if slot < 0 or key_hi[i] != hi or key_lo[i] != lo:
            hi, lo = key_hi[i], key_lo[i]
            slot, _, fresh = find_or_insert_pair(table, hi, lo)
            if fresh:
                _meet(hosts, slot, now, second)
        if second != ints[slot, SECOND]:
            _next_second(hosts, scalars, limits, slot, second, window, hi, lo, out, sizes)
        ints[slot, LAST_NS] = now
        hosts[2][slot, SOURCE] = source[i]
        is_tcp = proto[i] == PROTO_TCP
        flag = int(flags[i]) & (_SYN | _ACK | _RST)
        # What waits for acknowledgements is slowed down by who receives it; the rest may flood.
        if not is_tcp or flag in (_SYN, _RST):
            if ints[slot, IN_SECOND] == 0:
                ints[slot, SECOND_ORDINAL] = ordinal[i]
            ints[slot, IN_SECOND] += 1
        if ints[slot, PENDING] + ints[slot, PENDING_WAS] > 0 and ethertype[i] != ETHERTYPE_ARP:
            _answer(contact_table, hosts, contacts, slot, second, hi, lo, peer_hi[i], peer_lo[i],
                    _ARP)  # fmt: skip
            if is_tcp and flag == _ACK:
                _answer(contact_table, hosts, contacts, slot, second, hi, lo, peer_hi[i],
                        peer_lo[i], (PROTO_TCP << 16) | int(dport[i]))  # fmt: skip
        kind = _call_of(frames, i, limits[0] - ints[slot, IN_SECOND])
        if kind >= 0:
            _call(contact_table, hosts, contacts, limits, logins, slot, kind, now, window, frames,
                  i, out, sizes)  # fmt: skip
