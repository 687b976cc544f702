"""The link layer of a packet: from its first byte to the network layer, and the row they share.

Laws: those of `core.headers`, whose first step this is. A kernel returns where the next layer
begins, or a reason (`core.reasons`) as a negative number.

Not here: link types without a kernel below; they are `link_unsupported`, never guessed.

Sources: tcpdump.org/linktypes.html; IEEE 802.3 and 802.1Q; RFC 1042 (SNAP).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.host import MAC_HI
from core.kernels import A_i8, A_u1, A_u8, be16, be32, be_word, i8, kernel, none
from core.reasons import Reason

LINK_NULL, LINK_ETHERNET, LINK_RAW, LINK_LOOP = 0, 1, 101, 108
LINK_COOKED, LINK_COOKED_V2, LINK_IPV4, LINK_IPV6 = 113, 276, 228, 229
# Raw IP under the numbers some systems' DLT_RAW had when it was written to a file.
LINK_RAW_OLD, LINK_RAW_BSD = 12, 14
LINK_TYPES = frozenset(
    {LINK_NULL, LINK_ETHERNET, LINK_RAW, LINK_LOOP, LINK_COOKED, LINK_COOKED_V2}
    | {LINK_IPV4, LINK_IPV6, LINK_RAW_OLD, LINK_RAW_BSD}
)
"""The link types `read_link` decodes; packets of any other are `link_unsupported`."""
LINK_USER0 = 147
"""LINKTYPE_USER0, for private use: of rows that are handled as packets and have no link layer."""

ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
ETHERTYPE_MIN = 0x0600
"""Smaller values of the type field are lengths (IEEE 802.3 §3.2.6)."""
VLAN_TAGS_MAX = 4

# Kernels see plain integers: an IntEnum would be compiled as an enum type in each of them.
_LINK_UNSUPPORTED, _LINK_HEADER = int(Reason.LINK_UNSUPPORTED), int(Reason.LINK_HEADER)

# The row under work: an `int64` vector of these fields, shared by the kernels of all layers.
# `ROW_END` bounds what may be read; `ROW_CLAIM` is where the headers' lengths end the packet.
ROW_ETHERTYPE, ROW_PROTO, ROW_SPORT, ROW_DPORT, ROW_FLAGS = 0, 1, 2, 3, 4
ROW_FRAGMENT, ROW_PAYLOAD, ROW_END, ROW_CLAIM = 5, 6, 7, 8
ROW_FIELDS = 9
# Its addresses: a `uint64` vector of these.
HOST_SRC, HOST_DST = 0, 2


@kernel(none(A_u1, i8, A_u8, i8))
def set_mac(arena: Any, at: Any, host: Any, which: Any) -> None:
    """Take six bytes as the address of source or destination."""
    host[which] = MAC_HI
    host[which + 1] = be_word(arena, at, 6)


@kernel(i8(A_u1, i8, A_i8))
def _llc(arena: Any, at: Any, row: Any) -> Any:
    """Step over SNAP to the network layer; stay at an LLC header of any other kind."""
    left = row[ROW_END] - at
    if left < 3:
        return -_LINK_HEADER
    if be16(arena, at) != 0xAAAA or arena[at + 2] != 3:
        return at
    if left < 8:
        return -_LINK_HEADER
    if be_word(arena, at + 3, 3) != np.uint64(0):
        return at
    row[ROW_ETHERTYPE] = be16(arena, at + 6)
    return at + 8


@kernel(i8(A_u1, i8, i8, i8, A_i8))
def _typed(arena: Any, kind: Any, at: Any, cooked: Any, row: Any) -> Any:
    """Step over VLAN tags and 802.3; `kind` is the type field, `at` is behind its header."""
    tags = 0
    while tags < VLAN_TAGS_MAX and kind in (0x8100, 0x88A8, 0x9100):
        if row[ROW_END] - at < 4:
            return -_LINK_HEADER
        kind = be16(arena, at + 2)
        at += 4
        tags += 1
    if kind >= ETHERTYPE_MIN:
        row[ROW_ETHERTYPE] = kind
        return at
    if cooked:
        # Linux's own numbers (ETH_P_802_2 = 4), not a length.
        return _llc(arena, at, row) if kind == 4 else at
    row[ROW_CLAIM] = at + kind
    row[ROW_END] = min(row[ROW_END], row[ROW_CLAIM])
    return _llc(arena, at, row)


@kernel(i8(A_u1, i8, i8, A_i8))
def _family(arena: Any, at: Any, linktype: Any, row: Any) -> Any:
    """Read the address family of null and loopback captures, in the byte order it was written."""
    if row[ROW_END] - at < 4:
        return -_LINK_HEADER
    family = be32(arena, at)
    if linktype == LINK_NULL and family > 0xFFFF:
        family = np.int64(int(arena[at]) | (int(arena[at + 1]) << 8))
        if arena[at + 2] != 0 or arena[at + 3] != 0:
            family = 0
    if family == 2:
        row[ROW_ETHERTYPE] = ETHERTYPE_IPV4
    elif family in (10, 24, 28, 30):
        row[ROW_ETHERTYPE] = ETHERTYPE_IPV6
    return at + 4


@kernel(i8(A_u1, i8, i8, A_i8, A_u8))
def read_link(arena: Any, at: Any, linktype: Any, row: Any, host: Any) -> Any:
    """Read the link layer; return where the network layer begins, or a negative reason."""
    left = row[ROW_END] - at
    if linktype == LINK_ETHERNET:
        if left < 14:
            return -_LINK_HEADER
        set_mac(arena, at, host, HOST_DST)
        set_mac(arena, at + 6, host, HOST_SRC)
        return _typed(arena, be16(arena, at + 12), at + 14, 0, row)
    if linktype == LINK_COOKED:
        if left < 16:
            return -_LINK_HEADER
        if be16(arena, at + 4) == 6:
            set_mac(arena, at + 6, host, HOST_SRC)
        return _typed(arena, be16(arena, at + 14), at + 16, 1, row)
    if linktype == LINK_COOKED_V2:
        if left < 20:
            return -_LINK_HEADER
        if arena[at + 11] == 6:
            set_mac(arena, at + 12, host, HOST_SRC)
        return _typed(arena, be16(arena, at), at + 20, 1, row)
    if linktype in (LINK_NULL, LINK_LOOP):
        return _family(arena, at, linktype, row)
    if linktype == LINK_IPV4:
        row[ROW_ETHERTYPE] = ETHERTYPE_IPV4
        return at
    if linktype == LINK_IPV6:
        row[ROW_ETHERTYPE] = ETHERTYPE_IPV6
        return at
    if linktype in (LINK_RAW, LINK_RAW_OLD, LINK_RAW_BSD):
        if left < 1:
            return -_LINK_HEADER
        is_v6 = (int(arena[at]) >> 4) == 6
        row[ROW_ETHERTYPE] = ETHERTYPE_IPV6 if is_v6 else ETHERTYPE_IPV4
        return at
    return -_LINK_UNSUPPORTED
