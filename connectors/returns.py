"""Returns: messages that came back undelivered, and what is done about each.

    refused among others      → sent again among fewer, in the end alone
    refused alone             → dead letter, in the dead-letter topic of its topic
    dead letter refused       → undelivered
    failed otherwise (time …) → undelivered

Undelivered records are replayed by the next run where there is recovery, and lost where not.

Laws:

1. A record is called refused only when it was alone in its batch, or for a reason that is not its
   neighbours' fault: brokers and client judge batches, and one record too many, too large or with
   an impossible time has all of them refused.
2. An Arrow message is taken apart like a batch, until one record is left.
3. A dead letter has the time when it is sent, not that of its packet: an impossible time is one of
   the reasons to be refused, and it is kept for as long as one of today.
4. Callbacks only note down; whatever can fail is done after librdkafka has returned.

Not here: sending (`connectors.outbox`), and what a dead letter says (`core.undeliverable`).

Source: Apache Kafka 4.1, protocol error codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from confluent_kafka import KafkaError

from connectors.lane import Load
from connectors.parcel import ALONE, FEW, WHOLE, Failure, Parcel, messages
from core.batches import RecordBatch
from core.outgoing import json_messages
from core.topics import TOPICS
from core.undeliverable import LETTER_BYTES_MAX, undeliverable

if TYPE_CHECKING:
    from connectors.account import Account, Booked
    from connectors.tally import Tally
    from core.outgoing import Outgoing, Which
    from core.undeliverable import Refused

REASONS: dict[int, Refused] = {
    KafkaError.MSG_SIZE_TOO_LARGE: "record_too_large",
    KafkaError.RECORD_LIST_TOO_LARGE: "record_too_large",
    KafkaError.INVALID_MSG_SIZE: "record_too_large",
    KafkaError.INVALID_MSG: "record_invalid",
    KafkaError.INVALID_RECORD: "record_invalid",
    KafkaError.INVALID_TIMESTAMP: "record_invalid",
    KafkaError._INVALID_DIFFERENT_RECORD: "record_invalid",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "topic_unknown",
    KafkaError.TOPIC_EXCEPTION: "topic_unknown",
    KafkaError._UNKNOWN_TOPIC: "topic_unknown",
    KafkaError._UNKNOWN_PARTITION: "topic_unknown",
}
"""Errors that say something of a record or its topic; any other leaves it undelivered."""

_UNSURE = {KafkaError._DESTROY, KafkaError._DESTROY_BROKER}
"""Librdkafka let go of the partition, as when its topic was deleted; trying again will tell."""

PIECES = 16
"""Parts that the records of a refused Arrow message are cut into."""
ENVELOPE_BYTES = 600
"""Of a dead letter as a message: its headers, and the frame of Kafka."""
_PREFIX = "Unable to produce message: "
"""What the client puts before the error of a message that it does not take."""
NOW = 0
"""The time of a message that librdkafka is to set."""


class Returns:
    """Hears what became of parcels, and makes new ones of those that came back.

    Args:
        encode: Makes messages of records as they were sent first.
        headers: Which headers dead letters get.
        names: What the brokers call each topic.
        letter_bytes_max: Largest message that each dead-letter topic takes.
        recovers: Whether what is undelivered will be replayed.
        tally: Counts the records of all parts.

    Attributes:
        undelivered: Records that are undelivered.
        cause: Topic that the first of them was sent to, and why it failed.
        lost_topic: Topic of the first record that is lost; empty when none is.
        gives_up: Whether no time is left to try anything again.
    """

    def __init__(
        self,
        *,
        encode: Callable[[RecordBatch], Outgoing],
        headers: Which,
        names: Callable[[str], str],
        letter_bytes_max: Mapping[str, int],
        recovers: bool,
        tally: Tally,
    ) -> None:
        self._encode, self._headers, self._names = encode, headers, names
        self._letter_bytes_max, self._recovers, self._tally = letter_bytes_max, recovers, tally
        self._waiting: dict[Parcel, list[Failure]] = {}
        self.undelivered = 0
        self.cause: tuple[str, KafkaError] | None = None
        self.lost_topic = ""
        self.gives_up = False
        self._touched: set[Account] = set()

    def __bool__(self) -> bool:
        """Tell whether something came back that was not dealt with."""
        return bool(self._waiting)

    def arrived(self, parcel: Parcel) -> None:
        """Count records that were delivered, or are in a dead-letter topic."""
        if parcel.is_letter:
            self._tally.gone[parcel.topic] += parcel.rows
            self._book(parcel, "dead_lettered")
        else:
            self._tally.arrive(parcel.topic, parcel.rows)

    def failed(self, parcel: Parcel, failure: Failure) -> None:
        """Take note of a message that was not delivered."""
        if parcel.lane == WHOLE:
            self._tally.fall(parcel.topic, parcel.rows)
        code = failure.error.code()
        is_open = code in REASONS or (code in _UNSURE and parcel.lane != ALONE)
        if is_open and not self.gives_up:
            self._waiting.setdefault(parcel, []).append(failure)
        else:
            self._leave(parcel, failure.error)

    def touched(self) -> set[Account]:
        """Return the accounts that were booked on since this was last asked."""
        touched, self._touched = self._touched, set()
        return touched

    def give_up(self) -> None:
        """Leave what came back undelivered, and whatever comes back from now on."""
        self.gives_up = True
        waiting, self._waiting = self._waiting, {}
        for parcel, failures in waiting.items():
            for failure in failures:
                self._leave(parcel, failure.error)

    def sorted_out(self) -> Iterator[tuple[int, Load]]:
        """Yield lane and messages of what is sent now because of what came back."""
        waiting, self._waiting = self._waiting, {}
        piles: dict[tuple[int, Account, int], _Pile] = {}
        for parcel, failures in waiting.items():
            # A narrow lane has one parcel for each message: they are dealt with together.
            key = (id(parcel.batch), parcel.account, parcel.lane)
            pile = piles.setdefault(key, _Pile(parcel))
            for row, failure in zip(parcel.rows_of(failures), failures, strict=True):
                rows = range(row, row + parcel.rows)
                if not _is_settled(parcel, failure):
                    pile.again.append(rows)
                elif parcel.is_letter:
                    self._leave(parcel, failure.error)
                else:
                    pile.refused += ((each, failure) for each in rows)
        for pile in piles.values():
            yield from self._again(pile.parcel, pile.again)
            if pile.refused:
                yield self._letters(pile.parcel, pile.refused)

    def _leave(self, parcel: Parcel, error: KafkaError) -> None:
        """Count records that nothing more is done about."""
        self._tally.gone[parcel.topic] += parcel.rows
        self.undelivered += parcel.rows
        self.cause = self.cause or (parcel.batch.topic, error)
        if not self._recovers:
            self.lost_topic = self.lost_topic or parcel.topic
            self._book(parcel, "lost")

    def _book(self, parcel: Parcel, kind: Booked) -> None:
        parcel.account.book(kind, parcel.topic, parcel.rows)
        self._touched.add(parcel.account)

    def _again(self, parcel: Parcel, refused: Sequence[range]) -> Iterator[tuple[int, Load]]:
        """Yield messages that were refused among others, for a lane where there are fewer."""
        alone = np.array([rows.start for rows in refused if len(rows) == 1], np.int64)
        if alone.size:
            some = parcel.batch.take(alone)
            out = self._as_letters(some) if parcel.is_letter else self._encode(some)
            yield parcel.lane + 1, self._load(out, parcel, parcel.lane + 1)
        for rows in refused:
            if len(rows) > 1:
                for piece in np.array_split(np.array(rows), min(PIECES, len(rows))):
                    out = self._encode(parcel.batch.take(piece))
                    yield ALONE, self._load(out, parcel, ALONE)

    def _letters(self, parcel: Parcel, refused: Sequence[tuple[int, Failure]]) -> tuple[int, Load]:
        """Return the dead letters of records that were refused for good."""
        topic = TOPICS[parcel.topic].dead_letters
        room = min(LETTER_BYTES_MAX, self._letter_bytes_max.get(topic, LETTER_BYTES_MAX))
        some = parcel.batch.take(np.array([row for row, _ in refused]))
        columns = zip(
            some.key_list(), some.value_list(), some.at_ns.tolist(), some.source.tolist(),
            some.ordinal.tolist(), (failure.error for _, failure in refused), strict=True,
        )  # fmt: skip
        made = [
            undeliverable(
                parcel.topic, key, value, at_ns, source, ordinal, REASONS[error.code()],
                _said(error), letter_bytes_max=max(0, room - ENVELOPE_BYTES),
            )
            for key, value, at_ns, source, ordinal, error in columns
        ]  # fmt: skip
        keys, values = zip(*made, strict=True)
        letters = replace(some, topic=topic, seq=np.zeros(len(made), np.uint32),
                          **_text("keys", "key_end", keys),
                          **_text("values", "value_end", values))  # fmt: skip
        parcel = replace(parcel, is_letter=True)
        return FEW, self._load(self._as_letters(letters), parcel, FEW)

    def _as_letters(self, batch: RecordBatch) -> Outgoing:
        """Return dead letters as messages; see law 3."""
        out = json_messages(batch, self._headers)
        out.timestamps_ms = [NOW] * len(out)
        return out

    def _load(self, out: Outgoing, like: Parcel, lane: int) -> Load:
        """Return messages each of which is reported by itself."""
        parcels = [
            Parcel(like.desk, like.account, out.batch, lane, like.topic, first, rows,
                   like.is_letter)
            for first, rows in zip(out.first_row, out.rows, strict=True)
        ]  # fmt: skip
        return Load(out.topic, len(out.batch), messages(out, self._names(out.topic), parcels))


@dataclass(slots=True)
class _Pile:
    """What came back of one batch: rows of messages to try again, and records refused for good."""

    parcel: Parcel
    again: list[range] = field(default_factory=list)
    refused: list[tuple[int, Failure]] = field(default_factory=list)


def _is_settled(parcel: Parcel, failure: Failure) -> bool:
    """Tell whether fewer neighbours would not help."""
    reason = REASONS.get(failure.error.code())
    if reason in (None, "topic_unknown"):
        return reason is not None
    return parcel.rows == 1 and (failure.by_client or parcel.lane == ALONE)


def _said(error: KafkaError) -> str:
    return error.str().removeprefix(_PREFIX)


def _text(arena: str, end: str, texts: Sequence[bytes]) -> dict[str, Any]:
    """Return two columns of a batch: texts one after another, and where each ends."""
    joined = np.frombuffer(bytearray(b"".join(texts)), np.uint8)
    return {arena: joined, end: np.cumsum([len(text) for text in texts], dtype=np.int64)}
