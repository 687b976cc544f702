"""Records made by hand, for the tests of sinks and of messages."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from core.batches import RecordBatch


class Row(NamedTuple):
    """One record."""

    key: bytes
    value: bytes
    at_ns: int = 0
    source: int = 0
    ordinal: int = 0
    seq: int = 0


# Few keys, files and numbers, so that chance repeats them; times of every year there is.
ROWS = st.builds(
    Row,
    key=st.sampled_from([b"", b"k", b"dev-000253", "é€".encode()]) | st.binary(max_size=20),
    value=st.binary(max_size=300),
    at_ns=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3_000_000),
    source=st.sampled_from([0, 0xAB, 2**64 - 1]),
    ordinal=st.integers(0, 2**63 - 1) | st.integers(0, 3),
    seq=st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 256, 2**24]),
)


def records_of(topic: str, rows: list[Row]) -> RecordBatch:
    """Return records as a batch."""

    def arena(texts: list[bytes]) -> Any:
        return np.frombuffer(bytearray(b"".join(texts)), np.uint8)

    def ends(texts: list[bytes]) -> Any:
        return np.cumsum([len(text) for text in texts], dtype=np.int64)

    keys, values = [row.key for row in rows], [row.value for row in rows]
    return RecordBatch(
        topic=topic,
        values=arena(values),
        value_end=ends(values),
        keys=arena(keys),
        key_end=ends(keys),
        at_ns=np.array([row.at_ns for row in rows], np.int64),
        source=np.array([row.source for row in rows], np.uint64),
        ordinal=np.array([row.ordinal for row in rows], np.int64),
        seq=np.array([row.seq for row in rows], np.uint32),
    )


def record_batch(topic: str, values: list[bytes]) -> RecordBatch:
    """Return records of one topic, each under the key `k`."""
    return records_of(
        topic, [Row(b"k", value, ordinal=ordinal) for ordinal, value in enumerate(values)]
    )
