"""Parcels: what the callback of a message knows, which is whose records it holds, and which.

Law: one parcel is the callback of many messages where each holds one record: their content tells
which. So nothing is made for a message that arrives, and a record is kept for as long as any of its
batch is under way.

Not here: what becomes of those that come back (`connectors.returns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

from core.batches import RecordBatch

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

    from connectors.account import Account
    from connectors.lane import ToProduce
    from core.outgoing import Outgoing

WHOLE, FEW, ALONE = range(3)
"""The lanes: batches as large as the settings allow, of few messages, of one."""


@dataclass(slots=True)
class Failure:
    """Why a message was not delivered.

    Attributes:
        error: What the brokers or the client said.
        key: Its key.
        value: Its value.
        by_client: Whether the client did not even take it, which it judges alone.
    """

    error: KafkaError
    key: bytes | None
    value: bytes | None
    by_client: bool = False


class Desk(Protocol):
    """Whoever is told what became of parcels."""

    def arrived(self, parcel: Parcel) -> None:
        """Hear that one was delivered."""

    def failed(self, parcel: Parcel, failure: Failure) -> None:
        """Hear that one was not."""


@dataclass(slots=True, eq=False)
class Parcel:
    """Some messages of one batch.

    Attributes:
        desk: Who is told.
        account: Whose records they are.
        batch: Records, those of the messages among them.
        lane: Where they were sent: `WHOLE`, `FEW` or `ALONE`.
        topic: The topic that the records were meant for, even when this is a dead letter.
        first: The first row of `batch` that is in the message; -1 when this is the callback of as
            many messages as there are rows.
        rows: Records in a message.
        is_letter: Whether it is a dead letter.
        taken: Rows that were told by their content already.
    """

    desk: Desk
    account: Account
    batch: RecordBatch
    lane: int
    topic: str
    first: int = -1
    rows: int = 1
    is_letter: bool = False
    taken: set[int] = field(default_factory=set)

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        """Hear the report of a message."""
        if error is None:
            self.desk.arrived(self)
        else:
            self.desk.failed(self, Failure(error, message.key(), message.value()))

    def refused(self, error: KafkaError, key: bytes | None, value: bytes) -> None:
        """Hear that the producer did not take a message."""
        self.desk.failed(self, Failure(error, key, value, by_client=True))

    def rows_of(self, failures: Sequence[Failure]) -> list[int]:
        """Return the first row of each message that failed.

        Records that are alike in key and value are told apart by their order alone, which is that
        of their reports.
        """
        if self.first >= 0:
            return [self.first] * len(failures)
        places: dict[tuple[bytes, bytes], list[int]] = {}
        contents = zip(self.batch.key_list(), self.batch.value_list(), strict=True)
        for row, content in reversed(list(enumerate(contents))):
            if row not in self.taken:
                places.setdefault(content, []).append(row)
        rows = [places[each.key or b"", each.value or b""].pop() for each in failures]
        self.taken.update(rows)
        return rows


def messages(out: Outgoing, name: str, reports: Iterable[Parcel]) -> Iterator[ToProduce]:
    """Return messages as a lane takes them.

    Args:
        out: The messages.
        name: What the brokers call their topic.
        reports: What hears of each.
    """
    return zip(
        repeat(name), out.values, out.keys, out.partitions, reports, repeat(None),
        out.timestamps_ms, out.headers or repeat(None),
    )  # fmt: skip
