"""The reader thread of a replay: decodes captures ahead of the worker into a bounded queue.

Laws:

1. Packets are decoded into arenas that are never written again where a batch lies, so a batch
   needs no copy of its bytes.
2. Every batch comes with the `Mark` after it; from a mark the same packets follow again.
3. Whatever goes wrong in one file ends that file, with one notice that names it. Only a defect of
   ours, or a file that cannot be opened any more, ends the replay: the error travels through the
   queue to the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING

import numpy as np

from connectors.bpf import compile_filter
from connectors.capture_files import READ_ERRORS, CaptureFile, Stream, Rewound, open_stream
from core.batches import PacketBatch
from core.bpf import select
from core.capture import CaptureDecoder, CaptureState, Packets, Status
from core.errors import PenstockError, RunError
from core.link import LINK_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.config import CaptureSettings

PUT_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the list of files.

    Attributes:
        file: Index of the file that comes next, or is being read.
        state: Decoder state in it; `None` before its first packet.
        read: Files read to their end, or as far as they could be.
        truncated: Of those, the ones that ended early.
        filtered: Packets the capture filter rejected.
        at_byte: Bytes of the files on disk consumed; for progress only.
    """

    file: int = 0
    state: CaptureState | None = None
    read: int = 0
    truncated: int = 0
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

    def select(self, batch: PacketBatch) -> NDArray[np.int64]:
        """Return the rows of a batch that the filter accepts.

        Raises:
            UsageError: The expression is wrong for a link type of the batch.
        """
        keep = np.zeros(len(batch), np.uint8)
        for linktype in np.unique(batch.linktype).tolist():
            if linktype not in self._programs:
                self._programs[linktype] = compile_filter(self._expression, linktype)
            rows = np.flatnonzero(batch.linktype == linktype)
            part = batch.take(rows)
            kept = np.zeros(rows.size, np.uint8)
            select(
                self._programs[linktype], part.arena, part.start, part.caplen, part.wirelen, kept
            )
            keep[rows] = kept
        return np.flatnonzero(keep)


class Reader:
    """Reads ahead in a daemon thread until `close` or the end of the last file."""

    def __init__(
        self, files: list[CaptureFile], settings: CaptureSettings, mark: Mark, batch_len: int
    ) -> None:
        """Start reading.

        Args:
            files: Captures in replay order.
            settings: See `CaptureSettings`.
            mark: Where to begin.
            batch_len: Most packets of a batch.
        """
        self._files, self._settings, self._batch_len = files, settings, batch_len
        self._queue: Queue[ReadAhead] = Queue(maxsize=settings.read_ahead_batches)
        self._closed = threading.Event()
        self._filter = PacketFilter(settings.filter) if settings.filter else None
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
        """Stop the thread, whatever it is waiting for on our side."""
        self._closed.set()

    def _run(self) -> None:
        try:
            for item in self._items():
                if not self._put(item):
                    return
            self._put(ReadAhead(None, self._mark, last=True))
        except PenstockError as error:
            self._put(ReadAhead(None, self._mark, last=True, error=error))
        except Exception as error:  # noqa: BLE001  a thread must hand its defects to the worker
            failure = RunError(f"the capture reader failed: {type(error).__name__}: {error}")
            self._put(ReadAhead(None, self._mark, last=True, error=failure))

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
            damage = ""
            decoder = CaptureDecoder(
                self._mark.state or file.state, self._settings.packet_bytes_max
            )
            with open_stream(file) as stream:
                for batch, damage in self._batches(file, stream, decoder):
                    if batch is not None:
                        yield ReadAhead(batch, self._mark)
            notices = [f"{file.path}: {damage}; read up to there"] if damage else []
            odd = sorted(_linktypes(decoder.state) - LINK_TYPES)
            if odd:
                notices.append(
                    f"{file.path}: link type {', '.join(map(str, odd))} is not decoded; its "
                    "packets count as malformed.link_unsupported"
                )
            self._done_bytes += max(0, file.fingerprint[0])
            self._mark = replace(
                self._mark,
                file=self._mark.file + 1,
                state=None,
                read=self._mark.read + 1,
                truncated=self._mark.truncated + bool(damage),
                at_byte=self._done_bytes,
            )
            yield ReadAhead(None, self._mark, notice="\n".join(notices))

    def _batches(
        self, file: CaptureFile, stream: Stream | Rewound, decoder: CaptureDecoder
    ) -> Iterator[tuple[PacketBatch | None, str]]:
        """Decode one file; the last pair carries the damage that ended it, if any."""
        size = self._settings.chunk_bytes
        arena, at, have = np.empty(size, np.uint8), 0, 0
        try:
            _skip(stream, decoder.state.offset)
        except READ_ERRORS as error:
            yield None, _sentence(error)
            return
        while True:
            failure = ""
            try:
                count = stream.readinto(memoryview(arena)[have:]) or 0
            except READ_ERRORS as error:
                count, failure = 0, _sentence(error)
            have += count
            status = Status.FULL
            while status == Status.FULL:
                packets = Packets.empty(self._batch_len)
                first = decoder.state.ordinal
                status, at = decoder.decode(arena, at, have, packets)
                batch = self._batch(file, arena, packets, first)
                self._mark = replace(
                    self._mark, state=decoder.state, at_byte=self._done_bytes + _told(stream)
                )
                yield batch, ""
            if status == Status.DAMAGED or count == 0:
                cut = f"ends inside a record ({have - at} bytes left over)" if have > at else ""
                yield None, failure or decoder.damage or cut
                return
            if arena.size - have < arena.size // 4:
                rest = have - at
                grown = np.empty(max(size, rest * 2), np.uint8)
                grown[:rest] = arena[at:have]
                arena, at, have = grown, 0, rest

    def _batch(
        self, file: CaptureFile, arena: NDArray[np.uint8], packets: Packets, first: int
    ) -> PacketBatch | None:
        """Make a batch of decoded packets, less those the capture filter rejects."""
        count = packets.count
        if count == 0:
            return None
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


def _linktypes(state: CaptureState) -> set[int]:
    return {row[0] for row in state.interfaces} if state.pcapng else {state.linktype}


def _told(stream: Stream | Rewound) -> int:
    """Return how many bytes of the file on disk were consumed, 0 when nobody knows."""
    raw = getattr(stream, "fileobj", stream)
    try:
        return int(raw.tell())
    except (OSError, AttributeError, ValueError):
        return 0


def _skip(stream: Stream | Rewound, count: int) -> None:
    """Move `count` bytes ahead; a gzip stream inflates its way there."""
    if stream.seekable():
        stream.seek(count)
        return
    while count:
        got = len(stream.read(min(count, 1 << 20)) or b"")
        if got == 0:
            raise EOFError("ends before the recovered position")
        count -= got


def _sentence(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


