"""Reading back: an ordinary consumer takes what was delivered, and counts it.

Laws:

1. Whatever lies in the topics is read: up to the end the broker names, not up to a count hoped for.
2. Nothing is kept: a message is counted, shown to whoever asked for it, and forgotten.
3. Each wait is bounded; a broker that gives nothing meanwhile is an error.

Not here: where the messages come from, and what their number should be (`connectors.embedded`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from connectors.clock import monotonic_ns
from connectors.kafka_client import built, canonical_name, consumer_properties
from core.errors import SinkError
from core.outgoing import ARROW

if TYPE_CHECKING:
    from confluent_kafka import Message as Consumed

    from core.sections import KafkaSettings

PATIENCE_S = 10
"""Longest wait unless told otherwise."""

_SLICE_S = 0.1
"""Longest wait inside librdkafka, where signals are not heard."""
_MESSAGES = 1_000
"""Most messages taken at a time."""
_SWIFT = {
    # Reading alternates with writing: a fetch must neither wait for what is not written yet, nor
    # pause because what was read before has not been taken.
    "fetch.wait.max.ms": 10,
    "fetch.error.backoff.ms": 0,
    "fetch.queue.backoff.ms": 0,
    # There are no transactions, and librdkafka's mock cluster does not tell where one would end.
    "isolation.level": "read_uncommitted",
    "enable.partition.eof": "false",
    "auto.offset.reset": "error",
}


class Message(NamedTuple):
    """A message as a consumer sees it.

    Attributes:
        topic: Name of its topic here, whatever the brokers call it.
        partition: Number of the partition.
        offset: Its place in the partition, from 0.
        at_ms: Its timestamp, ms since the epoch.
        key: Its key; `None` when it has none.
        headers: Its headers, by name.
        value: Its value.
    """

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    headers: dict[str, bytes]
    value: bytes


OnRecord = Callable[[Message], None]


class ReadBack:
    """A consumer of whole topics from their beginning.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        partitions: Partitions of each topic, by the name the brokers have for it.
        on_record: Called with each message, in the order of its partition.
        patience_s: Longest wait for the next message, or for any other answer, s.

    Attributes:
        records: Records read so far, by the name their topic has here.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        servers: str,
        partitions: Mapping[str, int],
        on_record: OnRecord | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._on_record, self._patience_s = on_record, patience_s
        self._is_json = settings.format == "json"
        self._topics = {name: canonical_name(settings, name) for name in partitions}
        self.records: Counter[str] = Counter()
        config = consumer_properties(settings, servers, "penstock-embedded")
        self._consumer = built(Consumer, config | _SWIFT)
        self._next = {(name, n): 0 for name, count in partitions.items() for n in range(count)}

    def read(self) -> None:
        """Read all that is there and was not read before.

        Raises:
            SinkError: The broker does not give it.
        """
        unread = self._unread()
        left = sum(end - start for start, end in unread.values())
        # A partition is assigned only while it holds something unread: a paused one takes a second
        # to go on, and one that is read to its end keeps the connection waiting.
        self._consumer.assign([TopicPartition(*part, unread[part][0]) for part in unread])
        patience_ns = int(self._patience_s * 1e9)
        give_up_ns = monotonic_ns() + patience_ns
        while left > 0:
            messages = self._consumer.consume(min(left, _MESSAGES), _SLICE_S)
            for message in messages:
                self._take(message)
            left -= len(messages)
            if messages:
                give_up_ns = monotonic_ns() + patience_ns
            elif monotonic_ns() > give_up_ns:
                raise _unreadable(f"{left:,} messages", f"none came for {self._patience_s} s")
        self._consumer.unassign()

    def close(self) -> None:
        """End the consumer; may be called again."""
        self._consumer.close()

    def _unread(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the offsets from which and to which each partition holds something unread."""
        unread = {}
        for part, start in self._next.items():
            name = f"{part[0]} [{part[1]}]"
            try:
                first, end = self._consumer.get_watermark_offsets(
                    TopicPartition(*part), timeout=self._patience_s
                )
            except KafkaException as error:
                raise _unreadable(name, error.args[0].str()) from None
            if first > start:
                raise _unreadable(name, f"{first - start:,} messages were dropped by the broker")
            if end > start:
                unread[part] = (start, end)
        return unread

    def _take(self, message: Consumed) -> None:
        """Count a message and show it."""
        error, name, number = message.error(), message.topic(), message.partition()
        offset, value = message.offset(), message.value()
        if error is not None or name is None or number is None or offset is None:
            raise _unreadable(name or "a topic", error.str() if error else "no offset")
        if offset != self._next[name, number]:
            why = f"offset {offset} came after {self._next[name, number] - 1}"
            raise _unreadable(f"{name} [{number}]", why)
        self._next[name, number] = offset + 1
        topic, value = self._topics[name], value or b""
        if self._is_json and self._on_record is None:
            self.records[topic] += 1  # to read headers takes longer than all the rest
            return
        pairs: Any = message.headers() or ()  # its stubs allow more than it returns
        headers: dict[str, bytes] = dict(pairs)
        self.records[topic] += _rows(value) if headers.get("content-type") == ARROW else 1
        if self._on_record is not None:
            at_ms = message.timestamp()[1]
            self._on_record(Message(topic, number, offset, at_ms, message.key(), headers, value))


def _rows(value: bytes) -> int:
    """Count the records of an Arrow stream."""
    import pyarrow as pa

    with pa.ipc.open_stream(value) as stream:
        return sum(batch.num_rows for batch in stream)


def _unreadable(what: str, why: str) -> SinkError:
    return SinkError(
        f"embedded: {what} cannot be read back ({why}); please report this, or use "
        "kafka://HOST:PORT or files:DIR"
    )
