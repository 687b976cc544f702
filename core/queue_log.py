"""A queue of frames as a log: a record holds those that came since the last one and still wait.

Laws:

1. A frame is written once, if it waits at all when a record is made.
2. A record is needed until the last of its frames has left: `keep_from` follows the head.

Not here: bytes (`core.packing`), where records are kept, and when one is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import fields
from typing import Protocol

import numpy as np

from core.batches import FrameBatch, concat
from core.packing import Columns, pack, unpack

FRAME_BYTES = 64.0
"""What a frame is taken to cost beside its body until some were written."""


class Queue(Protocol):
    """What a core has to offer for its queue to be kept in a log."""

    @property
    def span(self) -> tuple[int, int]:
        """Numbers, counted since the queue was made, of the first frame and after the last."""
        ...

    @property
    def depth_bytes(self) -> int:
        """Bytes of the frames queued, at least those of their bodies."""
        ...

    def queued(self, count: int) -> FrameBatch:
        """Return the last `count` frames, at least one."""
        ...

    def load_queue(self, frames: FrameBatch | None) -> None:
        """Hold these frames and no others, the one to leave first first.

        Raises:
            ValueError: They are not as many as `span` says.
        """
        ...


class QueueLog:
    """Decides what the next record holds, and puts records together again.

    Args:
        queue: What is kept.

    Attributes:
        version: Number of the last record.
        keep_from: Number of the oldest record that is still needed; `version + 1` if none is.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._saved = 0
        self._ends: deque[tuple[int, int]] = deque()  # record, and the frame after its last
        self.version = 0

    @property
    def keep_from(self) -> int:
        """See `QueueLog`."""
        head, _ = self._queue.span
        while self._ends and self._ends[0][1] <= head:
            self._ends.popleft()
        return self._ends[0][0] if self._ends else self.version + 1

    @property
    def unsaved(self) -> int:
        """Frames that wait and are in no record."""
        head, tail = self._queue.span
        return tail - max(head, self._saved)

    @property
    def arrival_bytes(self) -> float:
        """Estimate what one arrival adds.

        While nothing waits, nothing is expected to: what there are tokens for is never written.
        """
        head, tail = self._queue.span
        return self._queue.depth_bytes / (tail - head) + FRAME_BYTES if tail > head else 0.0

    def owed(self, arrivals: int) -> int:
        """Estimate the bytes of the next record if so many arrivals came before it."""
        return round((self.unsaved + arrivals) * self.arrival_bytes)

    def look(self) -> None:
        """Do nothing: what frames take does not have to be found out."""

    def delta(self) -> bytes | None:
        """Return the next record, or nothing when no frame has to be written.

        A record that was returned must be kept, because no later one repeats it.
        """
        count, (_, tail) = self.unsaved, self._queue.span
        self._saved = tail
        if count == 0:
            return None
        frames = concat([self._queue.queued(count)])
        columns: Columns = {"first": np.array([tail - count])}
        columns |= {f.name: getattr(frames, f.name) for f in fields(frames) if f.name != "body"}
        self.version += 1
        self._ends.append((self.version, tail))
        return pack(columns)

    def load(self, records: Iterable[tuple[int, bytes]], version: int) -> None:
        """Put the queue together from its records.

        Args:
            records: Number and content of each since `keep_from`, in order.
            version: Number of the last one ever written.

        Raises:
            ValueError: They are no records of such a queue, or not all of them.
        """
        head, tail = self._queue.span
        pieces = []
        for number, record in records:
            columns = unpack(record)
            first = int(columns.pop("first")[0])
            lengths = columns["body_len"].astype(np.int64)
            try:
                frames = FrameBatch(body=np.cumsum(lengths) - lengths, **columns)
            except TypeError as error:  # not these columns
                raise ValueError(str(error)) from error
            end = first + len(frames)
            if end > head:
                pieces.append(frames.take(slice(max(head - first, 0), None)))
                self._ends.append((number, end))
        self._queue.load_queue(concat(pieces) if pieces else None)
        self._saved, self.version = tail, version
