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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.capture_files import Listing, list_captures
from connectors.capture_reader import Mark, Reader
from connectors.clock import monotonic_ns
from connectors.engine_store import START_OVER
from connectors.pressure import Pressure
from core.errors import PenstockError, SourceError, UsageError
from core.pace import Pace
from core.plain import plain
from core.timeline import START, STEP_NS_MAX, settle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.ledger import Ledger
    from core.batches import PacketBatch
    from core.sections import CaptureSettings

PART = "captures"
PAGE = "source"
WAIT_S = 0.05
"""How long the worker waits for the reader before other steps get their turn."""
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
        clock: State of the timeline after them.
        behind: Packets among them stamped more than a day before the time it had reached.
    """

    digest: str
    files: tuple[tuple[str, tuple[int, int, int]], ...]
    mark: Mark = field(default_factory=Mark)
    skip: int = 0
    packets: int = 0
    wire_bytes: int = 0
    caplen_bytes: int = 0
    clock: tuple[int, int] = START
    behind: int = 0


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
        recovers: Whether positions are saved; pipes are refused then.
        pressure: What a sink whose queue is full makes this source pause by.
    """

    paths: tuple[str, ...]
    settings: CaptureSettings
    ledger: Ledger
    digest: str
    stopping: threading.Event
    notify: Callable[[str], None]
    recovers: bool = False
    pressure: Pressure = field(default_factory=Pressure)

    def list_parts(self) -> list[str]:
        """Return the one part; see law 1."""
        return [PART]

    def build_part(
        self, step_id: str, for_part: str, resume_state: Position | None
    ) -> CapturePartition:
        """Open the list of captures, at its beginning or where a snapshot left off."""
        del step_id, for_part
        listing = list_captures(self.paths, self.settings.packet_bytes_max, self.stopping)
        for path, reason in listing.unreadable.items():
            self.notify(f"{plain(path)}: {reason}; skipped")
        try:
            if self.recovers or resume_state is not None:
                _refuse_pipes(listing)
            if resume_state is not None:
                self._check_resume(listing, resume_state)
            elif listing.passed_over:
                self.notify(f"files in the folders that are no captures: {listing.passed_over}")
            return CapturePartition(self, listing, resume_state)
        except PenstockError:
            for file in listing.files:
                if file.stream is not None:
                    file.stream.close()
            raise

    def _check_resume(self, listing: Listing, position: Position) -> None:
        """Refuse to go on in anything but the files and settings the snapshot was taken with."""
        if position.digest != self.digest:
            raise SourceError(f"the recovery folder was written with other settings; {START_OVER}")
        files = _identities(listing)
        if files == position.files:
            return
        now = dict(files)
        for path, fingerprint in position.files:
            if now.get(path) != fingerprint:
                what = "has changed" if path in now else "is missing or unreadable"
                raise SourceError(
                    f"{plain(path)}: {what} since the recovery folder was written; {START_OVER}"
                )
        # All are there: one was added, or is named more or less often than it was.
        more = Counter(path for path, _ in files)
        more.subtract(path for path, _ in position.files)
        path = min(path for path, count in more.items() if count)
        raise SourceError(f"{plain(path)}: is not part of the recovered replay; {START_OVER}")


def _identities(listing: Listing) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    return tuple((f.path, f.fingerprint) for f in listing.files)


def _refuse_pipes(listing: Listing) -> None:
    for file in listing.files:
        if file.stream is not None:
            raise UsageError(
                f"{plain(file.path)}: a pipe cannot be read again, so a replay of it cannot be "
                "resumed; name a file instead, or leave out --recovery"
            )


class CapturePartition(StatefulSourcePartition["PacketBatch", Position]):
    """The only part of a `CaptureSource`; lives on one worker."""

    def __init__(self, source: CaptureSource, listing: Listing, resume: Position | None) -> None:
        """Start the reader at the position of a snapshot, or at the beginning."""
        self._source = source
        self._unreadable = len(listing.unreadable)
        self._ended = False
        self._bytes_all = sum(max(0, f.fingerprint[0]) for f in listing.files)
        self._at = resume or Position(source.digest, _identities(listing))
        self._resumed = self._at.packets
        self._skip = self._at.skip
        self._batch: PacketBatch | None = None
        self._after = self._at.mark
        self._pace = Pace(source.settings.speed)
        self._due_ns: NDArray[np.int64] | None = None
        length = source.settings.batch_len
        if source.settings.speed:
            length = min(length, PACED_BATCH_LEN)
        self._reader = Reader(
            listing.files, source.settings, self._at.mark, length, source.stopping
        )
        self._report()

    def next_batch(self) -> list[PacketBatch]:
        """Return the next batch, nothing while the reader is behind, or end the source."""
        if self._source.stopping.is_set():
            raise StopIteration
        if self._source.pressure.holds(WAIT_S):
            return []
        if self._batch is None:
            self._batch = self._take()
        batch = self._batch
        if batch is None:
            return []
        due = len(batch)
        if self._source.settings.speed:
            due = self._due(batch)
            if due == 0:
                return []
        return [self._hand_on(batch, due)]

    def _hand_on(self, batch: PacketBatch, count: int) -> PacketBatch:
        """Take packets off the head of the batch in hand, and move the position behind them."""
        head = batch
        rest: PacketBatch | None = None
        if count < len(batch):
            head, rest = batch.take(slice(0, count)), batch.take(slice(count, None))
        self._batch = rest
        clock_ns, clock = settle(head.at_ns, self._at.clock)
        head = replace(head, index=self._at.packets, clock_ns=clock_ns)
        behind = self._at.behind + int(np.count_nonzero(clock_ns - head.at_ns > STEP_NS_MAX))
        if behind and not self._at.behind:
            self._source.notify(
                f"{self._path()}: holds packets stamped more than a day before earlier ones; they "
                "are limited at the latest time seen and not scored; replay it alone to change it"
            )
        self._at = replace(
            self._at,
            mark=self._at.mark if rest is not None else self._after,
            skip=self._at.skip + len(head) if rest is not None else 0,
            clock=clock,
            behind=behind,
            packets=self._at.packets + len(head),
            wire_bytes=self._at.wire_bytes + int(head.wirelen.sum()),
            caplen_bytes=self._at.caplen_bytes + int(head.caplen.sum()),
        )
        self._report()
        return head

    def _path(self) -> str:
        """Return the file that packets come from now, fit to be shown."""
        return plain(self._at.files[min(self._at.mark.file, len(self._at.files) - 1)][0])

    def _take(self) -> PacketBatch | None:
        """Take one item from the reader; raise what it could not do, or the end."""
        item = self._reader.get(WAIT_S)
        if self._source.stopping.is_set():
            raise StopIteration  # before the file that the stop interrupted is called damaged
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
            self._ended = item.last
            self._report()
            if item.last:
                raise StopIteration
            return None
        return batch

    def _due(self, batch: PacketBatch) -> int:
        """Return how many packets of the batch in hand are due; wait a little when none is."""
        if self._due_ns is None:
            self._due_ns = self._pace.schedule(batch.at_ns, self._after.file)
        due_ns = self._due_ns[-len(batch) :]
        count, wait_ns = self._pace.due(due_ns, monotonic_ns())
        if count == 0:
            self._source.stopping.wait(min(WAIT_S, wait_ns * 1e-9))
        elif count == len(batch):
            self._due_ns = None
        return count

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
                "behind": self._at.behind,
                "ended": int(self._ended),
                "files_open": int(mark.state is not None),
                "files_read": mark.read,
                "files_truncated": mark.truncated,
                "files_unreadable": self._unreadable + mark.unreadable,
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
