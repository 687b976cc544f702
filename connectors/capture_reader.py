"""The reader thread of a replay: decodes captures ahead of the worker into a bounded queue.

Laws:

1. Packets are decoded into arenas that are never written again where a batch lies, so a batch
   needs no copy of its bytes.
2. Every batch comes with the `Mark` after it; from a mark the same packets follow again.
3. Whatever goes wrong in one file ends that file, with one notice that names it: a damaged one
   counts as truncated, one that is gone or was replaced as unreadable. Only a defect of ours, or a
   filter that does not fit a link type, ends the replay: the error travels through the queue to
   the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING

import numpy as np

from connectors.bpf import compile_filter
from connectors.capture_files import CaptureFile, open_stream
from core.batches import PacketBatch
from core.bpf import select
from core.capture import CaptureDecoder, CaptureState, Packets, Status
from core.errors import PenstockError, RunError, SourceError
from core.link import LINK_ETHERNET, LINK_TYPES
from core.plain import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.capture_stream import CaptureStream
    from core.sections import CaptureSettings

PUT_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the list of files.

    Attributes:
        file: Index of the file that comes next, or is being read.
        state: Decoder state in it; `None` before its first packet.
        read: Files read to their end, or as far as they could be.
        truncated: Of those, the ones that ended early.
        unreadable: Files that were gone, or others, when their turn came.
        filtered: Packets the capture filter rejected.
        at_byte: Bytes of the files on disk consumed; for progress only.
    """

    file: int = 0
    state: CaptureState | None = None
    read: int = 0
    truncated: int = 0
    unreadable: int = 0
    filtered: int = 0
    at_byte: int = 0


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """One item of the queue: a batch, if any, the mark after it, and a notice, if any.

    `last` is true for the item that ends the replay; `error` is set when it ended badly.
    """

    batch: PacketBatch | None
    after: Mark
    notice: str = ""
    last: bool = False
    error: PenstockError | None = None


class PacketFilter:
    """A capture filter, compiled once for each link type it meets."""

    def __init__(self, expression: str) -> None:
        """Take an expression of pcap-filter(7)."""
        self._expression = expression
        self._programs: dict[int, NDArray[np.int64]] = {}

    def check(self, linktypes: frozenset[int]) -> None:
        """Compile the filter for link types that are known to come.

        Raises:
            UsageError: The expression is wrong for one of them.
        """
        for linktype in linktypes:
            self._program(linktype)

    def select(self, batch: PacketBatch) -> NDArray[np.int64]:
        """Return the rows of a batch that the filter accepts.

        Raises:
            UsageError: The expression is wrong for a link type of the batch.
        """
        keep = np.zeros(len(batch), np.uint8)
        for linktype in np.unique(batch.linktype).tolist():
            rows = np.flatnonzero(batch.linktype == linktype)
            part = batch.take(rows)
            kept = np.zeros(rows.size, np.uint8)
            program = self._program(linktype)
            select(program, part.arena, part.start, part.caplen, part.wirelen, kept)
            keep[rows] = kept
        return np.flatnonzero(keep)

    def _program(self, linktype: int) -> NDArray[np.int64]:
        if linktype not in self._programs:
            self._programs[linktype] = compile_filter(self._expression, linktype)
        return self._programs[linktype]


