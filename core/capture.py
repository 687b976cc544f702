"""Capture files decoded: bytes of pcap or pcapng in, packet columns out.

Laws:

1. Sans-IO. The decoder is fed a buffer and says how far it got; whoever reads the file keeps the
   rest. Its whole state is `CaptureState`, which pickles, so that a replay resumes inside a file.
2. Any bytes end in packets, in "more bytes needed", or in a `Damage` with a name; never in an
   exception, and never in a read outside the buffer.
3. Times are clamped to 1970 … 2255, so that later arithmetic on nanoseconds cannot overflow.

Not here: files, gzip, folders (`connectors.capture`); headers of packets (`core.headers`).

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; the modified format with 24-byte record
headers as libpcap reads it (magic 0xA1B2CD34).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from core.capture_kernels import BLOCK, CORRUPT, FULL, scan_pcap, scan_pcapng

if TYPE_CHECKING:
    from numpy.typing import NDArray

PCAP_HEADER_LEN = 24
BLOCK_BYTES_MAX = 16 << 20
"""Largest pcapng block accepted: a longer one is damage, not data."""
INTERFACES_MAX = 65_536
"""Most interfaces of one pcapng section: a bound on memory."""
INTERFACE_WORDS = 5

_SECTION = 0x0A0D0D0A
_INTERFACE = 1
_MAGICS = {  # first four bytes, big-endian → (swapped, ns per time unit, record header length)
    0xA1B2C3D4: (False, 1000, 16),
    0xD4C3B2A1: (True, 1000, 16),
    0xA1B23C4D: (False, 1, 16),
    0x4D3CB2A1: (True, 1, 16),
    0xA1B2CD34: (False, 1000, 24),
    0x34CDB2A1: (True, 1000, 24),
}


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
    interfaces: tuple[tuple[int, int, int, int, int], ...] = ()


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


def sniff(head: bytes) -> CaptureState | str:
    """Tell what kind of capture file begins with these bytes.

    Args:
        head: At least the first 28 bytes of the file, or all of it when it is shorter.

    Returns:
        The state a decoder starts from, or a sentence that says why it is no capture file.
    """
    if not head:
        return "the file is empty"
    if len(head) < 4:
        return f"{len(head)} bytes are too few for a capture file"
    magic = int.from_bytes(head[:4], "big")
    if magic == _SECTION:
        if len(head) < 28:
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
        state: Where it stands; assign a saved one to go on from there.
        packet_bytes_max: Longest captured packet believed; a longer record is damage.
        damage: What is wrong with the file, once `decode` returned `Status.DAMAGED`.
    """

    state: CaptureState
    packet_bytes_max: int
    damage: str = ""
    _table: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, INTERFACE_WORDS), "i8"))

    def __post_init__(self) -> None:
        self._table = self._interface_table()

    def _interface_table(self) -> NDArray[np.int64]:
        rows = self.state.interfaces
        return np.array(rows, np.int64).reshape(len(rows), INTERFACE_WORDS)

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
        result = np.zeros(3, np.int64)
        while True:
            if self.state.pcapng:
                scan_pcapng(
                    buf, at, end, self.state.little, self.packet_bytes_max, BLOCK_BYTES_MAX,
                    self._table, out.start, out.caplen, out.wirelen, out.at_ns, out.linktype,
                    out.count, result,
                )  # fmt: skip
            else:
                scan_pcap(
                    buf, at, end, self.state.little, self.state.unit_ns, self.state.record_len,
                    self.packet_bytes_max, self.state.linktype, out.start, out.caplen,
                    out.wirelen, out.at_ns, out.linktype, out.count, result,
                )  # fmt: skip
            status, reached, count = (int(x) for x in result)
            found = count - out.count
            out.count = count
            self.state = replace(
                self.state,
                offset=self.state.offset + reached - at,
                ordinal=self.state.ordinal + found,
            )
            at = reached
            if status == BLOCK:
                step = self._special_block(buf, at, end)
                if step > 0:
                    self.state = replace(self.state, offset=self.state.offset + step)
                    at += step
                    continue
                return (Status.DAMAGED if self.damage else Status.MORE), at
            if status == CORRUPT:
                self.damage = self.damage or "a record has an impossible length"
                return Status.DAMAGED, at
            return (Status.FULL if status == FULL else Status.MORE), at

    def _special_block(self, buf: NDArray[np.uint8], at: int, end: int) -> int:
        """Take one section header or interface block; return its length, or 0 to stop."""
        raw = bytes(buf[at : min(end, at + 28)])
        kind = int.from_bytes(raw[:4], "big")
        little = self.state.little
        if kind == _SECTION:
            if len(raw) < 16:
                return 0
            little = raw[8:12] == b"\x4d\x3c\x2b\x1a"
            if not little and raw[8:12] != b"\x1a\x2b\x3c\x4d":
                self.damage = "a pcapng section header has no valid byte-order magic"
                return 0
        order = "<" if little else ">"
        (length,) = struct.unpack_from(order + "I", raw, 4)
        least = 28 if kind == _SECTION else 20
        if length < least or length % 4 or length > BLOCK_BYTES_MAX:
            self.damage = f"a pcapng block claims {length} bytes"
            return 0
        if at + length > end:
            return 0
        block = bytes(buf[at : at + length])
        if struct.unpack_from(order + "I", block, length - 4)[0] != length:
            self.damage = "the two lengths of a pcapng block differ"
            return 0
        if kind == _SECTION:
            major = struct.unpack_from(order + "H", block, 12)[0]
            if major != 1:
                self.damage = f"pcapng version {major} is not supported (only version 1 is)"
                return 0
            self.state = replace(self.state, little=little, interfaces=())
        else:
            if len(self.state.interfaces) >= INTERFACES_MAX:
                self.damage = f"a section has more than {INTERFACES_MAX} interfaces"
                return 0
            row = _interface(block, order)
            self.state = replace(self.state, interfaces=(*self.state.interfaces, row))
        self._table = self._interface_table()
        return int(length)


def _interface(block: bytes, order: str) -> tuple[int, int, int, int, int]:
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
    # Finer than 2**-63 or 10**-18 s no 64-bit stamp holds a second: 0 units means "time unknown".
    if resolution & 0x80:
        units = 1 << exponent if exponent < 63 else 0
        shift = max(0, exponent - 33)
    else:
        units = 10**exponent if exponent <= 18 else 0
        shift = 0
    return linktype, snap_len, units, shift, max(-(10**10), min(10**10, offset_s))
