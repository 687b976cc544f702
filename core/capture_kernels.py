"""The loops of `core.capture`: find the packet records in a buffer of pcap or pcapng bytes.

Law: a record is taken only when all of it lies in the buffer, so that packets never straddle two
arenas, and a length is believed only after it was compared with its bound.

Source: draft-ietf-opsawg-pcap §5, draft-ietf-opsawg-pcapng §4.3, §4.4 and appendix A.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.kernels import A2_i8, A_i4, A_i8, A_u1, i8, kernel, none

MORE, FULL, CORRUPT, BLOCK, NO_INTERFACE = 0, 1, 2, 3, 4
"""Why a scan stopped: bytes ran out, columns are full, an impossible length, a block for
`core.capture`, or a packet of an interface that was never described."""

SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, PACKET = 0x0A0D0D0A, 1, 2, 3, 6
"""Types of pcapng blocks that mean something here; every other is stepped over."""

SECOND_NS = 1_000_000_000
SECONDS_MAX = 9_000_000_000
"""Times are clamped here (the year 2255): ns still fit in int64, with room to add to them."""
LEN_MAX = 0x7FFFFFFF


@kernel(i8(A_u1, i8, i8), inline=True)
def word32(buf: Any, at: Any, little: Any) -> Any:
    """Read an unsigned 32-bit integer in the byte order of the file."""
    a, b, c, d = int(buf[at]), int(buf[at + 1]), int(buf[at + 2]), int(buf[at + 3])
    if little:
        return a | (b << 8) | (c << 16) | (d << 24)
    return (a << 24) | (b << 16) | (c << 8) | d


@kernel(
    none(
        A_u1, i8, i8, i8, i8, i8, i8, i8, A_i8, A_i4, A_i4, A_i8, A_i4, i8, A_i8,
    )
)  # fmt: skip
def scan_pcap(
    buf: Any, at: Any, end: Any, little: Any, unit_ns: Any, record_len: Any, packet_bytes_max: Any,
    linktype: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, linktypes: Any, row: Any,
    result: Any,
) -> None:  # fmt: skip
    """Fill columns from classic pcap records; `result` gets (status, index reached, rows)."""
    status = MORE
    while at + record_len <= end:
        if row == start.size:
            status = FULL
            break
        captured = word32(buf, at + 8, little)
        if captured > packet_bytes_max:
            status = CORRUPT
            break
        if at + record_len + captured > end:
            break
        seconds = min(word32(buf, at, little), SECONDS_MAX)
        at_ns[row] = seconds * SECOND_NS + word32(buf, at + 4, little) * unit_ns
        caplen[row] = captured
        wirelen[row] = min(word32(buf, at + 12, little), LEN_MAX)
        start[row] = at + record_len
        linktypes[row] = linktype
        row += 1
        at += record_len + captured
    result[0] = status
    result[1] = at
    result[2] = row


@kernel(i8(i8, i8, A2_i8, i8))
def stamp_ns(high: Any, low: Any, table: Any, interface: Any) -> Any:
    """Turn a pcapng time stamp into ns since the epoch, clamped (law 3 of `core.capture`)."""
    units = np.uint64(table[interface, 2])
    # A signed and an unsigned 64-bit integer unify to float64, which holds no ns of this century.
    seconds = np.int64(0)
    fraction = np.uint64(0)
    if units > np.uint64(0):
        stamp = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
        seconds = np.int64(min(stamp // units, np.uint64(SECONDS_MAX)))
        rest = stamp % units
        if units <= np.uint64(1 << 33):
            fraction = rest * np.uint64(SECOND_NS) // units
        elif table[interface, 3] > 0:
            rest = rest >> np.uint64(table[interface, 3])
            fraction = (rest * np.uint64(SECOND_NS)) >> np.uint64(33)
        else:
            fraction = rest // (units // np.uint64(SECOND_NS))
    moved = max(0, min(SECONDS_MAX, int(seconds) + int(table[interface, 4])))
    return moved * SECOND_NS + int(np.int64(fraction))


@kernel(i8(A_u1, i8, i8, i8, i8, A2_i8, A_i8, A_i4, A_i4, A_i8, A_i4, i8))
def _packet_block(
    buf: Any, at: Any, length: Any, little: Any, packet_bytes_max: Any, table: Any, start: Any,
    caplen: Any, wirelen: Any, at_ns: Any, linktypes: Any, row: Any,
) -> Any:  # fmt: skip
    """Fill one row from a block of packets, all of which lies in the buffer.

    Returns `MORE` when the row is filled, else why it is not: `CORRUPT` or `NO_INTERFACE`.
    """
    kind = word32(buf, at, little)
    fixed = 12 if kind == SIMPLE_PACKET else 28
    room = length - fixed - 4
    if room < 0:
        return CORRUPT
    interface = 0
    if kind != SIMPLE_PACKET:
        interface = word32(buf, at + 8, little)
    if kind == OLD_PACKET:
        # The obsolete packet block has a 16-bit interface number before its drop count.
        interface = interface & 0xFFFF if little else interface >> 16
    if interface >= table.shape[0]:
        return NO_INTERFACE
    if kind == SIMPLE_PACKET:
        wire = word32(buf, at + 8, little)
        captured = min(wire, room)
        if table[interface, 1] > 0:
            captured = min(captured, int(table[interface, 1]))
        stamp = 0
    else:
        captured = word32(buf, at + 20, little)
        wire = word32(buf, at + 24, little)
        high = word32(buf, at + 12, little)
        stamp = stamp_ns(high, word32(buf, at + 16, little), table, interface)
    if captured > packet_bytes_max or captured > room:
        return CORRUPT
    start[row] = at + fixed
    caplen[row] = captured
    wirelen[row] = min(wire, LEN_MAX)
    at_ns[row] = stamp
    linktypes[row] = table[interface, 0]
    return MORE


@kernel(
    none(A_u1, i8, i8, i8, i8, i8, A2_i8, A_i8, A_i4, A_i4, A_i8, A_i4, i8, A_i8)
)  # fmt: skip
def scan_pcapng(
    buf: Any, at: Any, end: Any, little: Any, packet_bytes_max: Any, block_bytes_max: Any,
    table: Any, start: Any, caplen: Any, wirelen: Any, at_ns: Any, linktypes: Any, row: Any,
    result: Any,
) -> None:  # fmt: skip
    """Fill columns from pcapng blocks; `result` gets (status, index reached, rows).

    Stops with `BLOCK` before a section header or interface block, which change the state.
    """
    status = MORE
    while at + 12 <= end:
        kind = word32(buf, at, little)
        if kind in (SECTION, INTERFACE):
            status = BLOCK
            break
        length = word32(buf, at + 4, little)
        if length < 12 or length % 4 != 0 or length > block_bytes_max:
            status = CORRUPT
            break
        if at + length > end:
            break
        if word32(buf, at + length - 4, little) != length:
            status = CORRUPT
            break
        if kind in (OLD_PACKET, SIMPLE_PACKET, PACKET):
            if row == start.size:
                status = FULL
                break
            status = _packet_block(
                buf, at, length, little, packet_bytes_max, table, start, caplen, wirelen, at_ns,
                linktypes, row,
            )  # fmt: skip
            if status != MORE:
                break
            row += 1
        at += length
    result[0] = status
    result[1] = at
    result[2] = row