class Reader:
    """Reads ahead in a daemon thread until `close` or the end of the last file."""

    def __init__(
        self,
        files: list[CaptureFile],
        settings: CaptureSettings,
        mark: Mark,
        batch_len: int,
        stopping: threading.Event,
    ) -> None:
        """Start reading.

        Args:
            files: Captures in replay order.
            settings: See `CaptureSettings`.
            mark: Where to begin.
            batch_len: Most packets of a batch.
            stopping: Ends waiting for a pipe.

        Raises:
            UsageError: The capture filter is wrong.
        """
        self._files, self._settings, self._batch_len = files, settings, batch_len
        self._stopping = stopping
        self._queue: Queue[ReadAhead] = Queue(maxsize=settings.read_ahead_batches)
        self._closed = threading.Event()
        self._filter = PacketFilter(settings.filter) if settings.filter else None
        if self._filter is not None:
            known = frozenset[int]().union(*(f.linktypes for f in files[mark.file :]))
            self._filter.check(known or frozenset([LINK_ETHERNET]))
        self._mark = mark
        self._done_bytes = sum(max(0, f.fingerprint[0]) for f in files[: mark.file])
        self._thread = threading.Thread(target=self._run, name="capture-reader", daemon=True)
        self._thread.start()

    def get(self, wait_s: float) -> ReadAhead | None:
        """Return the next item, or `None` when none came within `wait_s` seconds."""
        try:
            return self._queue.get(timeout=wait_s)
        except Empty:
            return None

    def close(self) -> None:
        """Stop the thread at its next item."""
        self._closed.set()

    def _run(self) -> None:
        # Whatever kills a thread, the worker must not wait for it for ever.
        failed = RunError("the capture reader failed; please report this capture")
        end = ReadAhead(None, self._mark, last=True, error=failed)
        try:
            for item in self._items():
                if not self._put(item):
                    return
            end = ReadAhead(None, self._mark, last=True)
        except PenstockError as error:
            end = ReadAhead(None, self._mark, last=True, error=error)
        finally:
            self._put(end)

    def _put(self, item: ReadAhead) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=PUT_WAIT_S)
            except Full:
                continue
            return True
        return False

    def _items(self) -> Iterator[ReadAhead]:
        while self._mark.file < len(self._files):
            file = self._files[self._mark.file]
            name = plain(file.path)
            notices: list[str] = []
            read = truncated = 0
            try:
                stream = open_stream(file, self._stopping)
            except SourceError as error:
                notices.append(f"{name}: {error}; skipped")
            else:
                seen: set[int] = set()
                damage = yield from self._packets(file, stream, seen)
                read, truncated = 1, int(bool(damage))
                if damage:
                    notices.append(f"{name}: {damage}; read up to there")
                odd = sorted(seen - LINK_TYPES)
                if odd:
                    notices.append(
                        f"{name}: link type {', '.join(map(str, odd))} is not decoded; its packets "
                        "count as malformed.link_unsupported"
                    )
            self._done_bytes += max(0, file.fingerprint[0])
            self._mark = replace(
                self._mark,
                file=self._mark.file + 1,
                state=None,
                read=self._mark.read + read,
                truncated=self._mark.truncated + truncated,
                unreadable=self._mark.unreadable + 1 - read,
                at_byte=self._done_bytes,
            )
            yield ReadAhead(None, self._mark, notice="\n".join(notices))

    def _packets(
        self, file: CaptureFile, stream: CaptureStream, seen: set[int]
    ) -> Generator[ReadAhead, None, str]:
        """Decode one file; return the damage that ended it, if any. Link types go to `seen`."""
        decoder = CaptureDecoder(self._mark.state or file.state, self._settings.packet_bytes_max)
        size = self._settings.chunk_bytes
        arena, at, have = np.empty(size, np.uint8), 0, 0
        with stream:
            try:
                stream.skip_to(decoder.state.offset)
            except SourceError as error:
                return str(error)
            while True:
                failure = ""
                try:
                    count = stream.readinto(arena.data[have:])
                except SourceError as error:
                    count, failure = 0, str(error)
                have += count
                status = Status.FULL
                while status == Status.FULL:
                    packets = Packets.empty(self._batch_len)
                    first = decoder.state.ordinal
                    status, at = decoder.decode(arena, at, have, packets)
                    if packets.count:
                        at_byte = self._done_bytes + stream.at_byte
                        self._mark = replace(self._mark, state=decoder.state, at_byte=at_byte)
                        batch = self._batch(file, arena, packets, first)
                        seen |= _linktypes(packets)
                        yield ReadAhead(batch, self._mark)
                if status == Status.DAMAGED or count == 0:
                    cut = f"ends inside a record ({have - at} bytes left over)" if have > at else ""
                    return failure or decoder.damage or cut
                if arena.size - have <= arena.size // 4:
                    rest = have - at
                    grown = np.empty(max(size, rest * 2), np.uint8)
                    grown[:rest] = arena[at:have]
                    arena, at, have = grown, 0, rest

    def _batch(
        self, file: CaptureFile, arena: NDArray[np.uint8], packets: Packets, first: int
    ) -> PacketBatch | None:
        """Make a batch of decoded packets, less those the capture filter rejects."""
        count = packets.count
        batch = PacketBatch(
            arena=arena,
            start=packets.start[:count],
            caplen=packets.caplen[:count],
            wirelen=packets.wirelen[:count],
            at_ns=packets.at_ns[:count],
            linktype=packets.linktype[:count],
            ordinal=np.arange(first, first + count),
            index=0,
            source=file.source,
        )
        if self._filter is None:
            return batch
        kept = batch.take(self._filter.select(batch))
        self._mark = replace(self._mark, filtered=self._mark.filtered + count - len(kept))
        return kept if len(kept) else None


def _linktypes(packets: Packets) -> set[int]:
    column = packets.linktype[: packets.count]
    first = int(column[0])
    return {first} if (column == first).all() else set(np.unique(column).tolist())
