"""TPACKET_V3: the blocks in which the kernel hands packets to a socket, walked and copied out.

A ring is memory shared with the kernel, divided into blocks. The kernel fills one with packets,
each behind a header, and gives it over when it is full or its time is up; it is given back as soon
as its packets are copied.

Laws:

1. No offset is believed: what would reach outside its block ends the walk of that block, and what
   is left of it is counted as lost.
2. A packet is as libpcap writes it: a VLAN tag that the kernel took off is put back between the
   addresses and the EtherType, and only then is the packet cut to its snap length.
3. The kernel has judged what it could judge by the filter; packets whose tag it took off are judged
   by their whole bytes here (`core.bpf_live`).

Not here: the socket, and what the kernel counts (`connectors.packet_socket`).

Sources: Linux include/uapi/linux/if_packet.h and Documentation/networking/packet_mmap.rst;
IEEE 802.1Q §9.6. Fields are in the order of bytes of this machine.
"""

from __future__ import annotations

import sys
from typing import Any

from core.batches import PacketBatch
from core.bpf import run_program
from core.kernels import A2_i8, A_i4, A_i8, A_u1, A_u4, fence, i8, kernel, none

COLUMNS = {
    name: PacketBatch.COLUMNS[name] for name in ("start", "caplen", "wirelen", "at_ns", "linktype")
}
"""Columns of a packet, in the order in which `walk` takes them."""

BLOCK_HEAD_BYTES, PACKET_HEAD_BYTES = 48, 48
OVERHEAD_BYTES = 256
"""More than a block needs beside one packet: its header, and that packet's with its alignment."""
TAG_BYTES = 4

# Where the walk stands: block, packets of it that are left (-1 before it is opened), where in it
# the next one lies, and the rows and bytes of the arena that are used.
BLOCK, LEFT, OFFSET, ROWS, USED = range(5)
PLACE_FIELDS = 5
# Sums since the ring was opened.
PACKETS, BYTES, TRUNCATED, FILTERED, LOST = range(5)
TALLY_FIELDS = 5
# How packets are taken: bytes kept of each, their link type, and whether tags are put back.
SNAPLEN, LINKTYPE, TAGS = range(3)

# Words of 32 bits in the header of a block, and of a packet.
STATUS, _COUNT, _FIRST = 2, 3, 4
_NEXT, _SEC, _NSEC, _SNAP, _LEN, _FLAGS, _MAC, _TCI, _TPID = 0, 1, 2, 3, 4, 5, 6, 8, 9
USER, _TAGGED, _TAGGED_BY = 1, 1 << 4, 1 << 6
_TYPE_AT, _TPID_DEFAULT = 12, 0x8100
_INT_MAX = 0x7FFF_FFFF
_HALF_SHIFT = 0 if sys.byteorder == "little" else 16
"""Where in a word its first half lies."""


@kernel(none(A_u1, i8, i8, i8, A_u1, i8), inline=True)
def _copy(ring: Any, at: Any, size: Any, tag: Any, arena: Any, used: Any) -> None:
    """Copy a packet, with its tag put back unless that is negative."""
    if tag < 0:
        # Slices, because only on them does the compiler see that the copy can be vectorised.
        into, bytes_ = arena[used : used + size], ring[at : at + size]
        for j in range(size):
            into[j] = bytes_[j]
        return
    for j in range(min(size, _TYPE_AT)):
        arena[used + j] = ring[at + j]
    for j in range(min(TAG_BYTES, size - _TYPE_AT)):
        arena[used + _TYPE_AT + j] = (tag >> (24 - 8 * j)) & 0xFF
    into = arena[used + _TYPE_AT + TAG_BYTES : used + size]
    bytes_ = ring[at + _TYPE_AT : at + size - TAG_BYTES]
    for j in range(size - TAG_BYTES - _TYPE_AT):
        into[j] = bytes_[j]


@kernel(i8(A_u4, i8), inline=True)
def _tag(words: Any, w: Any) -> Any:
    """Return the VLAN tag that lies beside a packet, as 32 bits, or -1."""
    flags, tci = int(words[w + _FLAGS]), int(words[w + _TCI])
    if flags & _TAGGED == 0 and tci == 0:
        return -1
    tpid = (int(words[w + _TPID]) >> _HALF_SHIFT) & 0xFFFF
    if flags & _TAGGED_BY == 0 and tpid == 0:
        tpid = _TPID_DEFAULT
    return (tpid << 16) | (tci & 0xFFFF)


@kernel(
    i8(
        A_u1, A_u4, i8, A_i8, A2_i8, A_i8, A_i8, A_i8, A_u1, A_i8, A_i4, A_i4, A_i8, A_i4,
    ))  # fmt: skip
