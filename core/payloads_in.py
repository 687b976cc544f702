"""Telemetry of other formats than the device frame read back, each record as the arrival it tells.

Laws:

1. What `core.records.payloads` wrote is read: key and time of the datagram; its body is the record
   itself, which is delivered again as it is.
2. A record laid out otherwise is read all the same. The object is closed: a record that has less,
   more (a sequence number, say), or anything out of bounds is `Reason.RECORD`.
3. A record longer than that of any payload within `frame.body_bytes_max` is
   `Reason.BODY_TOO_LARGE`.

The size of a datagram of syslog is in no record: what counts is that of `data`. Of JSON white space
round it does not.

Source: `docs/schemas/telemetry.readings.v1.schema.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from core.frame import HEADER_LEN
from core.payload_out import BYTES_PER_BYTE, RECORD_BYTES_MAX
from core.payloads import Payloads
from core.reading_kernels import TIME_NS_MAX, check_bodies
from core.readings import Readings
from core.reasons import Reason

if TYPE_CHECKING:
    from core.values import Values


class _Record(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The closed object of the schema, without a sequence number."""

    id: str
    ts: Annotated[int, Meta(ge=0, le=TIME_NS_MAX)]
    data: msgspec.Raw | UnsetType = UNSET
    data_base64: bytes | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Record)


def payloads(values: Values, body_bytes_max: int) -> Readings:
    """Decode records of telemetry that have no sequence numbers.

    Args:
        values: The records.
        body_bytes_max: Largest body of a device frame, as for `Payloads.frames`.
    """
    rows = Readings.of(values)
    sound = np.zeros(len(rows), np.uint8)
    check_bodies(rows.arena, rows.start, rows.length, sound)
    rows.reason[sound == 0] = Reason.RECORD
    most = BYTES_PER_BYTE * (HEADER_LEN + body_bytes_max) + RECORD_BYTES_MAX
    rows.reason[rows.length > most] = Reason.BODY_TOO_LARGE
    for i in np.flatnonzero(rows.reason == 0).tolist():
        start = int(rows.start[i])
        found = _reading(rows.arena[start : start + int(rows.length[i])].tobytes())
        if found is None:
            rows.reason[i] = Reason.RECORD
        else:
            rows.size[i], rows.at_ns[i] = found
    known = np.flatnonzero(rows.reason == 0)
    rows.body[:], rows.body_len[:] = rows.start, rows.length
    keys = Payloads.read_back().keys(rows.arena, rows.start[known], rows.length[known])
    rows.key_hi[known], rows.key_lo[known], why = keys
    rows.reason[known[why != 0]] = Reason.RECORD
    return rows


def _reading(value: bytes) -> tuple[int, int] | None:
    """Return size and time that a record tells, or `None` when it is none."""
    try:
        record = _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if record.data_base64 is UNSET:
        return None if record.data is UNSET else (len(bytes(record.data)), record.ts)
    return (len(record.data_base64), record.ts) if record.data is UNSET else None
