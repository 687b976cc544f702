"""The files sink: the records of each topic as JSONL or Parquet files in a folder.

    DIR/<topic>/<part>-<number>.jsonl           committed: complete and never changed again
    DIR/<topic>/.<part>-<number>.jsonl.tmp      being written, or waiting for its epoch to close
    DIR/.<part>.start, DIR/.<part>.lock         who writes the part: `connectors.claim`

Laws:

1. A file under its final name is whole: it is closed (and on disk, when recovery is on) before it
   is renamed, and after a failed write nothing is renamed any more.
2. A file whose number is not below the snapshot's next number was written after that snapshot.
   Whoever resumes from the snapshot removes it, because the replay writes its records again.
3. Recovery without a snapshot starts the flow over, so it removes what the failed executions of
   the same recovery store wrote, from the first numbers in the start file. Files of other
   executions stay: a recovery store that finds the folder written by someone else since is refused.
4. `close` never raises: Bytewax 0.21 aborts the process if it does. A run that ends well snapshots
   before it closes, so that what is still pending there belongs to a run that failed.

Not here: the encoding of records, and compaction of the many small files of short epochs.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bytewax.outputs import StatefulSinkPartition

from connectors.claim import UNNAMED, Claim, Start, explained, sync
from connectors.formats import WRITERS, Format, Writer
from connectors.shard_sink import Delivered, ShardSink
from core.batches import RecordBatch
from core.errors import SettingError, SinkError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE = re.compile(r"(?P<dot>\.?)(?P<part>\d{4})-(?P<number>\d{8,})\.(?:jsonl|parquet)(?:\.tmp)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesState:
    """What a `FilesPart` resumes from.

    Attributes:
        following: Number of the next file per topic; every lower one is committed.
        delivered: Records delivered per topic since the flow first started.
    """

    following: tuple[tuple[str, int], ...]
    delivered: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Topic:
    """The files of one topic: the one being written, and those that wait for the epoch to close."""

    folder: Path
    number: int
    writer: Writer | None = None
    rows: int = 0
    temporary: list[Path] = field(default_factory=list)


class FilesPart(StatefulSinkPartition[RecordBatch, FilesState]):
    """One part of a `FilesSink`: the only writer of the files that bear its name."""

    def __init__(self, sink: FilesSink, part: str, state: FilesState | None) -> None:
        self._sink = sink
        self._part = part
        self._topics: dict[str, _Topic] = {}
        self._delivered: dict[str, int] = {}
        self._failed = False
        self._claim: Claim | None = None
        self._at = sink.folder
        with self._stopping_on_error():
            sink.folder.mkdir(parents=True, exist_ok=True)
            self._claim = Claim(sink.folder, part, durable=sink.durable)
            self._begin(self._claim, state)
        if state is not None:
            self._delivered = dict(state.delivered)
            sink.on_delivered(part, dict(self._delivered))

    def write_batch(self, values: list[RecordBatch]) -> None:
        """Append the records of the batches to the file of their topic.

        Raises:
            SinkError: A file cannot be written; nothing is renamed after that.
        """
        with self._stopping_on_error():
            for batch in values:
                if len(batch) > 0:
                    self._write(batch)
        self._sink.on_delivered(self._part, dict(self._delivered))

    def snapshot(self) -> FilesState:
        """Commit what the epoch wrote and return where the next epoch begins.

        Raises:
            SinkError: A file cannot be completed; Bytewax shows it as the cause of its own error.
        """
        with self._stopping_on_error():
            self._commit()
        return FilesState(
            following=tuple((name, topic.number) for name, topic in self._topics.items()),
            delivered=tuple(self._delivered.items()),
        )

    def close(self) -> None:
        """Release the part; commit what a failed run left pending, unless it will be replayed."""
        if self._failed:
            return
        with suppress(SinkError), self._stopping_on_error():
            pending = any(topic.temporary for topic in self._topics.values())
            if pending and self._sink.durable:
                self._abandon()
            else:
                self._commit()
                if self._claim is not None and self._sink.owner == UNNAMED:
                    self._claim.forget()
        self._release()

    def _write(self, batch: RecordBatch) -> None:
        topic = self._topics.get(batch.topic)
        if topic is None:
            topic = self._topics[batch.topic] = self._new_topic(batch.topic, 1)
        if topic.writer is None:
            if not topic.folder.is_dir():
                topic.folder.mkdir(exist_ok=True)
                self._sync(self._sink.folder)
            name = f".{self._part}-{topic.number:08d}.{self._sink.format}.tmp"
            self._at = topic.folder / name
            # Listed before it exists, so that a failure to open it leaves nothing behind.
            topic.temporary.append(self._at)
            topic.writer = WRITERS[self._sink.format](self._at)
            topic.number += 1
            topic.rows = 0
        self._at = topic.temporary[-1]
        topic.writer.write(batch)
        topic.rows += len(batch)
        self._delivered[batch.topic] = self._delivered.get(batch.topic, 0) + len(batch)
        if topic.rows >= self._sink.rotate_rows:
            self._seal(topic)

    def _seal(self, topic: _Topic) -> None:
        """Close the file being written; on disk, too, when recovery is on."""
        if topic.writer is not None:
            self._at = topic.temporary[-1]
            topic.writer.close()
            topic.writer = None
            self._sync(self._at)

    def _commit(self) -> None:
        for topic in self._topics.values():
            self._seal(topic)
            if topic.temporary:
                for path in list(topic.temporary):
                    path.rename(path.with_name(path.name[1 : -len(".tmp")]))
                    topic.temporary.remove(path)
                self._sync(topic.folder)

    def _new_topic(self, name: str, number: int) -> _Topic:
        if name.startswith(".") or "/" in name or not name:
            raise SinkError(f"{name!r}: not a topic name that can be a folder; rename the topic")
        return _Topic(self._sink.folder / name, number)

    def _begin(self, claim: Claim, state: FilesState | None) -> None:
        """Remove what is not committed, and learn the next number of every topic."""
        found = self._scan()
        start = claim.read()
        owner = self._sink.owner
        if state is not None:
            if start is not None and start.owner != owner:
                raise SinkError(
                    f"{self._sink.folder}: another run wrote here after this one stopped; "
                    "resume with the folder as it was, or start anew with an empty recovery folder"
                )
            gone = [name for name, _ in state.delivered if not (self._sink.folder / name).is_dir()]
            if gone:
                raise SinkError(
                    f"{self._sink.folder}: the records of {gone[0]} written before are gone; put "
                    "them back, or start anew with an empty recovery folder"
                )
            following, first = dict(state.following), start.first if start is not None else {}
        elif start is not None and start.owner == owner != "":
            following = first = start.first
        else:
            following = first = {name: max(paths, default=0) + 1 for name, paths in found.items()}
        for name, paths in found.items():
            number = following.get(name, 1)
            late = [path for n, path in paths.items() if n >= number]
            for path in late:
                path.unlink()
            if late:
                self._sync(self._sink.folder / name)
        self._topics = {name: self._new_topic(name, n) for name, n in following.items()}
        claim.write(Start(owner=owner, first=first))

    def _scan(self) -> dict[str, dict[int, Path]]:
        """Return this part's files per topic by number, and remove its temporary ones."""
        found: dict[str, dict[int, Path]] = {}
        for folder in self._sink.folder.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            for path in folder.iterdir():
                match = _FILE.fullmatch(path.name)
                if match is None or match["part"] != self._part:
                    continue
                if match["dot"]:
                    path.unlink()
                else:
                    found.setdefault(folder.name, {})[int(match["number"])] = path
        return found

    def _sync(self, path: Path) -> None:
        if self._sink.durable:
            sync(path)

    @contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        """Turn `OSError` into `SinkError`; after any failure this part renames nothing."""
        complete = False
        try:
            yield
            complete = True
        except OSError as error:
            raise explained(error, self._at) from error
        finally:
            if not complete:
                self._failed = True
                self._abandon()
                self._release()

    def _release(self) -> None:
        if self._claim is not None:
            self._claim.release()

    def _abandon(self) -> None:
        """Remove all temporary files; the error that led here is the one to report."""
        for topic in self._topics.values():
            if topic.writer is not None:
                with suppress(OSError):
                    topic.writer.abandon()
                topic.writer = None
            for path in topic.temporary:
                with suppress(OSError):
                    path.unlink()
            topic.temporary.clear()


