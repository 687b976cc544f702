"""Datagrams: what sockets received, as columns, and the loop that takes it out of their buffers.

Laws:

1. A datagram is a row, whatever message of the kernel it came in. One message holds many where the
   kernel joined equal ones on the way (UDP_GRO); they share its one time of receipt.
2. What was cut short is known as such: `length` bytes are here, it had `claimed_len`.
3. A message without a time takes that of the one before it on the same socket; none is zero.
4. The kernel's counter of drops has 32 bits and wraps; it is added up in 64 by the arithmetic of
   serial numbers, in which a reading older than the last one is no news.

Not here: the call that receives (`connectors.udp_receiver`).

Sources: recvmmsg(2), cmsg(3), socket(7), udp(7); RFC 1982 (serial numbers). The layout of messages
is that of 64-bit Linux.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import Columns, HeaderBatch, PacketBatch
from core.host import IPV4_MAPPED
from core.kernels import A_i4, A_i8, A_u1, A_u8, be16, be_word, i8, kernel, none
from core.link import ETHERTYPE_IPV4, ETHERTYPE_IPV6, LINK_USER0
from core.protocols import PROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HEAD_WORDS = 8
"""`struct mmsghdr` in words of 64 bits: name, namelen, iov, iovlen, control, controllen, flags,
len; the three without a word of their own lie in its first half."""
NAME_BYTES, CONTROL_BYTES = 32, 128
"""Room of a message for its sender's address, and for its control messages: 88 bytes are used."""
_NAMELEN, _CONTROLLEN, _LEN = 2, 5, 14  # the first and the last in words of 32 bits

SO_TIMESTAMPNS, SO_RXQ_OVFL, UDP_GRO = 35, 40, 104
"""Options of a socket, and types of the control messages they ask for (asm-generic/socket.h,
linux/udp.h)."""
_SOL_SOCKET, _SOL_UDP, _AF_INET, _AF_INET6 = 1, 17, 2, 10
_SECONDS_MAX = 9_000_000_000

# Where unpacking stands: messages in the buffers, the next one, the bytes of it already taken, and
# the rows and bytes of the arena that are used.
MESSAGES, MESSAGE, OFFSET, ROWS, USED = range(5)
PLACE_FIELDS = 5
# What is known of one socket, most of it sums since it was opened.
AT_NS, DROP_MARK, KERNEL_DROPPED, DATAGRAMS, BYTES, TRUNCATED, JOINED = range(7)
TALLY_FIELDS = 7

