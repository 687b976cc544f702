"""One topic read once: everything up to the ends its partitions had when reading began.

Laws:

1. What is written meanwhile is not read, so that reading ends.
2. Each wait is bounded by `kafka.connect_s`; brokers that fall silent are an error, never a short
   answer.
3. Nothing is committed: reading leaves no trace with the brokers.

Not here: sources of a run, which resume (`connectors.kafka_source`).
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.clock import monotonic_ns
from connectors.kafka_client import CURE, Trouble, built, connect, consumer_properties, settled
from core.errors import SourceError, UsageError
from core.plain import plain

if TYPE_CHECKING:
    from core.sections import KafkaSettings

_MESSAGES = 100
"""Most messages taken at a time; each may have `kafka.message_bytes_max` and more."""
_SLICE_S = 0.1
"""Longest wait inside librdkafka, where signals are not heard."""


class TopicReader:
    """A topic of some brokers, to be read once.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        name: The topic, as the brokers call it.

    Raises:
        SettingError: The settings allow no client.
        SourceError: No broker answers.
        UsageError: There is no such topic.
    """

    def __init__(self, settings: KafkaSettings, servers: str, name: str) -> None:
        self._settings, self._servers, self._name = settings, servers, name
        config = consumer_properties(settings, servers, "penstock")
        self._trouble: Trouble = config["error_cb"]
        self._consumer = built(Consumer, config)
        try:
            answer = connect(
                self._consumer, config, settings.connect_s, failure=SourceError, cure=CURE
            )
        except SourceError:
            self._consumer.close()
            raise
        found = answer.topics.get(name)
        if found is None or not found.partitions:
            self._consumer.close()
            raise UsageError(
                f"kafka://{servers}: no such topic: {plain(name)}; "
                f"penstock topics describe kafka://{servers} lists Penstock's"
            )
        self._partitions = sorted(found.partitions)

    def read(self, last: int | None = None) -> Generator[Message, None, None]:
        """Yield every record, partition by partition in the order they come, then close.

        Args:
            last: Yield only so many records of each partition, its last; `None` for all.

        Raises:
            SourceError: The brokers do not give them.
        """
        try:
            left = self._ends(last)
            heard_ns = monotonic_ns()
            while left:
                messages = self._consumer.consume(_MESSAGES, _SLICE_S)
                if messages:
                    heard_ns = monotonic_ns()
                elif monotonic_ns() - heard_ns > self._settings.connect_s * 1_000_000_000:
                    raise self._failed(self._trouble.cause("no answer"), self._trouble.cure(CURE))
                for message in messages:
                    if self._is_record(message, left):
                        yield message
        finally:
            self._consumer.close()

    def _ends(self, last: int | None) -> dict[int, int]:
        """Begin reading; return the offset at which each partition that holds anything ends."""
        ends, starts, wait_s = {}, [], self._settings.connect_s
        marks = self._consumer.get_watermark_offsets
        for number in self._partitions:
            part = TopicPartition(self._name, number)
            try:
                low, high = settled(self._consumer, wait_s, partial(marks, part, wait_s))
            except KafkaException as error:
                self._consumer.poll(0)  # which calls `_trouble`
                why = self._trouble.cause(error.args[0])
                raise self._failed(why, self._trouble.cure(CURE)) from None
            if high > low:
                ends[number] = high
                start = low if last is None else max(low, high - last)
                starts.append(TopicPartition(self._name, number, start))
        self._consumer.assign(starts)
        return ends

    def _is_record(self, message: Message, left: dict[int, int]) -> bool:
        """Tell whether a message is a record to be yielded; note what has been read to its end."""
        error, number, offset = message.error(), message.partition(), message.offset()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise self._failed(self._trouble.text(error), "look after it, or try again")
            left.pop(-1 if number is None else number, None)
            return False
        if number is None or offset is None or number not in left:
            return False  # it was written since
        end = left[number]
        if offset >= end - 1:
            del left[number]
            self._consumer.incremental_unassign([TopicPartition(self._name, number)])
        return offset < end

    def _failed(self, why: str, cure: str) -> SourceError:
        topic = f"topic {plain(self._name)}"
        return SourceError(f"kafka://{self._servers}: {topic} cannot be read ({why}); {cure}")
