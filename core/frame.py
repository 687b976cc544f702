"""The device frame: its codec, and the choice of what is a frame at all.

    offset  size  field
    0       2     magic, 0xAA55, big-endian
    2       16    device id, UTF-8, NUL-padded
    18      4     sequence number, big-endian
    22      …     body: one JSON value, or nothing

Laws:

1. Every packet ends as a frame or with one reason (`core.reasons`); any bytes whatever.
2. A device is its id up to the first NUL. Bytes after it are ignored, or an attacker could give
   one device countless keys.
   The id may be empty: such frames are of one device without a name.
3. The body is judged, never rewritten.
4. A datagram that the capture cut short is ignored, whatever it claims: what is missing cannot be
   judged. One that claims more than arrived whole is malformed.

In device mode, frames are the payloads of UDP datagrams to one port. In host mode every packet
whose headers decode is a frame, and its key is its source host.

Not here: what the body means; datagrams of other formats (`core.payloads`).

Source: the wire format of the intake, `docs/topics.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.batches import FrameBatch, HeaderBatch, PacketBatch
from core.body import utf8_valid, validate
from core.kernels import A_i4, A_i8, A_u1, A_u4, A_u8, be16, be32, i8, kernel, none
from core.protocols import PROTO_UDP
from core.reasons import Reason
from core.text_key import pack_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = 0xAA55
ID_AT, ID_LEN, SEQ_AT, HEADER_LEN = 2, 16, 18, 22

_NOT_UDP, _OTHER_PORT = int(Reason.NOT_UDP), int(Reason.OTHER_PORT)
_FRAGMENT, _SNAPPED, _UDP_LENGTH = int(Reason.FRAGMENT), int(Reason.SNAPPED), int(Reason.UDP_LENGTH)
_FRAME_SHORT, _BAD_MAGIC = int(Reason.FRAME_SHORT), int(Reason.BAD_MAGIC)
_BAD_DEVICE_ID, _BODY_TOO_LARGE = int(Reason.BAD_DEVICE_ID), int(Reason.BODY_TOO_LARGE)
_BODY_NOT_JSON = int(Reason.BODY_NOT_JSON)


def encode_frame(device_id: str, seq: int, body: bytes) -> bytes:
    """Return the bytes of one device frame.

    Args:
        device_id: At most 16 bytes of UTF-8, without NUL.
        seq: 0 … 2^32 - 1.
        body: JSON, or nothing.

    Raises:
        ValueError: The id or the sequence number does not fit.
    """
    raw = device_id.encode()
    if len(raw) > ID_LEN or b"\0" in raw:
        raise ValueError(f"device id {device_id!r}: want at most {ID_LEN} bytes without NUL")
    if not 0 <= seq < 1 << 32:
        raise ValueError(f"sequence number {seq}: want 0 … 2^32 - 1")
    head = MAGIC.to_bytes(2, "big") + raw.ljust(ID_LEN, b"\0") + seq.to_bytes(4, "big")
    return head + body


@kernel(i8(A_u1, i8, i8, i8, A_u8))
def _frame(arena: Any, at: Any, size: Any, body_bytes_max: Any, key: Any) -> Any:
    """Judge one payload; write its device id into `key` and return a reason, 0 for a frame."""
    if size < HEADER_LEN:
        return _FRAME_SHORT
    if be16(arena, at) != MAGIC:
        return _BAD_MAGIC
    length = 0
    while length < ID_LEN and arena[at + ID_AT + length] != 0:
        length += 1
    if not utf8_valid(arena, at + ID_AT, length):
        return _BAD_DEVICE_ID
    pack_id(arena, at + ID_AT, length, key)
    body_len = size - HEADER_LEN
    if body_len > body_bytes_max:
        return _BODY_TOO_LARGE
    if body_len > 0 and not validate(arena, at + HEADER_LEN, body_len):
        return _BODY_NOT_JSON
    return 0


@kernel(i8(i8, i8, i8, i8, i8, i8, i8))
def not_ours(
    proto: Any, fragment: Any, dport: Any, port: Any, payload_len: Any, claimed_len: Any, cut: Any
) -> Any:
    """Return why a sound packet carries no payload to judge, or 0."""
    if proto != PROTO_UDP:
        return _NOT_UDP
    if fragment != 0:
        return _FRAGMENT
    if port not in (0, dport):
        return _OTHER_PORT
    if claimed_len > payload_len:
        return _SNAPPED if cut else _UDP_LENGTH
    return 0


@kernel(
    none(
        A_u1, A_i4, A_i4, A_i4, A_u1, A_i4, A_i8, A_i4, A_i4, i8, i8,
        A_u1, A_u8, A_u8, A_u4,
    ), allocates=True)  # fmt: skip
def _frames(
    arena: Any, caplen: Any, wirelen: Any, proto: Any, fragment: Any, dport: Any, payload: Any,
    payload_len: Any, claimed_len: Any, port: Any, body_bytes_max: Any,
    reason: Any, key_hi: Any, key_lo: Any, seq: Any,
) -> None:  # fmt: skip
    """Judge every packet whose headers decoded; `reason` is read and written.

    Of what is no frame, neither key nor number is written.
    """
    key = np.zeros(2, np.uint64)
    for i in range(reason.size):
        if reason[i] != 0:
            continue
        cut = 1 if caplen[i] < wirelen[i] else 0
        found = not_ours(proto[i], fragment[i], dport[i], port, payload_len[i], claimed_len[i], cut)
        if found == 0:
            found = _frame(arena, payload[i], payload_len[i], body_bytes_max, key)
        reason[i] = found
        if found == 0:
            key_hi[i] = key[0]
            key_lo[i] = key[1]
            seq[i] = be32(arena, payload[i] + SEQ_AT)


def device_frames(
    packets: PacketBatch, headers: HeaderBatch, port: int, body_bytes_max: int
) -> tuple[NDArray[np.uint8], FrameBatch]:
    """Take the device frames out of a batch of packets.

    Args:
        packets: Packets as captured.
        headers: Their headers.
        port: UDP port that device frames are sent to; 0 = any.
        body_bytes_max: Largest body accepted.

    Returns:
        The reason of each packet, `(n,) uint8`, and the frames among them.
    """
    count = len(packets)
    reason = headers.reason.copy()
    key_hi, key_lo = np.empty(count, np.uint64), np.empty(count, np.uint64)
    seq = np.empty(count, np.uint32)
    _frames(
        packets.arena, packets.caplen, packets.wirelen, headers.proto, headers.fragment,
        headers.dport, headers.payload, headers.payload_len, headers.claimed_len, port,
        body_bytes_max, reason, key_hi, key_lo, seq,
    )  # fmt: skip
    rows: NDArray[Any] | slice = slice(None)
    if reason.any():
        rows = np.flatnonzero(reason == 0)
    body_len = headers.payload_len[rows] - np.int32(HEADER_LEN)
    batch = batch_of(
        packets, headers, rows,
        key=(key_hi[rows], key_lo[rows]),
        peer=(headers.src_hi[rows], headers.src_lo[rows]),
        size=body_len,
        body=headers.payload[rows] + HEADER_LEN,
        body_len=body_len,
        seq=seq[rows],
    )  # fmt: skip
    return reason, batch


def host_frames(packets: PacketBatch, headers: HeaderBatch) -> tuple[NDArray[np.uint8], FrameBatch]:
    """Take every packet whose headers decode, keyed by its source host.

    Args:
        packets: Packets as captured.
        headers: Their headers.

    Returns:
        The reason of each packet, `(n,) uint8`, and the frames; bodies are left behind.
    """
    rows: NDArray[Any] | slice = slice(None)
    if headers.reason.any():
        rows = np.flatnonzero(headers.reason == 0)
    size = packets.wirelen[rows]
    batch = batch_of(
        packets, headers, rows,
        key=(headers.src_hi[rows], headers.src_lo[rows]),
        peer=(headers.dst_hi[rows], headers.dst_lo[rows]),
        size=size,
        body=packets.start[rows],
        body_len=np.zeros(size.size, np.int32),
        seq=np.zeros(size.size, np.uint32),
    )  # fmt: skip
    return headers.reason, batch


def batch_of(
    packets: PacketBatch,
    headers: HeaderBatch,
    rows: NDArray[Any] | slice,
    *,
    key: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    peer: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    size: NDArray[np.int32],
    body: NDArray[np.int64],
    body_len: NDArray[np.int32],
    seq: NDArray[np.uint32],
) -> FrameBatch:
    """Return the frames of some packets, whose headers say all but what is given."""
    index = np.arange(packets.index, packets.index + len(packets))
    return FrameBatch(
        arena=packets.arena,
        at_ns=packets.at_ns[rows],
        key_hi=key[0],
        key_lo=key[1],
        peer_hi=peer[0],
        peer_lo=peer[1],
        proto=headers.proto[rows],
        sport=headers.sport[rows],
        dport=headers.dport[rows],
        ethertype=headers.ethertype[rows],
        tcp_flags=headers.tcp_flags[rows],
        size=size,
        body=body,
        body_len=body_len,
        seq=seq,
        source=np.full(size.size, packets.source, np.uint64),
        ordinal=packets.ordinal[rows],
        index=index[rows],
        clock_ns=packets.clock_ns[rows],
    )