_LITTLE = sys.byteorder == "little"
_MAPPED = IPV4_MAPPED << np.uint64(32)
_TIME, _SEGMENT, _DROPS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a socket is bound.

    Attributes:
        hi: Upper half of its address, as in `core.host`.
        lo: Lower half.
        port: Its port.
    """

    hi: np.uint64
    lo: np.uint64
    port: int

    @property
    def is_v4(self) -> bool:
        """Whether the address is of IPv4."""
        return self.hi == 0 and int(self.lo) >> 32 == int(IPV4_MAPPED)


@dataclass(slots=True)
class Datagrams(Columns):
    """Datagrams in the order in which they were received.

    Attributes:
        arena: `uint8`; their bytes, one after another.
        start: `(n,) int64`; where in the arena a datagram begins.
        length: `(n,) int32`; its bytes that are there.
        claimed_len: `(n,) int32`; the bytes it had, more than `length` when it was cut short.
        at_ns: `(n,) int64`; when the kernel received it, ns since the epoch.
        sender_hi, sender_lo: `(n,) uint64`; address of the sender, as in `core.host`.
        sport, dport: `(n,) int32`; port of the sender, and the one it came to.
        index: Number of the first datagram of this batch among all received, from 0.
        kernel_dropped: What the kernel had dropped on these sockets, as far as it was known then.
    """

    arena: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    claimed_len: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    sender_hi: NDArray[np.uint64]
    sender_lo: NDArray[np.uint64]
    sport: NDArray[np.int32]
    dport: NDArray[np.int32]
    index: int
    kernel_dropped: int

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "start": np.int64,
        "length": np.int32,
        "claimed_len": np.int32,
        "at_ns": np.int64,
        "sender_hi": np.uint64,
        "sender_lo": np.uint64,
        "sport": np.int32,
        "dport": np.int32,
    }

    def __post_init__(self) -> None:
        self.check()

    def as_packets(
        self, source: int, bound: Sequence[Bound] = ()
    ) -> tuple[PacketBatch, HeaderBatch]:
        """Return what `core.frame.device_frames` takes: packets, and headers that fit them.

        A datagram that was cut short counts as one that a capture cut short. Its destination is the
        address that was bound to its port, if one is named here, else zero; nothing of a device
        frame is made from it. `core.wire.as_raw` makes packets of rows that need to be some.

        Args:
            source: Identity of the input (`uint64`), as a capture file has one.
            bound: Where the sockets are; of several with one family and port the last one counts.
        """
        count = len(self)
        packets = PacketBatch(
            arena=self.arena,
            start=self.start,
            caplen=self.length,
            wirelen=self.claimed_len,
            at_ns=self.at_ns,
            linktype=np.full(count, LINK_USER0, np.int32),
            ordinal=np.arange(self.index, self.index + count),
            index=self.index,
            source=source,
        )
        mapped = (self.sender_hi == 0) & (self.sender_lo >> np.uint64(32) == IPV4_MAPPED)
        headers = HeaderBatch.empty(count)
        headers.ethertype = np.where(mapped, ETHERTYPE_IPV4, ETHERTYPE_IPV6).astype(np.int32)
        headers.src_hi, headers.src_lo = self.sender_hi, self.sender_lo
        headers.proto[:] = PROTO_UDP
        headers.sport, headers.dport = self.sport, self.dport
        headers.payload, headers.payload_len = self.start, self.length
        headers.claimed_len = self.claimed_len
        for each in bound:
            mine: Any = slice(None)
            if len(bound) > 1:
                mine = (mapped == each.is_v4) & (self.dport == each.port)
            headers.dst_hi[mine], headers.dst_lo[mine] = each.hi, each.lo
        return packets, headers


@kernel(i8(A_u1, i8, i8), inline=True)
def _native(buf: Any, at: Any, size: Any) -> Any:
    """Read an unsigned integer of `size` (0 … 8) bytes in this machine's order of bytes."""
    value = 0
    for i in range(size):
        value = (value << 8) | int(buf[at + size - 1 - i] if _LITTLE else buf[at + i])
    return value


@kernel(none(A_u1, i8, i8, A_i8))
def read_control(control: Any, at: Any, end: Any, found: Any) -> None:
    """Read the control messages of one message: its time, segment size and count of drops.

    Args:
        control: `uint8`; raw control buffers.
        at: Where those of the message begin.
        end: Where they end.
        found: `(3,) int64`; receives ns since the epoch, bytes of a segment and the drop counter,
            each only if there is one.
    """
    while end - at >= 16:
        size = _native(control, at, 8)
        if size < 16 or size > end - at:
            return
        level, kind = _native(control, at + 8, 4), _native(control, at + 12, 4)
        if level == _SOL_SOCKET and kind == SO_TIMESTAMPNS and size >= 32:
            seconds, ns = _native(control, at + 16, 8), _native(control, at + 24, 8)
            if 0 <= seconds < _SECONDS_MAX and 0 <= ns < 1_000_000_000:
                found[_TIME] = seconds * 1_000_000_000 + ns
        elif level == _SOL_SOCKET and kind == SO_RXQ_OVFL and size >= 20:
            found[_DROPS] = _native(control, at + 16, 4)
        elif level == _SOL_UDP and kind == UDP_GRO and size >= 20:
            found[_SEGMENT] = _native(control, at + 16, 4)
        at += (size + 7) & ~7


@kernel(none(A_i8, i8))
def add_drops(tally: Any, seen: Any) -> None:
    """Add what the drop counter of a socket (32 bits) says to its sum, unless it is old news."""
    more = (seen - tally[DROP_MARK]) & 0xFFFF_FFFF
    if more < 0x8000_0000:
        tally[DROP_MARK] = seen
        tally[KERNEL_DROPPED] += more


@kernel(none(A_u1, i8, i8, A_i8, A_i8))
def _told(control: Any, at: Any, size: Any, tally: Any, found: Any) -> None:
    """Take from control messages what is known of a message, and of its socket."""
    found[_TIME], found[_SEGMENT], found[_DROPS] = tally[AT_NS], 0, -1
    read_control(control, at, at + size, found)
    tally[AT_NS] = found[_TIME]
    if found[_DROPS] >= 0:
        add_drops(tally, found[_DROPS])


