"""The reading half of the topic source: messages in, batches of readings in merged order out.

Laws:

1. What is handed on is a function of what the partitions hold, not of when which message came.
2. A position is the place after the last record handed on, never what was read ahead.
3. What is read ahead is bounded: a partition that is far ahead of others is paused, and the one
   that is waited for never is.
4. No call waits longer than `WAIT_S`. Time paces only `speed`.

Not here: which topic, and whether a position fits it (`connectors.kafka_source`).

Source: Bytewax, "Custom connectors", `StatefulSourcePartition`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from bytewax.inputs import StatefulSourcePartition

from connectors.capture import PACED_BATCH_LEN, PAGE, WAIT_S
from connectors.clock import monotonic_ns
from core.merge import Clock, Merge, keys
from core.pace import Pace
from core.readings import Readings, joined
from core.reasons import Reason
from core.strand import Place, Strand, window_of
from core.timeline import START, STEP_NS_MAX
from core.values import unpacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connectors.kafka_source import TopicSource
    from connectors.topic_feed import Feed
    from core.values import Messages

MESSAGES = 8_192
"""Taken at a time, at most."""
AHEAD_ROWS_MAX = 16_384
"""Rows of one partition in order that wait for others, about, before it is paused."""
AHEAD_BYTES_MAX = 128 << 20
"""Bytes of all of them, beyond which only partitions that have none are read."""
ROW_BYTES = 160
"""Of a row, beside its record."""


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """What a snapshot holds.

    Attributes:
        digest: Of the settings that shape results.
        cluster: Identity of the cluster.
        topic: Name of the topic there.
        topic_id: Identity of the topic.
        begins: Offset at which each partition began.
        ends: Offset before which each ends.
        places: Where the block of each begins that is being handed on.
        seen: Rows of that block already handed on.
        clock: State of the timeline of all.
        records: Records handed on.
        wire_bytes: Their bytes; of packets those on the wire.
        held_bytes: Their bytes; of packets those that were captured.
        behind: Records among them stamped more than a day before the time it had reached.
        undeliverable: Records among them that brokers had refused.
    """

    digest: str
    cluster: str
    topic: str
    topic_id: str
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    places: tuple[Place, ...]
    seen: tuple[int, ...]
    clock: Clock = START
    records: int = 0
    wire_bytes: int = 0
    held_bytes: int = 0
    behind: int = 0
    undeliverable: int = 0


class TopicPart(StatefulSourcePartition["Readings", TopicPosition]):
    """The only part of a `TopicSource`; lives on one worker."""

    def __init__(self, source: TopicSource, feed: Feed, at: TopicPosition) -> None:
        """Begin at a position, to which the feed was set."""
        self._source, self._feed, self._at = source, feed, at
        self._resumed = at.records
        window = window_of(len(at.ends))
        self._strands = [Strand(*each, window) for each in zip(at.places, at.seen, strict=True)]
        self._merge: Merge[Readings] = Merge([place.merged[0] for place in at.places])
        self._is_read = np.array([place.offset for place in at.places]) >= np.array(at.ends)
        self._fresh_ends: list[int] = []
        for p in np.flatnonzero(self._is_read).tolist():
            self._merge.exhaust(p)
        self._ahead_bytes = 0
        self._paused: set[int] = set()
        self._hand: Readings | None = None
        self._ended = False
        capture = source.settings.capture
        self._pace = Pace(capture.speed) if capture.speed else None
        self._due_ns: NDArray[np.int64] | None = None
        paced_len = min(capture.batch_len, PACED_BATCH_LEN)
        self._batch_len = paced_len if self._pace else capture.batch_len
        self._report()

    def next_batch(self) -> list[Readings]:
        """Return the next batch, nothing while it has not come, or end the source."""
        if self._source.stopping.is_set():
            raise StopIteration
        if self._source.pressure.holds(WAIT_S):
            return []
        if self._hand is None:
            self._hand = self._merged()
        if self._hand is None:
            if self._merge.done and self._feed.is_whole(WAIT_S):
                self._ended = True
                self._report()
                raise StopIteration
            return []
        due = len(self._hand) if self._pace is None else self._due(self._pace, self._hand)
        return [self._hand_on(self._hand, due)] if due else []

    def _merged(self) -> Readings | None:
        """Take what can be handed on; read more when there is nothing."""
        taken = self._merge.take(self._batch_len)
        if taken is None and not self._merge.done:
            self._read()
            taken = self._merge.take(self._batch_len)
        if taken is None:
            return None
        merged = joined([block.take(rows) for _, block, rows in taken.parts]).take(taken.order)
        self._ahead_bytes -= _weight(merged)
        return merged

    def _read(self) -> None:
        """Take messages that have come, and keep their records until it is their turn."""
        self._throttle()
        messages, ended = self._feed.poll(WAIT_S, MESSAGES)
        if len(messages):
            self._keep(messages)
        for p in ended:
            self._strands[p].end()
        self._fresh_ends += ended
        self._pass_on({*messages.partitions, *ended})

    def _keep(self, messages: Messages) -> None:
        """Decode messages, and give each partition its records."""
        settings = self._source.settings
        rows = self._source.kind.decode(
            unpacked(messages), settings.frame.body_bytes_max,
            of_frames=settings.capture.format == "frame",
        )  # fmt: skip
        partitions = np.unique(rows.partition).tolist()
        for p in partitions:
            mine = rows
            if len(partitions) > 1:  # else those of one would keep the bytes of all
                mine = joined([rows.take(np.flatnonzero(rows.partition == p))])
            self._strands[p].add(mine)

    def _pass_on(self, partitions: set[int]) -> None:
        """Give the merge what partitions have in order."""
        for p in partitions:
            for block in self._strands[p].blocks():
                self._merge.add(p, block.clock_ns, block)
                self._ahead_bytes += _weight(block)
            if self._strands[p].is_spent:
                self._merge.exhaust(p)

    def _throttle(self) -> None:
        """Pause partitions that are far ahead; let go on those that are not, or not any more.

        Nothing can be handed on now, so that all rows there are wait for a partition without any.
        """
        is_full = self._ahead_bytes >= AHEAD_BYTES_MAX
        for p in range(len(self._strands)):
            rows = self._merge.rows(p)
            if p not in self._paused and rows and (rows >= AHEAD_ROWS_MAX or is_full):
                self._paused.add(p)
                self._feed.pause(p)
            elif p in self._paused and (not rows or (rows < AHEAD_ROWS_MAX // 2 and not is_full)):
                self._paused.discard(p)
                self._feed.resume(p)

    def _due(self, pace: Pace, rows: Readings) -> int:
        """Return how many rows of the batch in hand are due; wait a little when none is."""
        if self._due_ns is None:
            # Times of their partitions, which never fall in merged order.
            self._due_ns = pace.schedule(rows.clock_ns, 0)
        count, wait_ns = pace.due(self._due_ns[-len(rows) :], monotonic_ns())
        if count == 0:
            self._source.stopping.wait(min(WAIT_S, wait_ns * 1e-9))
        elif count == len(rows):
            self._due_ns = None
        return count

    def _hand_on(self, rows: Readings, count: int) -> Readings:
        """Take rows off the head of the batch in hand, and move the position behind them."""
        head = rows if count == len(rows) else rows.take(slice(0, count))
        self._hand = None if count == len(rows) else rows.take(slice(count, None))
        known = head.known
        for p, rows_of_it in zip(*np.unique(head.partition, return_counts=True), strict=True):
            self._strands[p].hand_on(int(rows_of_it))
        clock_ns, clock = keys(head.at_ns, known, self._at.clock)
        is_behind = known & (clock_ns - head.at_ns > STEP_NS_MAX)
        at_ns = head.at_ns
        if self._source.kind.is_told_late:
            at_ns = np.where(known & ~is_behind, np.maximum(at_ns, clock_ns), at_ns)
        head = replace(head, index=self._at.records, at_ns=at_ns, clock_ns=clock_ns)
        self._at = replace(
            self._at,
            clock=clock,
            records=self._at.records + count,
            wire_bytes=self._at.wire_bytes + int(head.wirelen.sum()),
            held_bytes=self._at.held_bytes + int(head.length.sum()),
            behind=self._at.behind + self._noted(
                int(np.count_nonzero(is_behind)), self._at.behind,
                "records stamped more than a day before earlier ones; they are limited at the "
                "latest time seen and not scored",
            ),
            undeliverable=self._at.undeliverable + self._noted(
                int(np.count_nonzero(head.reason == Reason.UNDELIVERABLE)),
                self._at.undeliverable,
                "records that the brokers had refused, which are no packets; "
                "penstock dlq replay puts them back",
            ),
        )  # fmt: skip
        self._report()
        return head

    def _noted(self, count: int, before: int, what: str) -> int:
        """Say it the first time there is such a record; return how many there are."""
        if count and not before:
            self._source.notify(f"{self._source.name}: holds {what}")
        return count

    def _report(self) -> None:
        if self._hand is None:
            for p in [p for p in self._fresh_ends if self._merge.ended(p)]:
                self._fresh_ends.remove(p)
                self._is_read[p] = True
        begins, ends = np.array(self._at.begins), np.array(self._at.ends)
        reached = np.array([strand.reached for strand in self._strands])
        is_begun = (reached > begins) | np.array([strand.place[1] > 0 for strand in self._strands])
        reached = np.where(self._is_read, ends, reached)
        self._source.ledger.write(
            PAGE,
            {
                "packets_in": self._at.records,
                "packets_resumed": self._resumed,
                "bytes_in": self._at.wire_bytes,
                "captured_bytes": self._at.held_bytes,
                "behind": self._at.behind,
                "ended": int(self._ended),
                "files_open": int(np.count_nonzero(~self._is_read & is_begun)),
                "files_read": int(np.count_nonzero(self._is_read)),
                "file_bytes": int((reached - begins).sum()),
                "file_bytes_all": int((ends - begins).sum()),
            },
        )

    def snapshot(self) -> TopicPosition:
        """Return the position after the last record handed on."""
        places, seen = zip(*(strand.place for strand in self._strands), strict=True)
        # What lies after the last record of a partition is nothing that is read again.
        places = tuple(
            Place(end) if is_read else place
            for place, end, is_read in zip(places, self._at.ends, self._is_read, strict=True)
        )
        return replace(self._at, places=places, seen=seen)

    def close(self) -> None:
        """Let go of the brokers."""
        self._feed.close()


def _weight(rows: Readings) -> int:
    """Return about how much memory rows take."""
    return int(rows.length.sum()) + ROW_BYTES * len(rows)
