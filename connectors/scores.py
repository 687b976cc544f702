"""The scores file: one float32 for each packet of a replay, as numpy reads it.

Delivery guarantee: none before the end; the file appears under its name when the run has ended
well. It cannot be resumed, so it is refused together with recovery.

Law: a packet nobody scored is NaN, never 0.

Source: numpy `.npy` format, version 1.0 (NEP 1).
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from io import FileIO
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
    """A float32 array on disk that grows as packets are scored, whatever their order.

    Args:
        path: Where it will lie; a file there is replaced at the end, a link is followed.

    Raises:
        SinkError: It cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))
        self._temporary = self._target.with_name(f".{self._target.name}.tmp")
        self._scores: NDArray[np.float32] | None = None
        self._file: FileIO | None = None
        try:
            if self._target.exists() and not self._target.is_file():
                # A folder cannot be replaced; a device must not be.
                raise SinkError(f"{path}: is no regular file; give --scores another name")
            self._file = self._claim()
            self._grow(_ROOM)
        except OSError as error:
            self.abandon()
            raise self._error(error) from error

    def write(self, batch: ScoreBatch) -> None:
        """Put scores in their places.

        Raises:
            SinkError: The disk is full.
        """
        if batch.index.size == 0:
            return
        try:
            self._grow(int(batch.index.max()) + 1)
        except OSError as error:
            raise self._error(error) from error
        if self._scores is not None:
            self._scores[batch.index] = batch.score

    def finish(self, packets: int) -> None:
        """Cut the file to the packets there were, and give it its name.

        Args:
            packets: Packets of the replay.

        Raises:
            SinkError: The disk is full, or the folder may not be written.
        """
        if self._file is None:
            return
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({packets},), }}"
        text = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
        text += header.ljust(HEADER_BYTES - 11).encode() + b"\n"
        try:
            self._grow(packets)
            self._scores = None
            self._file.seek(0)
            self._file.write(text)
            self._file.truncate(HEADER_BYTES + 4 * packets)
            os.fsync(self._file.fileno())
            self._temporary.replace(self._target)
        except OSError as error:
            raise self._error(error) from error
        self._file.close()
        self._file = None

    def abandon(self) -> None:
        """Remove what was written, unless it is finished."""
        self._scores = None
        if self._file is not None:
            self._temporary.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _claim(self) -> FileIO:
        """Open the temporary file for this run alone; one left by a killed run is taken over."""
        while True:
            # In a folder others may write to, a link by this name would have us empty its target.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._temporary, flags, 0o666)
            file = FileIO(fd, "r+b")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between the two another run may have finished, and taken the name away.
                if os.path.samestat(os.fstat(fd), self._temporary.stat()):
                    file.truncate(0)
                    return file
            except FileNotFoundError:
                pass
            except OSError:
                file.close()
                raise
            file.close()

    def _grow(self, packets: int) -> None:
        have = 0 if self._scores is None else self._scores.size
        if packets <= have or self._file is None:
            return
        room = max(packets, 2 * have)
        # Reserved, not left sparse: a full disk must fail here, where it is an error and not
        # a signal from a store into mapped memory.
        os.posix_fallocate(self._file.fileno(), 0, HEADER_BYTES + 4 * room)
        self._scores = np.memmap(self._file, "<f4", "r+", offset=HEADER_BYTES, shape=(room,))
        self._scores[have:] = np.nan

    def _error(self, error: OSError) -> SinkError:
        if isinstance(error, BlockingIOError):
            return SinkError(f"{self.path}: another run writes it; give --scores another name")
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