class FilesSink(ShardSink[FilesState]):
    """Writes each topic to files of a folder; complete files appear when an epoch closes.

    Delivery guarantee, with respect to the files in the folder: exactly once, across any crash,
    when recovery is on (`durable`) and the source replays the same records; a reader that took a
    file before the crash may find its records again under the same number. At most once without
    recovery: a crash loses the epoch that was open, and what the disk had not written.

    Args:
        folder: Where the topics' folders go; made if missing. One run writes to it at a time.
        parts: Number of shards, 1 … 10,000.
        format: "jsonl", one value a line, or "parquet".
        rotate_rows: A file is closed after the batch with which it reaches so many records, ≥ 1.
        durable: Recovery is on: files are on disk before their epoch is committed.
        on_delivered: Called with a part and its cumulative records per topic after each write.
        recovery_id: Which recovery store this is, from `connectors.claim.recovery_id`. Without it a
            crash between the end of a flow's only epoch and its commit writes records twice, and
            starting anew with an empty store after a crash removes what the crashed run wrote.

    Raises:
        SettingError: A setting is out of bounds.
    """

    def __init__(
        self,
        *,
        folder: Path,
        parts: int,
        format: Format,  # noqa: A002  the word users know this setting by
        rotate_rows: int,
        durable: bool,
        on_delivered: Delivered,
        recovery_id: str = "",
    ) -> None:
        super().__init__(parts=parts, on_delivered=on_delivered)
        if format not in WRITERS:
            raise SettingError(f"format: {format!r} is not one of {', '.join(WRITERS)}")
        if rotate_rows < 1:
            raise SettingError(f"rotate_rows: {rotate_rows} is less than 1")
        self.folder = folder
        self.format = format
        self.rotate_rows = rotate_rows
        self.durable = durable
        self.owner = (recovery_id or UNNAMED) if durable else ""

    def check(self) -> None:
        """Make the folder and see that it can be written, before a flow is started on it.

        Raises:
            SinkError: It cannot; the message names the cure.
        """
        probe = self.folder / f".check-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise explained(error, self.folder) from error

    def build_part(self, step_id: str, for_part: str, resume_state: FilesState | None) -> FilesPart:
        """Build one part; see `ShardSink.build_part`.

        Raises:
            SinkError: The folder cannot be written, is in use, or was written by another run.
        """
        del step_id
        return FilesPart(self, for_part, resume_state)
