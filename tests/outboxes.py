"""Outboxes for tests: with a ledger that can be looked at, and records in large numbers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from connectors.account import Account
from connectors.kafka_client import producer_properties
from connectors.ledger import Ledger
from connectors.outbox import Outbox
from connectors.pressure import Pressure
from core.arrow_out import arrow_messages
from core.batches import RecordBatch
from core.outgoing import Outgoing, json_messages
from core.sections import KafkaSettings
from core.topics import TELEMETRY, TOPICS
from tests.records import Row, records_of

SECOND = 1_000_000_000
NOW_NS = 1_767_225_600 * SECOND
NOWHERE = "127.0.0.1:1"
"""Where no broker is."""


def encode(settings: KafkaSettings, partitions: int, batch: RecordBatch) -> Outgoing:
    """Return messages as the sink makes them."""
    if settings.format == "json":
        return json_messages(batch, settings.headers)
    return arrow_messages(batch, settings.headers, partitions, settings.message_bytes_max)


@dataclass
class Open:
    """An outbox that is open, and what it said.

    Attributes:
        outbox: The outbox.
        ledger: What it, and the accounts, counted.
        lost: What it said when records were lost.
        pressure: How it makes sources pause.
        stopping: Set to have it end.
    """

    settings: KafkaSettings
    servers: str
    recovers: bool
    partitions: int
    config: dict[str, Any]
    ledger: Ledger = field(default_factory=Ledger)
    lost: list[str] = field(default_factory=list)
    pressure: Pressure = field(default_factory=Pressure)
    stopping: threading.Event = field(default_factory=threading.Event)
    outbox: Outbox = field(init=False)
    _accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            config=producer_properties(self.settings, self.servers) | self.config,
            settings=self.settings,
            encode=partial(encode, self.settings, self.partitions),
            letter_bytes_max=dict.fromkeys(TOPICS, self.settings.message_bytes_max),
            partitions=dict.fromkeys(TOPICS, self.partitions),
            recovers=self.recovers,
            pressure=self.pressure,
            stopping=self.stopping,
            on_lost=self.lost.append,
            on_counts=self.ledger.write,
        )
        self.outbox.open()
        self.account = self.part("0000")

    def part(self, name: str) -> Account:
        """Return the account of a part."""
        self._accounts[name] = Account(name, self.ledger.write)
        return self._accounts[name]

    def send(self, batch: RecordBatch, account: Account | None = None) -> None:
        """Send records."""
        self.outbox.send(encode(self.settings, self.partitions, batch), account or self.account)

    def wait(self) -> None:
        """Wait until nothing waits for room."""
        while not self.outbox.relieve(0.2):
            pass

    def counts(self, *kinds: str) -> dict[str, int]:
        """Return what is in the ledger of these kinds, and is not 0."""
        for account in self._accounts.values():
            account.report()
        self.outbox.report()
        total: Counter[str] = self.ledger.total()
        return {name: n for name, n in total.items() if n and name.split(".")[0] in kinds}


FATES = ("accepted", "delivered", "dead_lettered", "lost")


@contextmanager
def opened(
    servers: str,
    settings: KafkaSettings | None = None,
    *,
    recovers: bool = False,
    partitions: int = 1,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Iterator[Open]:
    """Yield an outbox; it is closed with the block."""
    changed = msgspec.structs.replace(settings or KafkaSettings(), **changes)
    found = Open(changed, servers, recovers, partitions, config or {})
    try:
        yield found
    finally:
        found.outbox.close()


def rows(count: int, *, keys: int = 7, first: int = 0, bytes_each: int = 0) -> list[Row]:
    """Return records whose values count up, of several keys."""
    return [
        Row(b"key-%d" % (i % keys), b'{"n":%d,"pad":"%s"}' % (i, b"x" * bytes_each),
            NOW_NS + i * 1_000_000, 7, i, i)
        for i in range(first, first + count)
    ]  # fmt: skip


def readings(count: int, **how: int) -> RecordBatch:
    """Return such records as telemetry."""
    return records_of(TELEMETRY, rows(count, **how))
