"""The capture source: files through a reader thread into packet batches.

Delivery guarantee: replayable. With recovery on, every packet of every file is read at least once,
and because the position is saved in the same epoch as the state of all stages, each counts exactly
once in them. Standard input cannot be read twice and is therefore refused with recovery.

Laws:

1. One part holds the whole ordered list, because several parts of one source interleave in no
   fixed order.
2. A snapshot is the position after the last packet handed on, never what was read ahead.
3. Time paces only `speed`; it never changes what a batch means.

Source: Bytewax, "Custom connectors", `FixedPartitionedSource`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.capture_files import Listing, list_captures
from connectors.capture_reader import Mark, Reader
from connectors.clock import monotonic_ns
from core.errors import SourceError

if TYPE_CHECKING:
    from core.batches import PacketBatch
    from core.config import CaptureSettings
    from connectors.ledger import Ledger

PART = "captures"
PAGE = "source"
WAIT_S = 0.05
"""How long the worker waits for the reader before other steps get their turn."""
PACED_WAIT_S = 0.002
PACED_BATCH_LEN = 1024


@dataclass(frozen=True, slots=True)
class Position:
    """What a snapshot holds.

    Attributes:
        digest: Of the settings that shape results.
        files: Path and fingerprint of each file, in replay order.
        mark: Where the reader stood before the batch in hand.
        skip: Packets of that batch already handed on.
        packets: Packets handed on.
        wire_bytes: Their bytes on the wire.
        caplen_bytes: Their captured bytes.
    """

    digest: str
    files: tuple[tuple[str, tuple[int, int, int]], ...]
    mark: Mark = Mark()
    skip: int = 0
    packets: int = 0
    wire_bytes: int = 0
    caplen_bytes: int = 0


@dataclass(slots=True)
class CaptureSource(FixedPartitionedSource["PacketBatch", Position]):
    """Replay capture files in order of their first packet.

    Attributes:
        paths: Files, folders, `-` for standard input.
        settings: See `CaptureSettings`.
        ledger: Receives what the source counted.
        digest: Identifies the settings that shape results; a resume under others is refused.
        stopping: Set by a signal; ends the source as the end of the files would.
        notify: Called with one line about each file that is skipped or damaged.
    """

    paths: tuple[str, ...]
    settings: CaptureSettings
    ledger: Ledger
    digest: str
    stopping: threading.Event
    notify: Callable[[str], None]

    def list_parts(self) -> list[str]:
        """Return the one part; see law 1."""
        return [PART]

    def build_part(
        self, step_id: str, for_part: str, resume_state: Position | None
    ) -> CapturePartition:
        """Open the list of captures, at its beginning or where a snapshot left off."""
        del step_id, for_part
        listing = list_captures(self.paths, self.settings.packet_bytes_max)
        for path, reason in listing.unreadable.items():
            self.notify(f"{path}: {reason}; skipped")
        if resume_state is not None:
            self._check_resume(listing, resume_state)
        elif listing.passed_over:
            self.notify(f"{listing.passed_over} other files in the folders given are no captures")
        return CapturePartition(self, listing, resume_state)

    def _check_resume(self, listing: Listing, position: Position) -> None:
        """Refuse to go on in anything but the files and settings the snapshot was taken with."""
        cure = "give another --recovery folder, or remove this one to start over"
        if position.digest != self.digest:
            raise SourceError(f"the recovery folder was written with other settings; {cure}")
        now = {f.path: f.fingerprint for f in listing.files}
        for path, fingerprint in position.files:
            if now.get(path) != fingerprint:
                what = "has changed" if path in now else "is missing or unreadable"
                raise SourceError(f"{path}: {what} since the recovery folder was written; {cure}")
        added = set(now) - {path for path, _ in position.files}
        if added:
            raise SourceError(f"{min(added)}: is not part of the recovered replay; {cure}")


class CapturePartition(StatefulSourcePartition["PacketBatch", Position]):
    """The only part of a `CaptureSource`; lives on one worker."""

    def __init__(self, source: CaptureSource, listing: Listing, resume: Position | None) -> None:
        """Start the reader at the position of a snapshot, or at the beginning."""
        self._source = source
        self._unreadable = len(listing.unreadable)
        self._bytes_all = sum(max(0, f.fingerprint[0]) for f in listing.files)
        files = tuple((f.path, f.fingerprint) for f in listing.files)
        self._at = resume or Position(source.digest, files)
        self._resumed = self._at.packets
        self._skip = self._at.skip
        self._batch: PacketBatch | None = None
        self._after = self._at.mark
        self._first_ns, self._begun_ns = -1, 0
        length = source.settings.batch_len
        if source.settings.speed:
            length = min(length, PACED_BATCH_LEN)
        self._reader = Reader(listing.files, source.settings, self._at.mark, length)
        self._report()

    def next_batch(self) -> list[PacketBatch]:
        """Return the next batch, nothing while the reader is behind, or end the source."""
        if self._source.stopping.is_set():
            raise StopIteration
        if self._batch is None:
            self._batch = self._take()
        batch = self._batch
        if batch is None:
            return []
        if self._source.settings.speed:
            due = self._due(batch)
            if due == 0:
                self._source.stopping.wait(PACED_WAIT_S)
                return []
            head, rest = batch.take(slice(0, due)), batch.take(slice(due, None))
        else:
            head, rest = batch, batch.take(slice(0, 0))
        self._batch = rest if len(rest) else None
        head = replace(head, index=self._at.packets)
        self._at = replace(
            self._at,
            mark=self._at.mark if len(rest) else self._after,
            skip=self._at.skip + len(head) if len(rest) else 0,
            packets=self._at.packets + len(head),
            wire_bytes=self._at.wire_bytes + int(head.wirelen.sum()),
            caplen_bytes=self._at.caplen_bytes + int(head.caplen.sum()),
        )
        self._report()
        return [head]

    def _take(self) -> PacketBatch | None:
        """Take one item from the reader; raise what it could not do, or the end."""
        item = self._reader.get(WAIT_S)
        if item is None:
            return None
        for line in filter(None, item.notice.split("\n")):
            self._source.notify(line)
        if item.error is not None:
            raise item.error
        batch = item.batch
        if batch is not None and self._skip:
            skipped = min(self._skip, len(batch))
            self._skip -= skipped
            batch = batch.take(slice(skipped, None))
        self._after = item.after
        if batch is None or len(batch) == 0:
            self._at = replace(self._at, mark=item.after, skip=self._skip)
            self._report()
            if item.last:
                raise StopIteration
            return None
        return batch

    def _due(self, batch: PacketBatch) -> int:
        """Return how many packets at the head of a batch are due at the speed asked for."""
        now = monotonic_ns()
        times = np.maximum.accumulate(batch.at_ns)
        if self._first_ns < 0:
            self._first_ns, self._begun_ns = int(times[0]), now
        passed_ns = (now - self._begun_ns) * self._source.settings.speed
        return int(np.searchsorted(times - self._first_ns, passed_ns, side="right"))

    def _report(self) -> None:
        mark = self._at.mark
        self._source.ledger.write(
            PAGE,
            {
                "packets_in": self._at.packets,
                "packets_resumed": self._resumed,
                "bytes_in": self._at.wire_bytes,
                "captured_bytes": self._at.caplen_bytes,
                "filtered": mark.filtered,
                "files_read": mark.read,
                "files_truncated": mark.truncated,
                "files_unreadable": self._unreadable,
                "file_bytes": mark.at_byte,
                "file_bytes_all": self._bytes_all,
            },
        )

    def snapshot(self) -> Position:
        """Return the position after the last packet handed on."""
        return self._at

    def close(self) -> None:
        """Stop the reader."""
        self._reader.close()
