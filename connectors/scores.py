"""The scores file: one float32 for each packet of a replay, as numpy reads it.

Delivery guarantee: none before the end; the file appears under its name when the run has ended
well. It cannot be resumed, so it is refused together with recovery.

Law: a packet nobody scored is NaN, never 0.

Source: numpy `.npy` format, version 1.0 (NEP 1).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from core.errors import SinkError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_BYTES = 128
_ROOM = 1 << 20
"""Packets the file first has room for; the room doubles as needed."""


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Scores of packets.

    Attributes:
        index: `(k,) int64`; number of each packet in the replay.
        score: `(k,) float32`.
    """

    index: NDArray[np.int64]
    score: NDArray[np.float32]


class ScoresFile:
    """A float32 array on disk that grows as packets are scored, whatever their order."""

    def __init__(self, path: Path) -> None:
        """Create the file under a temporary name.

        Args:
            path: Where it will lie; a file there is replaced at the end.

        Raises:
            SinkError: It cannot be created.
        """
        self.path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._scores: NDArray[np.float32] | None = None
        try:
            self._temporary.unlink(missing_ok=True)
            self._grow(_ROOM)
        except OSError as error:
            raise self._error(error) from error

    def write(self, batch: ScoreBatch) -> None:
        """Put scores in their places."""
        if batch.index.size == 0:
            return
        try:
            self._grow(int(batch.index.max()) + 1)
        except OSError as error:
            raise self._error(error) from error
        if self._scores is not None:
            self._scores[batch.index] = batch.score

    def finish(self, packets: int) -> None:
        """Cut the file to the packets there were, and give it its name."""
        try:
            self._grow(packets)
            self._scores = None
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({packets},), }}"
            text = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
            text += header.ljust(HEADER_BYTES - 11).encode() + b"\n"
            with self._temporary.open("r+b") as stream:
                stream.write(text)
                stream.truncate(HEADER_BYTES + 4 * packets)
            self._temporary.replace(self.path)
        except OSError as error:
            raise self._error(error) from error

    def abandon(self) -> None:
        """Remove what was written."""
        self._scores = None
        self._temporary.unlink(missing_ok=True)

    def _grow(self, packets: int) -> None:
        have = 0 if self._scores is None else self._scores.size
        if packets <= have:
            return
        room = max(packets, 2 * have)
        with self._temporary.open("ab") as stream:
            # Reserved, not left sparse: a full disk must fail here, where it is an error and not
            # a signal from a store into mapped memory.
            os.posix_fallocate(stream.fileno(), 0, HEADER_BYTES + 4 * room)
        self._scores = np.memmap(
            self._temporary, np.float32, "r+", offset=HEADER_BYTES, shape=(room,)
        )
        self._scores[have:] = np.nan

    def _error(self, error: OSError) -> SinkError:
        return SinkError(f"{self.path}: {error.strerror}; give --scores a file that can be written")


class ScoresSink(FixedPartitionedSink[ScoreBatch, None]):
    """Writes all scores through one part, on whichever worker holds it."""

    def __init__(self, file: ScoresFile) -> None:
        """Write to a file that the caller finishes after the run."""
        self._file = file

    def list_parts(self) -> list[str]:
        """Return the one part."""
        return ["scores"]

    def part_fn(self, item_key: str) -> int:
        """Send every shard's scores to it."""
        del item_key
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> ScoresPart:
        """Build the part; there is nothing to resume."""
        del step_id, for_part, resume_state
        return ScoresPart(self._file)


class ScoresPart(StatefulSinkPartition[ScoreBatch, None]):
    """The only part of a `ScoresSink`."""

    def __init__(self, file: ScoresFile) -> None:
        """Write to this file."""
        self._file = file

    def write_batch(self, values: list[ScoreBatch]) -> None:
        """Put scores in their places."""
        for batch in values:
            self._file.write(batch)

    def snapshot(self) -> None:
        """Return nothing; the file cannot be resumed."""
