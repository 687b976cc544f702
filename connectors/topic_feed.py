"""The messages of a topic, of all partitions, as they come.

Laws:

1. Every partition is read from the offset it is given up to the end it is given, whatever is
   written meanwhile. What lies between two records and is none (markers of transactions, records
   of transactions that were taken back) is no gap.
2. Nothing is skipped: a record that is gone before it was read ends the feed with an error that
   says how many are gone. librdkafka is never left to choose another offset.
3. Brokers that fall silent are waited for, `kafka.delivery_s` long; no call waits longer than it
   is told to.
4. Nothing is committed: reading leaves no trace with the brokers.
5. A value that is larger than any record of ours is not decoded: it comes as one without bytes.

Not here: which record comes when (`core.merge`), and positions that are kept
(`connectors.kafka_source`).

Source: librdkafka 2.16, CONFIGURATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.clock import monotonic_ns
from connectors.kafka_client import Trouble, built, consumer_properties
from connectors.topic_survey import GROUP, full, headers_of, unreadable
from core.errors import SourceError
from core.values import Messages, named_packet, place_source

if TYPE_CHECKING:
    from connectors.topic_survey import Survey
    from core.kafka_address import KafkaAddress
    from core.sections import KafkaSettings

QUANTUM_BYTES = 4 << 20
"""About as many bytes of messages are taken at a time."""
CHUNK = 256
"""Messages taken from the client at a time."""
VALUE_BYTES_MAX = 16 << 20
"""Of a value that has more, and more than `kafka.message_bytes_max`, nothing is kept: it may have
been a few kB on the way here, and is no record of ours."""

_FIRST_MESSAGES = 64
_SECOND_NS = 1_000_000_000
_DEFAULTS = {
    # So long librdkafka rests when its queue is full; its own second makes 125,000 records/s of it.
    "fetch.queue.backoff.ms": "5",
    # So long a fetch waits where partitions are read to their ends, and so do the others behind it.
    "fetch.wait.max.ms": "20",
}
"""Unless the user has set them under `kafka.options`."""
_IS_GONE = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


class Feed:
    """The messages of a topic, of all partitions as they come.

    Args:
        settings: Section `kafka` of the settings.
        survey: The topic.
        starts: Offset at which each partition begins.
        ends: Offset before which it ends.
        topic: Its name as `core.topics` has it, when one packet is one record of it and messages
            name that packet; else empty.

    Raises:
        SettingError: The settings allow no client.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        survey: Survey,
        starts: Sequence[int],
        ends: Sequence[int],
        topic: str,
    ) -> None:
        self._survey, self._address, self._wait_s = survey, survey.address, settings.connect_s
        self._patience_ns = settings.delivery_s * _SECOND_NS
        self._next, self._ends = list(starts), list(ends)
        self._topic = topic.encode()
        self._value_bytes_max = max(VALUE_BYTES_MAX, settings.message_bytes_max)
        name = survey.address.topic
        self._sources = [place_source(survey.cluster, name, p) for p in range(len(self._ends))]
        self._quantum, self._silent_ns = _FIRST_MESSAGES, 0
        config = consumer_properties(settings, survey.address.servers, GROUP)
        config = _DEFAULTS | config | {"auto.offset.reset": "error"}
        self._trouble: Trouble = config["error_cb"]
        self._is_deleted = False
        self._consumer = built(Consumer, config | {"error_cb": self._complaint})
        self._open = {p for p, end in enumerate(self._ends) if self._next[p] < end}
        self._consumer.assign([self._part(p, self._next[p]) for p in sorted(self._open)])

    def poll(self, wait_s: float, messages_max: int) -> tuple[Messages, list[int]]:
        """Return messages that have come, and partitions that have come to their end.

        Args:
            wait_s: Longest wait for the first message.
            messages_max: Most messages, about.

        Raises:
            SourceError: The brokers will not send what is to come.
        """
        messages = Messages()
        ended: list[int] = []
        begun_ns = monotonic_ns()
        found = self._consumer.consume(1, wait_s)
        left, taken = min(self._quantum, messages_max), 0
        while found:
            ended += self._sort_out(found, messages)
            taken += sum(map(len, found))
            left = 0 if taken > QUANTUM_BYTES else left - len(found)
            # So few at a time, because their many small objects then stay near, and are gone
            # before the collector of garbage looks at them: a third of the time of thousands.
            found = self._consumer.consume(min(left, CHUNK), 0) if left > 0 else []
        if messages.values:
            each = taken // len(messages) + 1
            self._quantum = max(1, QUANTUM_BYTES // each)
        if messages.values or ended:
            self._silent_ns = 0
        else:  # complaints are no news
            self._silent_ns += monotonic_ns() - begun_ns
            self._bear()
        return messages, ended

    def _sort_out(self, found: list[Message], messages: Messages) -> list[int]:
        """Tell records from what else the client hands out; return partitions that have ended."""
        ended, kept, following, ends = [], [], self._next, self._ends
        for message in found:
            p: int = message.partition()  # type: ignore[assignment]  # none only before it is sent
            offset: int = message.offset()  # type: ignore[assignment]  # none only before it is sent, too
            error = message.error()
            if error is not None:
                if self._is_end(error, p, offset):
                    ended.append(p)
                continue
            if offset < following[p] or p not in self._open:
                continue  # fetched twice, or written since
            following[p] = offset + 1
            if offset < ends[p]:
                kept.append(message)
            if offset + 1 >= ends[p]:
                ended.append(p)
                self._close(p)
        self._append(kept, messages)
        return ended

    def _append(self, kept: list[Any], messages: Messages) -> None:
        """Add what messages hold, of which none lacks what an outgoing one may."""
        partitions = [each.partition() for each in kept]
        offsets = [each.offset() for each in kept]
        sources, ordinals = [self._sources[p] for p in partitions], offsets
        if self._topic:
            named = [named_packet(headers_of(each), self._topic) for each in kept]
            places = zip(named, sources, offsets, strict=True)
            packets = [packet or (source, offset) for packet, source, offset in places]
            sources, ordinals = [each[0] for each in packets], [each[1] for each in packets]
        values = [each.value() or b"" for each in kept]
        messages.values += [each if len(each) <= self._value_bytes_max else b"" for each in values]
        messages.partitions += partitions
        messages.offsets += offsets
        messages.timestamps_ms += [each.timestamp()[1] for each in kept]
        messages.sources += sources
        messages.ordinals += ordinals

    def _is_end(self, error: KafkaError, p: int, offset: int) -> bool:
        """Tell whether what is said of a partition is its end; raise what cannot get better."""
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            # A replica that is behind may come to its end before ours.
            if p not in self._open or offset < self._ends[p]:
                return False
            self._close(p)
            return True
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION):
            raise self._gone(p)
        if code in _IS_GONE:
            raise deleted(self._address)
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise unreadable(self._address, self._trouble.text(error))
        if code == KafkaError._BAD_COMPRESSION:
            raise SourceError(
                f"{full(self._address)}: partition {p} cannot be unpacked at offset {offset} "
                f"({self._trouble.text(error)}); delete its records up to there, or raise "
                "receive.message.max.bytes under kafka.options if they are larger than that"
            )
        self._trouble(error)
        return False

    def _close(self, p: int) -> None:
        self._open.discard(p)
        self._consumer.incremental_unassign([self._part(p)])

    def is_whole(self, wait_s: float) -> bool:
        """Tell, at the end, whether all was of one topic; to be asked again while that is unknown.

        Args:
            wait_s: Longest wait.

        Raises:
            SourceError: The topic was deleted, and perhaps made anew, while it was read.
        """
        is_same = self._survey.is_same(wait_s)
        if is_same is False:
            raise deleted(self._address)
        return bool(is_same)

    def pause(self, p: int) -> None:
        """Fetch no more of a partition for now."""
        if p in self._open:
            self._consumer.pause([self._part(p)])

    def resume(self, p: int) -> None:
        """Go on with a partition."""
        if p in self._open:
            self._consumer.resume([self._part(p)])

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close()

    def _part(self, p: int, offset: int | None = None) -> TopicPartition:
        name = self._address.topic
        return TopicPartition(name, p) if offset is None else TopicPartition(name, p, offset)

    def _gone(self, p: int) -> SourceError:
        """Say how many records of a partition cannot be had any more."""
        try:
            low, high = self._consumer.get_watermark_offsets(self._part(p), timeout=self._wait_s)
        except KafkaException:
            low, high = -1, -1
        return gone(self._address, {p: low - self._next[p]} if low > self._next[p] else {}, high)

    def _complaint(self, error: KafkaError) -> None:
        """Hear what the client complains of while it is polled."""
        self._trouble(error)
        self._is_deleted |= error.code() in _IS_GONE

    def _bear(self) -> None:
        """Go on waiting, unless there is nothing to wait for or it has been too long."""
        if self._is_deleted:
            raise deleted(self._address)
        if self._silent_ns > self._patience_ns:
            why, cure = self._trouble.cause("no answer"), self._trouble.cure("see to the brokers")
            raise SourceError(
                f"{full(self._address)}: nothing came for {self._patience_ns // _SECOND_NS} s "
                f"({why}); {cure}; with --recovery the same command goes on there"
            )


def deleted(address: KafkaAddress) -> SourceError:
    """Return the error of a topic that was there when reading began, and is not any more."""
    return SourceError(
        f"{full(address)}: was deleted, or made anew, while it was read; "
        "see to it that nobody does, and start over"
    )


def gone(address: KafkaAddress, missing: dict[int, int], high: int = -1) -> SourceError:
    """Return the error of records that are gone before they were read.

    Args:
        address: Their topic.
        missing: How many, by partition; empty when that is not known.
        high: End of the partition concerned, when it is known to lie before what was to be read.
    """
    cure = "start over, with another --recovery folder if there is one, and keep records longer"
    if missing:
        where = ", ".join(f"{count:,} of partition {p}" for p, count in sorted(missing.items()))
        return SourceError(
            f"{full(address)}: records were deleted before they were read: {where}; {cure}"
        )
    end = f", now ends at {high}" if high >= 0 else ""
    return SourceError(
        f"{full(address)}: does not hold any more what was to be read{end}, as if made anew; {cure}"
    )