@kernel(i8(A_u1, i8, A_u8))
def _sender(names: Any, at: Any, host: Any) -> Any:
    """Read a `sockaddr`: the address into `host`, the port is returned."""
    family = _native(names, at, 2)
    host[0] = np.uint64(0)
    host[1] = np.uint64(0)
    if family == _AF_INET:
        host[1] = _MAPPED | be_word(names, at + 4, 4)
    elif family == _AF_INET6:
        host[0] = be_word(names, at + 8, 8)
        host[1] = be_word(names, at + 16, 8)
    return be16(names, at + 2)


@kernel(
    i8(
        A_i4, A_i8, A_u1, A_u1, A_u1, i8, i8, i8, i8, A_i8, A_i8, A_i8, A_u8,
        A_u1, A_i8, A_i4, A_i4, A_i8, A_u8, A_u8, A_i4, A_i4,
    ))  # fmt: skip
def unpack(
    halves: Any, words: Any, names: Any, control: Any, slots: Any, stride: Any, slot_bytes: Any,
    bytes_max: Any, port: Any, place: Any, tally: Any, found: Any, host: Any,
    arena: Any, start: Any, length: Any, claimed_len: Any, at_ns: Any, sender_hi: Any,
    sender_lo: Any, sport: Any, dport: Any,
) -> Any:  # fmt: skip
    """Take datagrams out of the buffers of `recvmmsg` until they are empty or the arena is full.

    Args:
        halves: `(16 m,) int32`; the headers of `m` messages.
        words: `(8 m,) int64`; the same memory. Those that are done are ready for the next call.
        names: `(32 m,) uint8`; senders.
        control: `(128 m,) uint8`; control messages.
        slots: `uint8`; what was received, that of message `i` from `i · stride` on.
        stride: Bytes from one slot to the next.
        slot_bytes: Room in a slot.
        bytes_max: Bytes kept of a datagram; at most the size of the arena.
        port: The port they came to.
        place: `(5,) int64`; where unpacking stands, read and written.
        tally: `(7,) int64`; what is known of the socket, read and written.
        found: `(3,) int64`; for the use of this kernel.
        host: `(2,) uint64`; likewise.
        arena: `uint8`; receives bytes.
        start: `(n,) int64`; the first of `Datagrams.COLUMNS`, which follow in order; `n` rows at
            most.
        length: `(n,) int32`.
        claimed_len: `(n,) int32`.
        at_ns: `(n,) int64`.
        sender_hi: `(n,) uint64`.
        sender_lo: `(n,) uint64`.
        sport: `(n,) int32`.
        dport: `(n,) int32`.

    Returns:
        The number of datagrams taken.
    """
    row, used, first = place[ROWS], place[USED], place[ROWS]
    while place[MESSAGE] < place[MESSAGES]:
        i = place[MESSAGE]
        size = int(halves[16 * i + _LEN])
        filled = min(words[8 * i + _CONTROLLEN], CONTROL_BYTES)
        _told(control, i * CONTROL_BYTES, filled, tally, found)
        from_port = _sender(names, i * NAME_BYTES, host)
        segment = found[_SEGMENT] if found[_SEGMENT] > 0 else size
        offset = place[OFFSET]
        while True:
            claim = min(segment, size - offset)
            kept = max(0, min(claim, bytes_max, slot_bytes - offset))
            if row == start.size or used + kept > arena.size:
                place[OFFSET], place[ROWS], place[USED] = offset, row, used
                return row - first
            begin = i * stride + offset
            # Slices, because only on them does the compiler see that the copy can be vectorised.
            into, bytes_ = arena[used : used + kept], slots[begin : begin + kept]
            for j in range(kept):
                into[j] = bytes_[j]
            start[row], length[row], claimed_len[row] = used, kept, claim
            at_ns[row], sport[row], dport[row] = found[_TIME], from_port, port
            sender_hi[row], sender_lo[row] = host[0], host[1]
            tally[DATAGRAMS] += 1
            tally[BYTES] += claim
            tally[TRUNCATED] += 1 if kept < claim else 0
            tally[JOINED] += 1 if claim < size else 0
            row, used, offset = row + 1, used + kept, offset + claim
            if offset >= size:
                break
        halves[16 * i + _NAMELEN], words[8 * i + _CONTROLLEN] = NAME_BYTES, CONTROL_BYTES
        place[MESSAGE], place[OFFSET] = i + 1, 0
    place[ROWS], place[USED] = row, used
    return row - first
