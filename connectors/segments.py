"""Segments: what steps write of their state beside Bytewax's own store, as files that only grow.

    STORE/segments/<shard>-<log>-<number>.log     records, one after another

Laws:

1. A record is on disk before the mark that names it is handed to Bytewax, and Bytewax commits the
   mark together with all else of its epoch. So whatever mark is resumed from, its records are
   there; what was written after it belongs to epochs that are replayed, and is not looked at.
2. A file is never changed before its end, nor written again after a resume: a new one is begun. A
   mark names its files and how far each counts.
3. Each record carries a digest of itself and of all before it. A mark holds the last one, so that
   a file that is missing, damaged, or of another history is refused, never believed.
4. What no record needs any more is removed `LAG` snapshots later, because the mark before the last
   may be the one that is resumed from; what a resumed run finds that its mark does not name, when
   it writes for the first time. So a resume that is refused changes nothing.

Delivery guarantee: a crash of the process or of the machine loses nothing that a mark in Bytewax's
store names.

Not here: what is in a record (`core.row_log`, `core.queue_log`), who keeps the marks
(`flows.keeper`), and that one process at a time writes here (`connectors.engine_store`).

Source: write-ahead logs as in SQLite's "Write-Ahead Logging"; fdatasync(2).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from connectors.claim import explained, sync
from connectors.engine_store import unsound
from core.errors import SinkError

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "segments"
MAGIC = b"penstock segments 1\n"
FILE_BYTES_MAX = 16 << 20
FILE_RECORDS_MAX = 64
"""A file is followed by a new one when it has so many bytes or records, whichever is first."""
LAG = 4
"""Snapshots for which files that are not needed any more are kept. Bytewax begins an epoch when the
one before it is committed, so that two are enough."""

_DIGEST = 16
_HEAD = struct.Struct("<QQ")


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """One file of a log: its number, the version of its first record, and how many bytes count."""

    number: int
    first: int
    size: int


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """Where a log stood at a snapshot.

    Attributes:
        version: Version of the last record; 0 when there is none.
        digest: Of all records up to it.
        files: Those that are needed, in order.
        following: Number of the next file.
    """

    version: int = 0
    digest: bytes = bytes(_DIGEST)
    files: tuple[Extent, ...] = ()
    following: int = 1


class SegmentLog:
    """The records of one log of one shard.

    Args:
        store: The recovery folder.
        shard: Name of the shard.
        name: Name of the log.
        mark: Where to go on; `None` begins anew.
    """

    def __init__(self, store: Path, shard: str, name: str, mark: Mark | None = None) -> None:
        self._store, self._folder = store, store / FOLDER
        self._prefix = f"{shard}-{name}"
        self._mark = mark or Mark()
        self._records = 0
        self._is_open = False  # whether the last file is ours and has room
        self._is_ours = False  # whether what other runs left was removed
        self._snapshots = 0
        self._dropped: list[tuple[int, Extent]] = []  # since which snapshot a file is not needed

    @property
    def mark(self) -> Mark:
        """Where the log stands."""
        return self._mark

    def replay(self) -> Iterator[tuple[int, bytes]]:
        """Yield version and content of each record up to the mark.

        Raises:
            SourceError: A record is missing or not what was written.
        """
        digest, version = bytes(_DIGEST), 0
        for extent in self._mark.files:
            path = self._path(extent)
            try:
                with path.open("rb") as file:
                    whole = file.read(extent.size)
            except OSError as error:
                raise unsound(
                    self._store, f"{path.name}: {os.strerror(error.errno or 0)}"
                ) from error
            at = len(MAGIC) + _DIGEST
            before = whole[len(MAGIC) : at]
            if len(whole) != extent.size or whole[: len(MAGIC)] != MAGIC:
                raise unsound(self._store, f"{path.name} is cut short or no file of segments")
            if version and (before != digest or extent.first != version + 1):
                raise unsound(self._store, f"{path.name} does not follow the file before it")
            digest, version = before, extent.first - 1
            while at < extent.size:
                record, digest = self._record(whole, at, version + 1, digest, path)
                version += 1
                at += _HEAD.size + _DIGEST + len(record)
                yield version, record
        if self._mark.files and (version, digest) != (self._mark.version, self._mark.digest):
            raise unsound(self._store, f"{self._prefix} is of another history")

    def append(self, version: int, record: bytes) -> int:
        """Write a record, and wait until it is on disk.

        Args:
            version: One more than that of the record before it.
            record: Its content.

        Returns:
            Bytes written.

        Raises:
            SinkError: It cannot be written, or another process writes here.
        """
        head = _HEAD.pack(version, len(record))
        digest = _digest(self._mark.digest, head, record)
        size = len(head) + len(digest) + len(record)
        try:
            if not self._is_open:
                self._begin(version)
            *rest, last = self._mark.files
            file = os.open(self._path(last), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                intact = os.fstat(file).st_size == last.size
                written = os.writev(file, [head, digest, record]) if intact else 0
                os.fdatasync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise explained(error, self._folder) from error
        if not intact:
            raise SinkError(
                f"{self._path(last)}: somebody else writes here; end it or give another --recovery "
                "folder"
            )
        if written != size:  # a disk that fills up takes the head of what it was given
            raise explained(OSError(errno.ENOSPC, ""), self._folder)
        last = Extent(last.number, last.first, last.size + size)
        self._mark = Mark(version, digest, (*rest, last), self._mark.following)
        self._records += 1
        self._is_open = last.size < FILE_BYTES_MAX and self._records < FILE_RECORDS_MAX
        return size

    def snapshot(self, keep_from: int) -> Mark:
        """Return where the log stands, without the files that are not needed.

        Args:
            keep_from: Oldest version that is needed.
        """
        self._snapshots += 1
        files = self._mark.files
        # A file holds what comes before the next one.
        ends = [*(extent.first for extent in files[1:]), self._mark.version + 1]
        gone = sum(end <= keep_from for end in ends[: len(files)])
        if gone:
            self._is_open &= gone < len(files)
            self._dropped += [(self._snapshots, extent) for extent in files[:gone]]
            self._mark = msgspec.structs.replace(self._mark, files=files[gone:])
        while self._dropped and self._dropped[0][0] + LAG <= self._snapshots:
            _, extent = self._dropped.pop(0)
            with suppress(OSError):  # what stays is removed by the next run that writes here
                self._path(extent).unlink(missing_ok=True)
        return self._mark

    def _path(self, extent: Extent) -> Path:
        return self._folder / f"{self._prefix}-{extent.number:08d}.log"

    def _record(
        self, whole: bytes, at: int, version: int, before: bytes, path: Path
    ) -> tuple[bytes, bytes]:
        """Return content and digest of the record at a place."""
        body = at + _HEAD.size + _DIGEST
        if body <= len(whole):
            head = whole[at : at + _HEAD.size]
            number, size = _HEAD.unpack(head)
            record = whole[body : body + size]
            digest = _digest(before, head, record)
            if (number, len(record), whole[body - _DIGEST : body]) == (version, size, digest):
                return record, digest
        raise unsound(self._store, f"{path.name} is damaged at byte {at}")

    def _begin(self, version: int) -> None:
        """Begin a file; the first time, remove what no mark names any more."""
        mark = self._mark
        if not self._is_ours:
            if not self._folder.is_dir():
                self._folder.mkdir(exist_ok=True)
                sync(self._store)
            dropped = (extent for _, extent in self._dropped)
            named = {self._path(extent) for extent in (*mark.files, *dropped)}
            for path in self._folder.glob(f"{self._prefix}-[0-9]*.log"):
                if path not in named:
                    path.unlink()
            self._is_ours = True
        extent = Extent(mark.following, version, len(MAGIC) + _DIGEST)
        with self._path(extent).open("xb") as file:
            file.write(MAGIC + mark.digest)
        sync(self._folder)
        self._records, self._is_open = 0, True
        self._mark = Mark(mark.version, mark.digest, (*mark.files, extent), mark.following + 1)


def _digest(before: bytes, head: bytes, record: bytes) -> bytes:
    hashed = blake2b(before, digest_size=_DIGEST)
    hashed.update(head)
    hashed.update(record)
    return hashed.digest()
