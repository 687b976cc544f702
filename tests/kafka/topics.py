"""Topics as tests see them: made, written and read back whole.

Law: what is read is everything up to the end offsets seen when reading began, in the order of each
partition; a broker that stops answering, or has deleted records, is an error, never a short list.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import cast

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as Received
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though its stubs hide it
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

PATIENCE_S = 30.0
GLANCE_S = 0.1
"""Time between two looks at what is not there yet."""
Options = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a broker has it.

    Attributes:
        partition: Where it is.
        offset: Its place there.
        key: Its key, if it has one.
        value: Its bytes.
        timestamp_ms: Its time.
        has_brokers_time: Whether that is when the brokers took it, and not what it was sent with.
        headers: Its headers in order.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    timestamp_ms: int
    has_brokers_time: bool
    headers: tuple[tuple[str, bytes], ...]


def options(servers: str, more: dict[str, str] | None = None) -> Options:
    """Return what every client is told: where the brokers are, and to keep quiet."""
    return {"bootstrap.servers": servers, "log_level": 0, **(more or {})}


def create(servers: str, *names: str, partitions: int = 1, **settings: str) -> None:
    """Make topics; underscores of a setting stand for its dots."""
    config = {name.replace("_", "."): value for name, value in settings.items()}
    wanted = [NewTopic(name, partitions, 1, config=config) for name in names]
    admin = AdminClient(options(servers))  # which has to outlive what it was asked
    for future in admin.create_topics(wanted).values():
        future.result(timeout=PATIENCE_S)


def delete(servers: str, *names: str) -> None:
    """Delete topics."""
    admin = AdminClient(options(servers))
    for future in admin.delete_topics(list(names)).values():
        future.result(timeout=PATIENCE_S)


def setting(servers: str, name: str, what: str) -> str:
    """Return a setting of a topic, as the broker has it."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    admin = AdminClient(options(servers))
    (future,) = admin.describe_configs([resource]).values()
    return str(future.result(timeout=PATIENCE_S)[what].value)


def partitions(servers: str, *, more: dict[str, str] | None = None) -> dict[str, int]:
    """Return the partitions of every topic there is, but those of the brokers themselves."""
    listing = AdminClient(options(servers, more)).list_topics(timeout=PATIENCE_S)
    return {n: len(t.partitions) for n, t in listing.topics.items() if not n.startswith("__")}


def put(servers: str, topic: str, *values: bytes, more: dict[str, str] | None = None) -> None:
    """Write records without keys."""
    producer = Producer(options(servers, more))
    for value in values:
        producer.produce(topic, value)
    if left := producer.flush(PATIENCE_S):
        raise AssertionError(f"{topic}: {left} records were not taken")


def ends(servers: str, topic: str) -> dict[int, int]:
    """Return the end offset of each partition."""
    with closing(Consumer(options(servers) | {"group.id": "test"})) as consumer:
        return _ends(consumer, topic)


def await_offsets(servers: str, topic: str, total: int) -> None:
    """Wait until the end offsets of a topic add up to so many, markers of transactions included.

    A coordinator answers before the partitions have its markers.
    """
    found: dict[int, int] = {}
    with closing(Consumer(options(servers) | {"group.id": "test"})) as consumer:
        for _ in range(int(PATIENCE_S / GLANCE_S)):
            found = _ends(consumer, topic)
            if sum(found.values()) == total:
                return
            consumer.poll(GLANCE_S)
    raise AssertionError(f"{topic}: ends at {found}, not {total} in all")


def await_deletion(servers: str, topic: str) -> None:
    """Wait until the brokers have deleted all that a topic held."""
    marks: list[tuple[int, int]] = []
    with closing(Consumer(options(servers) | {"group.id": "test"})) as consumer:
        parts = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
        for _ in range(int(PATIENCE_S / GLANCE_S)):
            marks = [_marks(consumer, TopicPartition(topic, number)) for number in parts]
            if all(begin == end for begin, end in marks) and any(end for _, end in marks):
                return
            consumer.poll(GLANCE_S)
    raise AssertionError(f"{topic}: still from {marks}")


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    found = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    ends = {}
    for number in sorted(found.partitions):
        begin, ends[number] = _marks(consumer, TopicPartition(topic, number))
        # Brokers delete what is older than a topic retains, and captures are old.
        assert begin == 0, f"{topic}: the broker has deleted {begin} records"
    return ends


_TOO_EARLY = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
              KafkaError.UNKNOWN_TOPIC_OR_PART)  # fmt: skip
"""What is said of a partition while its leader is being chosen."""


def _marks(consumer: Consumer, part: TopicPartition) -> tuple[int, int]:
    """Return the first and the end offset of a partition, once it has a leader."""
    for _ in range(int(PATIENCE_S / GLANCE_S)):
        try:
            return consumer.get_watermark_offsets(part, PATIENCE_S)
        except KafkaException as error:
            if error.args[0].code() not in _TOO_EARLY:
                raise
        consumer.poll(GLANCE_S)
    raise AssertionError(f"{part.topic}: partition {part.partition} has no leader")


def read(servers: str, topic: str, *, more: dict[str, str] | None = None) -> list[Message]:
    """Return every message of a topic, partition by partition."""
    consumer = Consumer(
        options(servers, more)
        | {"group.id": "test", "enable.partition.eof": True, "enable.auto.commit": False,
           "fetch.message.max.bytes": 64 << 20, "fetch.max.bytes": 64 << 20,
           "receive.message.max.bytes": 128 << 20}
    )  # fmt: skip
    try:
        left = {number for number, end in _ends(consumer, topic).items() if end}
        consumer.assign([TopicPartition(topic, number, 0) for number in sorted(left)])
        found: list[Message] = []
        while left:
            message = consumer.poll(PATIENCE_S)
            if message is None:
                raise AssertionError(f"{topic}: the broker has stopped answering")
            error = message.error()
            if error is None:
                found.append(_message(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(cast("int", message.partition()))
            else:
                raise KafkaException(error)
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.partition, message.offset))


def _message(message: Received) -> Message:
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    kind, timestamp_ms = message.timestamp()
    return Message(
        partition=cast("int", message.partition()),
        offset=cast("int", message.offset()),
        key=message.key(),
        value=message.value() or b"",
        timestamp_ms=timestamp_ms,
        has_brokers_time=kind == TIMESTAMP_LOG_APPEND_TIME,
        headers=tuple(headers),
    )


class Meter:
    """Counts what topics hold, again and again, over one connection.

    Args:
        servers: Where the brokers are.
        names: Topics to count in; one that does not exist yet counts nothing.
    """

    def __init__(self, servers: str, *names: str) -> None:
        self._consumer = Consumer(options(servers) | {"group.id": "meter"})
        self._names = names
        self._parts: list[TopicPartition] = []

    def total(self) -> int:
        """Return the messages in all of the topics."""
        if not self._parts:
            listing = self._consumer.list_topics(timeout=PATIENCE_S).topics
            if not set(self._names) <= set(listing):
                return 0
            self._parts = [TopicPartition(name, number) for name in self._names
                           for number in listing[name].partitions]  # fmt: skip
        return sum(_marks(self._consumer, part)[1] for part in self._parts)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
