"""Records made by hand, for the tests of sinks."""

from __future__ import annotations

import numpy as np

from core.batches import RecordBatch


def record_batch(topic: str, values: list[bytes]) -> RecordBatch:
    """Return records of one topic, each under the key `k`."""
    n = len(values)
    return RecordBatch(
        topic=topic,
        values=np.frombuffer(b"".join(values), np.uint8).copy(),
        value_end=np.cumsum([len(v) for v in values], dtype=np.int64),
        keys=np.full(n, ord("k"), np.uint8),
        key_end=np.arange(1, n + 1, dtype=np.int64),
        at_ns=np.zeros(n, np.int64),
        source=np.zeros(n, np.uint64),
        ordinal=np.arange(n, dtype=np.int64),
        seq=np.zeros(n, np.uint32),
    )
