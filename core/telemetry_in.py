"""Telemetry read back: the value of each record of `telemetry.readings.v1` as an arrival.

Laws:

1. What `core.records.telemetry` wrote of a frame is read as that frame: id, sequence number, time,
   and the body byte for byte, white space round it included; `null` is an empty body.
2. A record laid out otherwise is read all the same: other order, white space, escapes. Its body is
   then the value without white space round it. The object is closed: a record that has less, more,
   or anything out of bounds is `Reason.RECORD`.
3. A body obeys the rules of bodies (`core.body`, `frame.body_bytes_max`) wherever it comes from.

The address a frame was sent from, and its ports, are in no record.

Source: `docs/schemas/telemetry.readings.v1.schema.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from core.frame import ID_LEN
from core.reading_kernels import OTHER, SEQ_MAX, TIME_NS_MAX, check_bodies, read_telemetry
from core.readings import Readings
from core.reasons import Reason

if TYPE_CHECKING:
    from core.values import Values

_SPACE = b" \t\n\r"
_DATA = b',"data":'


class _Record(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The closed object of the schema."""

    id: Annotated[str, Meta(max_length=ID_LEN)]
    seq: Annotated[int, Meta(ge=0, le=SEQ_MAX)]
    data: msgspec.Raw
    ts: Annotated[int, Meta(ge=0, le=TIME_NS_MAX)]


class Reading(NamedTuple):
    """What a record says.

    Attributes:
        id: Device id, at most 16 bytes.
        seq: Sequence number.
        ts: Time, ns since the epoch.
        body: The body, empty for `null`; not yet judged.
    """

    id: bytes
    seq: int
    ts: int
    body: bytes


_DECODER = msgspec.json.Decoder(_Record)


def telemetry(values: Values, body_bytes_max: int) -> Readings:
    """Decode records of telemetry.

    Args:
        values: The records.
        body_bytes_max: Largest body accepted; a larger one is `Reason.BODY_TOO_LARGE`.
    """
    rows = Readings.of(values)
    read_telemetry(
        rows.arena, rows.start, rows.length, body_bytes_max, rows.reason, rows.key_hi, rows.key_lo,
        rows.seq, rows.body, rows.body_len, rows.at_ns,
    )  # fmt: skip
    others = np.flatnonzero(rows.reason == OTHER)
    for i in others.tolist():
        start = int(rows.start[i])
        value = rows.arena[start : start + int(rows.length[i])].tobytes()
        found = reading(value)
        if found is None:
            rows.reason[i] = Reason.RECORD
            continue
        padded = found.id.ljust(ID_LEN, b"\0")
        rows.key_hi[i] = int.from_bytes(padded[:8], "big")
        rows.key_lo[i] = int.from_bytes(padded[8:], "big")
        rows.seq[i], rows.at_ns[i] = found.seq, found.ts
        # Wherever such bytes are first found in the record, they are the same.
        rows.body[i], rows.body_len[i] = start + value.find(found.body), len(found.body)
        rows.reason[i] = Reason.BODY_TOO_LARGE if len(found.body) > body_bytes_max else 0
    _judge(rows, others[(rows.reason[others] == 0) & (rows.body_len[others] > 0)])
    rows.size[:] = rows.body_len
    return rows


def _judge(rows: Readings, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Hold bodies to the rules, in what a library has read."""
    sound = np.zeros(which.size, np.uint8)
    check_bodies(rows.arena, rows.body[which], rows.body_len[which], sound)
    rows.reason[which[sound == 0]] = Reason.RECORD


def reading(value: bytes) -> Reading | None:
    """Return what a record says, however it is laid out, or `None` when it is none.

    Args:
        value: Any bytes.
    """
    try:
        record = _DECODER.decode(value)
        name = record.id.encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if len(name) > ID_LEN or b"\0" in name:
        return None
    body = bytes(record.data)
    if value.endswith(tail := b',"ts":%d}' % record.ts) and (head := value.find(_DATA)) > 0:
        # A library drops the white space round a value; as we lay records out it can be had back.
        whole = value[head + len(_DATA) : -len(tail)]
        body = whole if whole.strip(_SPACE) == body else body
    return Reading(name, record.seq, record.ts, b"" if body == b"null" else body)
