"""Batches: columns over one byte arena, the only things that flow through the graph.

Laws:

1. A batch is columns of one length over one `uint8` arena. Offsets and lengths point into the
   arena and are checked by whoever computed them, so that no later stage reads outside it.
2. A batch is never changed after it was handed on; stages share columns freely.
3. A packet keeps where it came from (`source`, `ordinal`) through every stage, because identities
   of records are derived from it.

Not here: how columns are computed (`core.capture`, `core.headers`, `core.frame`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

U1 = np.uint8


def _not_given() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


class Columns:
    """What every batch has in common: one length, checked dtypes, selection of rows."""

    __slots__ = ()

    # Column name → dtype, for each subclass; whatever else it holds is shared by all its rows.
    COLUMNS: dict[str, type]

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` when a column has the wrong dtype or length."""
        size = -1
        for name, dtype in self.COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.ndim != 1:
                raise TypeError(f"{type(self).__name__}.{name}: want one {dtype.__name__} a row")
            if size not in (-1, column.size):
                raise ValueError(f"{type(self).__name__}.{name}: {column.size} rows, not {size}")
            size = column.size

    def __len__(self) -> int:
        first = next(iter(self.COLUMNS))
        return int(getattr(self, first).size)

    def take(self, rows: NDArray[Any] | slice) -> Self:
        """Return the rows selected by indices, mask or slice, over the same arena."""
        chosen = {name: getattr(self, name)[rows] for name in self.COLUMNS}
        return replace(self, **chosen)  # type: ignore[type-var]  # subclasses are dataclasses

    def to_arrow(self) -> pa.RecordBatch:
        """Return the columns as an Arrow record batch that shares their memory."""
        import pyarrow as pa

        return pa.RecordBatch.from_arrays(
            [pa.array(getattr(self, name)) for name in self.COLUMNS], names=list(self.COLUMNS)
        )


@dataclass(slots=True)
class PacketBatch(Columns):
    """Captured packets as they lie in their file, before any header is read.

    Attributes:
        arena: `uint8`; the bytes of the packets and whatever lay between them.
        start: `(n,) int64`; where in the arena a packet's link layer begins.
        caplen: `(n,) int32`; bytes captured.
        wirelen: `(n,) int32`; bytes on the wire, at least as claimed by the capture.
        at_ns: `(n,) int64`; time of capture, ns since the epoch.
        linktype: `(n,) int32`; LINKTYPE_ value of the interface (tcpdump.org/linktypes.html).
        ordinal: `(n,) int64`; number of the packet in its file, from 0.
        index: Number, in the whole replay, of the first packet of this batch, from 0.
        source: Identity of the file: a hash of its content (`uint64`).
        clock_ns: `(n,) int64`; the time stages take it to happen at (`core.timeline`); `at_ns` when
            not given.
    """

    arena: NDArray[np.uint8]
    start: NDArray[np.int64]
    caplen: NDArray[np.int32]
    wirelen: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    linktype: NDArray[np.int32]
    ordinal: NDArray[np.int64]
    index: int
    source: int
    clock_ns: NDArray[np.int64] = field(default_factory=_not_given)

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "start": np.int64,
        "caplen": np.int32,
        "wirelen": np.int32,
        "at_ns": np.int64,
        "linktype": np.int32,
        "ordinal": np.int64,
        "clock_ns": np.int64,
    }

    def __post_init__(self) -> None:
        if self.clock_ns.size == 0:
            self.clock_ns = self.at_ns
        self.check()


