"""Capture files decoded: bytes of pcap or pcapng in, packet columns out.

Laws:

1. Sans-IO. The decoder is fed a buffer and says how far it got; whoever reads the file keeps the
   rest. Its whole state is `CaptureState`, which pickles, so that a replay resumes inside a file.
2. Any bytes end in packets, in "more bytes needed", or in a `Damage` with a name; never in an
   exception, and never in a read outside the buffer.
3. Times are clamped to 1970 … 2255, so that later arithmetic on nanoseconds cannot overflow.

Not here: files, gzip, folders (`connectors.capture_files`); headers of packets (`core.headers`).

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; the modified format with 24-byte record
headers as libpcap reads it (magic 0xA1B2CD34).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from core.capture_kernels import (
    BLOCK,
    CORRUPT,
    FULL,
    NO_INTERFACE,
    SECTION,
    scan_pcap,
    scan_pcapng,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC_LEN = 4
PCAP_HEADER_LEN = 24
HEAD_LEN = 28
"""Bytes `sniff` needs to tell what a file is."""
BLOCK_BYTES_MAX = 16 << 20
"""Largest pcapng block accepted: a longer one is damage, not data."""
INTERFACES_MAX = 65_536
"""Most interfaces of one pcapng section: a bound on memory."""
INTERFACE_WORDS = 5

_MAGICS = {  # first four bytes → (little-endian, ns per time unit, record header length)
    0xA1B2C3D4: (False, 1000, 16),
    0xD4C3B2A1: (True, 1000, 16),
    0xA1B23C4D: (False, 1, 16),
    0x4D3CB2A1: (True, 1, 16),
    0xA1B2CD34: (False, 1000, 24),
    0x34CDB2A1: (True, 1000, 24),
}


InterfaceRow = tuple[int, int, int, int, int]


class Status(IntEnum):
    """Why `CaptureDecoder.decode` stopped."""

    MORE = 0
    """The buffer holds no further whole record."""
    FULL = 1
    """As many packets as asked for were found."""
    DAMAGED = 2
    """What follows cannot be read; see `CaptureDecoder.damage`."""


@dataclass(frozen=True, slots=True)
class CaptureState:
    """Where a decoder stands in its file; everything needed to go on.

    Attributes:
        offset: Bytes of the uncompressed file consumed.
        ordinal: Packets decoded.
        pcapng: Whether the file is pcapng.
        little: Byte order of the file or of the current section.
        unit_ns: ns per unit of the fraction field (pcap).
        record_len: Bytes of a record header (pcap).
        linktype: Link type of the file (pcap).
        interfaces: Rows of the current section's interface table (pcapng), each
            `(linktype, snap length, units per second, shift, offset in seconds)`.
    """

    offset: int = 0
    ordinal: int = 0
    pcapng: bool = False
    little: bool = True
    unit_ns: int = 1000
    record_len: int = 16
    linktype: int = -1
    interfaces: tuple[InterfaceRow, ...] = ()


@dataclass(slots=True)
class Packets:
    """Columns for up to `size` packets, filled by `CaptureDecoder.decode`; see `PacketBatch`."""

    start: NDArray[np.int64]
    caplen: NDArray[np.int32]
    wirelen: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    linktype: NDArray[np.int32]
    count: int = 0

    @classmethod
    def empty(cls, size: int) -> Packets:
        """Return columns with room for `size` packets."""
        return cls(
            start=np.zeros(size, np.int64),
            caplen=np.zeros(size, np.int32),
            wirelen=np.zeros(size, np.int32),
            at_ns=np.zeros(size, np.int64),
            linktype=np.zeros(size, np.int32),
        )


def begins_as_capture(head: bytes) -> bool:
    """Tell whether bytes begin with the magic of a capture, sound or not in what follows."""
    magic = int.from_bytes(head[:4], "big")
    return len(head) >= MAGIC_LEN and (magic == SECTION or magic in _MAGICS)


def sniff(head: bytes) -> CaptureState | str:
    """Tell what kind of capture file begins with these bytes.

    Args:
        head: At least the first `HEAD_LEN` bytes of the file, or all of it when it is shorter.

    Returns:
        The state a decoder starts from, or a sentence that says why it is no capture file.
    """
    if not head:
        return "the file is empty"
    if len(head) < MAGIC_LEN:
        return f"{len(head)} bytes are too few for a capture file"
    magic = int.from_bytes(head[:4], "big")
    if magic == SECTION:
        if len(head) < HEAD_LEN:
            return "the file ends inside its pcapng section header"
        if head[8:12] not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
            return "its pcapng section header has no valid byte-order magic"
        return CaptureState(pcapng=True)
    if magic not in _MAGICS:
        return f"not a pcap or pcapng file (it begins with {head[:4].hex(' ')})"
    if len(head) < PCAP_HEADER_LEN:
        return "the file ends inside its pcap header"
    little, unit_ns, record_len = _MAGICS[magic]
    major = int.from_bytes(head[4:6], "little" if little else "big")
    if major != 2:
        return f"pcap version {major} is not supported (only version 2 is)"
    network = int.from_bytes(head[20:24], "little" if little else "big")
    return CaptureState(
        offset=PCAP_HEADER_LEN,
        little=little,
        unit_ns=unit_ns,
        record_len=record_len,
        linktype=network & 0x03FFFFFF,
    )


@dataclass(slots=True)
class CaptureDecoder:
    """Decode one capture file, buffer by buffer.

    Attributes:
        state: Where it stands; give a saved one to go on from there.
        packet_bytes_max: Longest captured packet believed; a longer record is damage.
        damage: What is wrong with the file, once `decode` returned `Status.DAMAGED`.
    """

    state: CaptureState
    packet_bytes_max: int
    damage: str = ""
    _rows: list[InterfaceRow] = field(init=False)
    _table: NDArray[np.int64] = field(init=False)
    _result: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = list(self.state.interfaces)
        self._table = np.zeros((max(4, len(self._rows)), INTERFACE_WORDS), np.int64)
        for i, row in enumerate(self._rows):
            self._table[i] = row
        self._result = np.zeros(3, np.int64)

    @property
    def linktypes(self) -> frozenset[int]:
        """Link types of the file, or of the interfaces of its current section."""
        if not self.state.pcapng:
            return frozenset([self.state.linktype])
        return frozenset(row[0] for row in self._rows)

    def decode(self, buf: NDArray[np.uint8], at: int, end: int, out: Packets) -> tuple[Status, int]:
        """Decode packets from `buf[at:end]` into `out`, after those it already holds.

        Args:
            buf: `uint8` buffer; `buf[at]` is the byte at `state.offset` of the file.
            at: Index of the first byte to look at.
            end: Index after the last valid byte.
            out: Columns to append to; their length bounds how many packets are taken.

        Returns:
            Why it stopped, and the index of the first byte not consumed.
        """
        begun, had = at, out.count
        while True:
            status, at, out.count = self._scan(buf, at, end, out)
            step = self._special_block(buf, at, end) if status == BLOCK else 0
            if step == 0:
                break
            at += step
        self.state = replace(
            self.state,
            offset=self.state.offset + at - begun,
            ordinal=self.state.ordinal + out.count - had,
        )
        if len(self._rows) != len(self.state.interfaces):
            # Once a buffer, not once a block: a section may describe thousands of interfaces.
            self.state = replace(self.state, interfaces=tuple(self._rows))
        if status == CORRUPT:
            self.damage = "a record has an impossible length"
        elif status == NO_INTERFACE:
            self.damage = "a packet names an interface that was never described"
        if self.damage:
            return Status.DAMAGED, at
        return (Status.FULL if status == FULL else Status.MORE), at

    def _scan(
        self, buf: NDArray[np.uint8], at: int, end: int, out: Packets
    ) -> tuple[int, int, int]:
        """Run a kernel; return why it stopped, the index it reached, and the packets in `out`."""
        state, result = self.state, self._result
        if state.pcapng:
            scan_pcapng(
                buf, at, end, state.little, self.packet_bytes_max, BLOCK_BYTES_MAX,
                self._table[: len(self._rows)], out.start, out.caplen, out.wirelen, out.at_ns,
                out.linktype, out.count, result,
            )  # fmt: skip
        else:
            scan_pcap(
                buf, at, end, state.little, state.unit_ns, state.record_len,
                self.packet_bytes_max, state.linktype, out.start, out.caplen, out.wirelen,
                out.at_ns, out.linktype, out.count, result,
            )  # fmt: skip
        status, at, count = result.tolist()
        return status, at, count

    def _special_block(self, buf: NDArray[np.uint8], at: int, end: int) -> int:
        """Take one section header or interface block; return its length, or 0 to stop."""
        raw = bytes(buf[at : min(end, at + 28)])
        is_section = int.from_bytes(raw[:4], "big") == SECTION
        little = self.state.little
        if is_section:
            if len(raw) < 16:
                return 0
            little = raw[8:12] == b"\x4d\x3c\x2b\x1a"
            if not little and raw[8:12] != b"\x1a\x2b\x3c\x4d":
                self.damage = "a pcapng section header has no valid byte-order magic"
                return 0
        order = "<" if little else ">"
        (length,) = struct.unpack_from(order + "I", raw, 4)
        least = 28 if is_section else 20
        if length < least or length % 4 or length > BLOCK_BYTES_MAX:
            self.damage = f"a pcapng block claims {length} bytes"
            return 0
        if at + length > end:
            return 0
        block = bytes(buf[at : at + length])
        if struct.unpack_from(order + "I", block, length - 4)[0] != length:
            self.damage = "the two lengths of a pcapng block differ"
            return 0
        if is_section:
            self._begin_section(block, order)
        else:
            self._add_interface(_interface(block, order))
        return 0 if self.damage else int(length)

    def _begin_section(self, block: bytes, order: str) -> None:
        major = struct.unpack_from(order + "H", block, 12)[0]
        if major != 1:
            self.damage = f"pcapng version {major} is not supported (only version 1 is)"
            return
        self.state = replace(self.state, little=order == "<", interfaces=())
        self._rows.clear()

    def _add_interface(self, row: InterfaceRow) -> None:
        count = len(self._rows)
        if count >= INTERFACES_MAX:
            self.damage = f"a section has more than {INTERFACES_MAX} interfaces"
            return
        if count == self._table.shape[0]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[count] = row
        self._rows.append(row)


def _interface(block: bytes, order: str) -> InterfaceRow:
    """Decode an interface description block (pcapng §4.2) to a row of the interface table."""
    linktype, _, snap_len = struct.unpack_from(order + "HHI", block, 8)
    resolution, offset_s = 6, 0
    at, end = 16, len(block) - 4
    while at + 4 <= end:
        code, size = struct.unpack_from(order + "HH", block, at)
        if code == 0 or at + 4 + size > end:
            break
        if code == 9 and size == 1:
            resolution = block[at + 4]
        elif code == 14 and size == 8:
            (offset_s,) = struct.unpack_from(order + "q", block, at + 4)
        at += 4 + (size + 3) // 4 * 4
    exponent = resolution & 0x7F
    # A 64-bit stamp of units finer than 2**-62 or 10**-18 s holds a few seconds at most, and the
    # number of units must fit in int64: 0 units means "time unknown".
    if resolution & 0x80:
        units = 1 << exponent if exponent < 63 else 0
        shift = max(0, exponent - 33)
    else:
        units = 10**exponent if exponent <= 18 else 0
        shift = 0
    return linktype, snap_len, units, shift, max(-(10**10), min(10**10, offset_s))
