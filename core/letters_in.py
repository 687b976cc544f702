"""Dead letters read back: the malformed packet in each, to be judged again.

Laws:

1. A packet comes back as it was captured: bytes, link type, length on the wire, time, file and
   number in it, so that under other settings it gives the records it would have given then.
2. A record that the brokers refused (`core.undeliverable`) is no packet: `Reason.UNDELIVERABLE`,
   which is ignored and never a dead letter again.
3. Whatever else there is, and what was a record and no packet before, is `Reason.RECORD`.

Source: `docs/schemas`, the topics whose names end in `.dlq`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from core.dead_letter import Malformed, letter
from core.link import LINK_USER0
from core.reading_kernels import TIME_NS_MAX
from core.readings import Readings
from core.reasons import Reason

if TYPE_CHECKING:
    from core.values import Values

_INT32_MAX = (1 << 31) - 1


def letters(values: Values) -> Readings:
    """Decode dead letters; the rows lie in an arena of packets.

    Args:
        values: Records of a dead-letter topic.
    """
    rows = Readings.of(values)
    held = values.value_list()
    for i, value in enumerate(held):
        found = letter(value)
        if not isinstance(found, Malformed):
            rows.reason[i] = Reason.RECORD if found is None else Reason.UNDELIVERABLE
            continue
        if not _is_packet(found):
            rows.reason[i] = Reason.RECORD
            continue
        held[i] = found.packet
        rows.at_ns[i], rows.ordinal[i] = found.ts, found.ordinal
        rows.source[i] = int(found.source, 16)
        rows.wirelen[i], rows.linktype[i] = found.wire_bytes, found.linktype
        if found.linktype == LINK_USER0:
            rows.reason[i] = Reason.RECORD
    length = np.array([len(each) for each in held], np.int32)
    return replace(
        rows,
        arena=np.frombuffer(bytearray().join(held) or bytearray(1), np.uint8),
        start=np.cumsum(length, dtype=np.int64) - length,
        length=length,
    )


def _is_packet(found: Malformed) -> bool:
    """Tell whether the numbers of a letter are ones that a capture can have."""
    return (
        0 <= found.ts <= TIME_NS_MAX
        and found.wire_bytes <= _INT32_MAX
        and found.linktype <= _INT32_MAX
    )