def _take(
    ring: Any, words: Any, block_bytes: Any, rule: Any, program: Any, mem: Any, place: Any,
    tally: Any, arena: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, linktype: Any,
) -> Any:  # fmt: skip
    """Take the packets of the open block; return 1 when it is done, 0 when the arena is full."""
    base, row, used = place[BLOCK] * block_bytes, place[ROWS], place[USED]
    done = 1
    while place[LEFT] > 0:
        offset = place[OFFSET]
        if offset & 3 or not BLOCK_HEAD_BYTES <= offset <= block_bytes - PACKET_HEAD_BYTES:
            tally[LOST] += place[LEFT]
            break
        w = (base + offset) >> 2
        mac = (int(words[w + _MAC]) >> _HALF_SHIFT) & 0xFFFF
        kept, wire = int(words[w + _SNAP]), int(words[w + _LEN])
        if mac < PACKET_HEAD_BYTES or offset + mac + kept > block_bytes:
            tally[LOST] += place[LEFT]
            break
        tag = -1
        if rule[TAGS] and kept >= _TYPE_AT + 2:
            tag = _tag(words, w)
        if tag >= 0:
            kept, wire = kept + TAG_BYTES, wire + TAG_BYTES
        kept = min(kept, rule[SNAPLEN])
        if row == start.size or used + kept > arena.size:
            done = 0
            break
        _copy(ring, base + offset + mac, kept, tag, arena, used)
        place[OFFSET] = offset + int(words[w + _NEXT])
        place[LEFT] -= 1
        if tag >= 0 and program.shape[0] > 0:
            mem[:] = 0
            if run_program(program, arena, used, kept, wire, mem) == 0:
                tally[FILTERED] += 1
                continue
        start[row], caplen[row], wirelen[row] = used, kept, min(wire, _INT_MAX)
        at_ns[row] = int(words[w + _SEC]) * 1_000_000_000 + int(words[w + _NSEC])
        linktype[row] = rule[LINKTYPE]
        tally[PACKETS] += 1
        tally[BYTES] += wire
        tally[TRUNCATED] += 1 if kept < wire else 0
        row, used = row + 1, used + kept
    place[ROWS], place[USED] = row, used
    return done


@kernel(
    i8(
        A_u1, A_u4, i8, A_i8, A2_i8, A_i8, A_i8, A_i8, A_u1, A_i8, A_i4, A_i4, A_i8, A_i4,
    ))  # fmt: skip
def walk(
    ring: Any, words: Any, block_bytes: Any, rule: Any, program: Any, mem: Any, place: Any,
    tally: Any, arena: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, linktype: Any,
) -> Any:  # fmt: skip
    """Copy packets out of the blocks that are ours, and give each back when it is done.

    Args:
        ring: `uint8`; the blocks.
        words: `uint32`; the same memory.
        block_bytes: Bytes of a block; a multiple of 4.
        rule: `(3,) int64`; how packets are taken.
        program: `(m, 4) int64`; judges packets with a tag, if it has any instruction; one that
            `core.bpf.validate` accepts.
        mem: `(16,) int64`; for the use of that program.
        place: `(5,) int64`; where the walk stands, read and written.
        tally: `(5,) int64`; sums, read and written.
        arena: `uint8`; receives bytes; has room for the snap length at least.
        start: `(n,) int64`; the first of `COLUMNS`, which follow in order; `n` rows at most.
        caplen: `(n,) int32`.
        wirelen: `(n,) int32`.
        at_ns: `(n,) int64`.
        linktype: `(n,) int32`.

    Returns:
        1 when no block was left or each has had its turn, 0 when the arena is full.
    """
    blocks = ring.size // block_bytes
    for _ in range(blocks):
        w = (place[BLOCK] * block_bytes) >> 2
        if place[LEFT] < 0:
            if int(words[w + STATUS]) & USER == 0:
                return 1
            fence()  # what the kernel wrote before it gave the block over is seen from here on
            # One block holds no more headers than that, whatever it says.
            place[LEFT] = min(int(words[w + _COUNT]), block_bytes // PACKET_HEAD_BYTES)
            place[OFFSET] = int(words[w + _FIRST])
        if _take(
            ring, words, block_bytes, rule, program, mem, place, tally,
            arena, start, caplen, wirelen, at_ns, linktype,
        ) == 0:  # fmt: skip
            return 0
        fence()  # and nothing is read of it any more once it is given back
        words[w + STATUS] = 0
        place[LEFT], place[BLOCK] = -1, (place[BLOCK] + 1) % blocks
    return 1
