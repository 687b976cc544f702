"""A log as a store keeps it, for tests of what is written to one and read back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from core.dam import Dam
from core.queue_log import QueueLog
from core.row_log import RowLog


class Journal(Protocol):
    """What writes a log; see `flows.keeper.Journal`."""

    @property
    def version(self) -> int: ...
    @property
    def keep_from(self) -> int: ...
    def delta(self) -> bytes | None: ...
    def load(self, records: Iterable[tuple[int, bytes]], version: int) -> None: ...


class Log:
    """Records in memory; those that are not needed any more are gone at once."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.version = 0

    def write(self, journal: Journal) -> int:
        """Take the next record; return its bytes."""
        record = journal.delta()
        if record is not None:
            self.version += 1
            assert journal.version == self.version
            self.records.append((self.version, record))
        self.records = [each for each in self.records if each[0] >= journal.keep_from]
        return len(record or b"")

    def read(self, journal: Journal) -> None:
        """Go on from the records."""
        journal.load(iter(self.records), self.version)


class Kept:
    """What a store keeps of a dam: its state, and its devices and its queue in logs."""

    def __init__(self, dam: Dam) -> None:
        self.devices, self.queue = Log(), Log()
        self.journals = RowLog(dam), QueueLog(dam)
        self.state = dam.snapshot()

    def write(self, dam: Dam) -> int:
        """Take what changed; return its bytes."""
        self.state = dam.snapshot()
        return self.devices.write(self.journals[0]) + self.queue.write(self.journals[1])

    def read(self, dam: Dam) -> Dam:
        """Let a dam go on from there, and return it."""
        dam.restore(self.state)
        self.journals = RowLog(dam), QueueLog(dam)
        self.devices.read(self.journals[0])
        self.queue.read(self.journals[1])
        return dam
