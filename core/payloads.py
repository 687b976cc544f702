"""Datagrams of other formats than the device frame: what each is keyed by, and which are sound.

    format   the payload is                         its key is
    json     one strict JSON value, an object       the member `capture.json_key`
    syslog   a message of RFC 5424 or RFC 3164      its host, else the sender's address
    raw      any bytes                              the sender's address

Laws:

1. Every packet ends as a frame or with one reason (`core.reasons`); any bytes whatever.
2. The body of such a frame is its whole payload. Key and record are functions of the payload and
   the address it came from, so that nothing else travels with a frame.
3. There are no sequence numbers: `seq` is 0 and stands in no record.
4. A record of theirs that is read back is its own body, and its key is its `id`.

Not here: the records (`core.payload_out`).

Source: `docs/topics.md`; RFC 8259; RFC 5424; RFC 3164.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from core import syslog
from core.body import validate
from core.frame import HEADER_LEN, batch_of, not_ours
from core.json_path import INVALID, write_member
from core.kernels import A_i4, A_i8, A_u1, A_u8, Tuple, i8, kernel, none, u8
from core.reasons import Reason
from core.text_key import KEY_BYTES_MAX, pack_text
from core.text_out import write_address, write_copy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.batches import FrameBatch, HeaderBatch, PacketBatch

JSON, SYSLOG, RAW, RECORD = range(4)
"""What a payload is; a record is one that was read back."""
KINDS = {"json": JSON, "syslog": SYSLOG, "raw": RAW}
RECORD_KEY = "id"
"""Member of a record that holds its key."""

ROOM = KEY_BYTES_MAX + 4
"""Of a buffer that a key is written to; a character more than fits may be begun."""

READER = Tuple((i8, A_u1, A_i8))
"""How payloads are read: their kind, and the path of the key, in JSON."""

_TOO_LARGE, _NOT_JSON = int(Reason.BODY_TOO_LARGE), int(Reason.BODY_NOT_JSON)
_KEY_MISSING, _KEY_INVALID = int(Reason.KEY_MISSING), int(Reason.KEY_INVALID)


@dataclass(frozen=True, slots=True)
class Payloads:
    """How the payloads of a run are read.

    Attributes:
        kind: `JSON`, `SYSLOG`, `RAW` or `RECORD`.
        path: `uint8`; the names on the way to the key, one after another.
        path_end: `(n,) int64`; where each ends.
    """

    kind: int
    path: NDArray[np.uint8] = field(repr=False)
    path_end: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, name: str, json_key: str) -> Payloads:
        """Return the way to read a format.

        Args:
            name: `json`, `syslog` or `raw`.
            json_key: Names on the way to the key of JSON, with points between them.
        """
        return cls._of(KINDS[name], json_key)

    @classmethod
    def read_back(cls) -> Payloads:
        """Return the way to read records of any of these formats."""
        return cls._of(RECORD, RECORD_KEY)

    @classmethod
    def _of(cls, kind: int, json_key: str) -> Payloads:
        names = [name.encode() for name in json_key.split(".")]
        path = np.frombuffer(bytearray(b"".join(names)), np.uint8)
        return cls(kind, path, np.cumsum([len(name) for name in names]).astype(np.int64))

    @property
    def reader(self) -> tuple[int, NDArray[np.uint8], NDArray[np.int64]]:
        """What kernels take."""
        return self.kind, self.path, self.path_end

    def frames(
        self, packets: PacketBatch, headers: HeaderBatch, port: int, bytes_max: int
    ) -> tuple[NDArray[np.uint8], FrameBatch]:
        """Take the datagrams of this format out of a batch of packets.

        Args:
            packets: Packets as captured.
            headers: Their headers.
            port: UDP port that they are sent to.
            bytes_max: Largest body of a device frame: payloads may be as long as a whole frame.

        Returns:
            The reason of each packet, `(n,) uint8`, and the frames among them.
        """
        count = len(packets)
        reason = headers.reason.copy()
        key_hi, key_lo = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        _judge(
            self.reader, packets.arena, packets.caplen, packets.wirelen, headers.proto,
            headers.fragment, headers.dport, headers.payload, headers.payload_len,
            headers.claimed_len, headers.src_hi, headers.src_lo, port, HEADER_LEN + bytes_max,
            reason, key_hi, key_lo,
        )  # fmt: skip
        rows = np.flatnonzero(reason == 0)
        size = headers.payload_len[rows]
        return reason, batch_of(
            packets, headers, rows,
            key=(key_hi[rows], key_lo[rows]),
            peer=(headers.src_hi[rows], headers.src_lo[rows]),
            size=size,
            body=headers.payload[rows],
            body_len=size,
            seq=np.zeros(rows.size, np.uint32),
        )  # fmt: skip

    def keys(
        self, arena: NDArray[np.uint8], body: NDArray[np.int64], body_len: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]:
        """Return the two words of the key of each payload that names it itself.

        Args:
            arena: `uint8`.
            body: `(n,) int64`; where each begins: sound JSON.
            body_len: `(n,) int32`; its bytes.

        Returns:
            The high words, the low words, and why there is no key, 0 where there is one.
        """
        key_hi, key_lo = np.zeros(body.size, np.uint64), np.zeros(body.size, np.uint64)
        reason = np.zeros(body.size, np.uint8)
        _pack_keys(self.reader, arena, body, body_len, key_hi, key_lo, reason)
        return key_hi, key_lo, reason


@kernel(i8(READER, A_u1, i8, i8, u8, u8, A_i8, A_u1, A_u1, i8))
def write_key(
    reader: Any, arena: Any, at: Any, size: Any, peer_hi: Any, peer_lo: Any, fields: Any,
    scratch: Any, out: Any, out_at: Any,
) -> Any:  # fmt: skip
    """Write the key of a payload.

    Args:
        reader: As `READER`.
        arena: `uint8`.
        at: Where the payload begins.
        size: Its bytes; of JSON one strict value.
        peer_hi: Address of the sender.
        peer_lo: Likewise.
        fields: `(core.syslog.FIELDS,) int64`; written, of syslog.
        scratch: `uint8`; overwritten; room for the path and 3 bytes more.
        out: `uint8`; room for `ROOM` bytes at `out_at`.
        out_at: Where to write.

    Returns:
        The position after the key, or the negative of a reason.
    """
    kind, path, path_end = reader
    if kind in (JSON, RECORD):
        found = write_member(arena, at, path, path_end, scratch, out, out_at, KEY_BYTES_MAX)
        if found < 0:
            return -_KEY_INVALID if found == INVALID else -_KEY_MISSING
        return found
    if kind == SYSLOG:
        found = syslog.parse(arena, at, size, fields)
        if found != 0:
            return -found
        host = fields[syslog.HOST]
        if host >= 0:
            return write_copy(out, out_at, arena, host, fields[syslog.HOST + 1] - host)
    return write_address(out, out_at, peer_hi, peer_lo)


@kernel(
    none(
        READER, A_u1, A_i4, A_i4, A_i4, A_u1, A_i4, A_i8, A_i4, A_i4, A_u8, A_u8, i8, i8,
        A_u1, A_u8, A_u8,
    ), allocates=True)  # fmt: skip
def _judge(
    reader: Any, arena: Any, caplen: Any, wirelen: Any, proto: Any, fragment: Any, dport: Any,
    payload: Any, payload_len: Any, claimed_len: Any, src_hi: Any, src_lo: Any, port: Any,
    bytes_max: Any, reason: Any, key_hi: Any, key_lo: Any,
) -> None:  # fmt: skip
    """Judge every packet whose headers decoded; `reason` is read and written."""
    key = np.zeros(2, np.uint64)
    text = np.zeros(ROOM, np.uint8)
    scratch = np.zeros(reader[1].size + 3, np.uint8)
    fields = np.zeros(syslog.FIELDS, np.int64)
    for i in range(reason.size):
        if reason[i] != 0:
            continue
        cut = 1 if caplen[i] < wirelen[i] else 0
        found = not_ours(proto[i], fragment[i], dport[i], port, payload_len[i], claimed_len[i], cut)
        at, size = payload[i], np.int64(payload_len[i])
        if found == 0 and size > bytes_max:
            found = _TOO_LARGE
        if found == 0 and reader[0] == JSON and not validate(arena, at, size):
            found = _NOT_JSON
        if found == 0:
            end = write_key(reader, arena, at, size, src_hi[i], src_lo[i], fields, scratch, text, 0)
            if end >= 0:
                pack_text(text, 0, end, key)
                key_hi[i], key_lo[i] = key[0], key[1]
            else:
                found = -end
        reason[i] = found


@kernel(none(READER, A_u1, A_i8, A_i4, A_u8, A_u8, A_u1), allocates=True)
def _pack_keys(
    reader: Any, arena: Any, body: Any, body_len: Any, key_hi: Any, key_lo: Any, reason: Any
) -> None:
    """Write the key of each payload, or why it has none."""
    key = np.zeros(2, np.uint64)
    text = np.zeros(ROOM, np.uint8)
    scratch = np.zeros(reader[1].size + 3, np.uint8)
    fields = np.zeros(syslog.FIELDS, np.int64)
    nobody = np.uint64(0)
    for i in range(body.size):
        size = np.int64(body_len[i])
        end = write_key(reader, arena, body[i], size, nobody, nobody, fields, scratch, text, 0)
        reason[i] = max(-end, 0)
        if end >= 0:
            pack_text(text, 0, end, key)
            key_hi[i], key_lo[i] = key[0], key[1]