@dataclass(slots=True)
class HeaderBatch(Columns):
    """What the headers of a `PacketBatch` say, row by row.

    Attributes:
        reason: `(n,) uint8`; `core.reasons.Reason`, 0 when the headers decode.
        ethertype: `(n,) int32`; EtherType of the network layer, 0 when there is none.
        src_hi, src_lo, dst_hi, dst_lo: `(n,) uint64`; host addresses as 128 bits, laid out as in
            `core.host`.
        proto: `(n,) int32`; IP protocol number after extension headers, -1 when not IP.
        sport, dport: `(n,) int32`; ports, or ICMP type and code; 0 when there are none.
        tcp_flags: `(n,) uint8`; the flag byte of TCP (RFC 9293 §3.1).
        fragment: `(n,) uint8`; 1 for any piece of a fragmented datagram.
        payload: `(n,) int64`; where in the arena the transport payload begins.
        payload_len: `(n,) int32`; its captured bytes.
        claimed_len: `(n,) int32`; its bytes by the headers' own lengths.
    """

    reason: NDArray[np.uint8]
    ethertype: NDArray[np.int32]
    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]
    proto: NDArray[np.int32]
    sport: NDArray[np.int32]
    dport: NDArray[np.int32]
    tcp_flags: NDArray[np.uint8]
    fragment: NDArray[np.uint8]
    payload: NDArray[np.int64]
    payload_len: NDArray[np.int32]
    claimed_len: NDArray[np.int32]

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "reason": np.uint8,
        "ethertype": np.int32,
        "src_hi": np.uint64,
        "src_lo": np.uint64,
        "dst_hi": np.uint64,
        "dst_lo": np.uint64,
        "proto": np.int32,
        "sport": np.int32,
        "dport": np.int32,
        "tcp_flags": np.uint8,
        "fragment": np.uint8,
        "payload": np.int64,
        "payload_len": np.int32,
        "claimed_len": np.int32,
    }

    def __post_init__(self) -> None:
        self.check()

    @classmethod
    def unset(cls, size: int) -> HeaderBatch:
        """Return a batch of `size` rows of anything, for a kernel that writes them all."""
        return cls(**{name: np.empty(size, dtype) for name, dtype in cls.COLUMNS.items()})

    @classmethod
    def empty(cls, size: int) -> HeaderBatch:
        """Return a batch of `size` zeroed rows, for a kernel to fill."""
        return cls(**{name: np.zeros(size, dtype) for name, dtype in cls.COLUMNS.items()})


@dataclass(frozen=True, slots=True)
class Intake:
    """What a live source hands on at once: packets, the time it has become, or both.

    Attributes:
        packets: Packets, none in a mere tick.
        headers: What their headers say, where it is known already.
        tick_ns: The time it is for whoever got no packets, ns since the epoch; no packet that is
            handed on later is of an earlier one. 0 says nothing.
    """

    packets: PacketBatch | None
    headers: HeaderBatch | None = None
    tick_ns: int = 0


@dataclass(slots=True)
class FrameBatch(Columns):
    """Accepted arrivals: device frames, or every packet of a host.

    Attributes:
        arena: `uint8`; holds the bodies.
        at_ns: `(n,) int64`; time of capture, ns since the epoch.
        key_hi, key_lo: `(n,) uint64`; who it is about: the 16 bytes of a device id, NUL-padded and
            big-endian, or the 128-bit host address of the source.
        peer_hi, peer_lo: `(n,) uint64`; the other end: the sender's address of a device frame, the
            destination of a packet.
        proto, sport, dport, ethertype: `(n,) int32`, tcp_flags: `(n,) uint8`; as in `HeaderBatch`.
        size: `(n,) int32`; bytes that count: of the body, or of the packet on the wire.
        body: `(n,) int64`; where in the arena the body begins.
        body_len: `(n,) int32`; its bytes, 0 when there is none.
        seq: `(n,) uint32`; sequence number of a device frame, else 0.
        source: `(n,) uint64`; identity of the file it came from.
        ordinal: `(n,) int64`; number of its packet in that file.
        index: `(n,) int64`; number of its packet in the whole replay.
        clock_ns: `(n,) int64`; the time stages take it to happen at (`core.timeline`); `at_ns` when
            not given.
    """

    arena: NDArray[np.uint8]
    at_ns: NDArray[np.int64]
    key_hi: NDArray[np.uint64]
    key_lo: NDArray[np.uint64]
    peer_hi: NDArray[np.uint64]
    peer_lo: NDArray[np.uint64]
    proto: NDArray[np.int32]
    sport: NDArray[np.int32]
    dport: NDArray[np.int32]
    ethertype: NDArray[np.int32]
    tcp_flags: NDArray[np.uint8]
    size: NDArray[np.int32]
    body: NDArray[np.int64]
    body_len: NDArray[np.int32]
    seq: NDArray[np.uint32]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    index: NDArray[np.int64]
    clock_ns: NDArray[np.int64] = field(default_factory=_not_given)

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "at_ns": np.int64,
        "key_hi": np.uint64,
        "key_lo": np.uint64,
        "peer_hi": np.uint64,
        "peer_lo": np.uint64,
        "proto": np.int32,
        "sport": np.int32,
        "dport": np.int32,
        "ethertype": np.int32,
        "tcp_flags": np.uint8,
        "size": np.int32,
        "body": np.int64,
        "body_len": np.int32,
        "seq": np.uint32,
        "source": np.uint64,
        "ordinal": np.int64,
        "index": np.int64,
        "clock_ns": np.int64,
    }

    def __post_init__(self) -> None:
        if self.clock_ns.size == 0:
            self.clock_ns = self.at_ns
        self.check()

    @classmethod
    def none(cls) -> FrameBatch:
        """Return a batch without a row."""
        columns: dict[str, Any] = {name: np.zeros(0, dtype) for name, dtype in cls.COLUMNS.items()}
        return cls(arena=np.zeros(0, U1), **columns)

    def __reduce__(self) -> tuple[type[FrameBatch], tuple[object, ...]]:
        """Pickle only the bodies of these rows, not the arena they share with other batches."""
        alone = concat([self])
        return FrameBatch, tuple(getattr(alone, f.name) for f in fields(FrameBatch))


@dataclass(slots=True)
class RecordBatch(Columns):
    """Encoded records of one topic, in the order they are to be delivered.

    Attributes:
        topic: Name of the topic.
        values: `uint8`; the values one after another.
        value_end: `(n,) int64`; where in `values` each value ends.
        keys: `uint8`; the keys one after another.
        key_end: `(n,) int64`; where in `keys` each key ends.
        at_ns: `(n,) int64`; time of the packet a record speaks of, ns since the epoch.
        source: `(n,) uint64`, ordinal: `(n,) int64`; that packet's file and number in it.
        seq: `(n,) uint32`; sequence number of a device frame, else 0.
        has_seq: Whether telemetry has sequence numbers at all.
    """

    topic: str
    values: NDArray[np.uint8]
    value_end: NDArray[np.int64]
    keys: NDArray[np.uint8]
    key_end: NDArray[np.int64]
    at_ns: NDArray[np.int64]
    source: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    seq: NDArray[np.uint32]
    has_seq: bool = True

    COLUMNS = {  # noqa: RUF012  class constant; a ClassVar annotation would be a dataclass field
        "value_end": np.int64,
        "key_end": np.int64,
        "at_ns": np.int64,
        "source": np.uint64,
        "ordinal": np.int64,
        "seq": np.uint32,
    }

    def __post_init__(self) -> None:
        self.check()

    def take(self, rows: NDArray[Any] | slice) -> Self:
        """Return the records selected, in the order of `rows`, over arenas of their own."""
        values, value_end = _picked(self.values, self.value_end, rows)
        keys, key_end = _picked(self.keys, self.key_end, rows)
        others = {name: getattr(self, name)[rows] for name in ("at_ns", "source", "ordinal", "seq")}
        return replace(
            self, values=values, value_end=value_end, keys=keys, key_end=key_end, **others
        )

    def value_list(self) -> list[bytes]:
        """Return the values one by one; for sinks and tests that need them so."""
        return _split(self.values, self.value_end)

    def key_list(self) -> list[bytes]:
        """Return the keys one by one."""
        return _split(self.keys, self.key_end)


def _picked(
    arena: NDArray[np.uint8], end: NDArray[np.int64], rows: NDArray[Any] | slice
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return some of the texts that lie one after another, as such an arena with its ends."""
    from core.kernels import copy_slices, find_slices

    if isinstance(rows, slice) or rows.dtype != np.int64:
        rows = np.arange(end.size)[rows]
    start, length = np.empty(rows.size, np.int64), np.empty(rows.size, np.int32)
    picked_end = np.empty(rows.size, np.int64)
    picked = np.empty(find_slices(end, rows, start, length, picked_end), U1)
    copy_slices(np.require(arena, requirements=["C", "W"]), start, length, picked)
    return picked, picked_end


def _split(arena: NDArray[np.uint8], end: NDArray[np.int64]) -> list[bytes]:
    whole, ends = arena.tobytes(), end.tolist()
    return [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def concat(batches: list[FrameBatch]) -> FrameBatch:
    """Join frame batches into one whose arena holds only the bodies, in order.

    Args:
        batches: At least one batch.

    Returns:
        A batch that shares nothing with its inputs.
    """
    bodies = [gather(b.arena, b.body, b.body_len) for b in batches]
    columns = {
        f.name: np.concatenate([getattr(b, f.name) for b in batches])
        for f in fields(FrameBatch)
        if f.name not in ("arena", "body")
    }
    lengths = columns["body_len"].astype(np.int64)
    return FrameBatch(arena=np.concatenate(bodies), body=np.cumsum(lengths) - lengths, **columns)


def gather(
    arena: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Copy slices of an arena one after another into a new one.

    Args:
        arena: `uint8`.
        start: `(n,) int64`; where each slice begins.
        length: `(n,) int32`; its bytes.

    Returns:
        `uint8` array of `length.sum()` bytes.
    """
    from core.kernels import copy_slices

    out = np.empty(int(length.sum()), U1)
    copy_slices(arena, start, length, out)
    return out
