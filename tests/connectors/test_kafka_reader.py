"""One topic read once, on a real broker: all of it, no more, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka import Producer

from connectors.kafka_reader import TopicReader
from core.errors import SourceError, UsageError
from core.sections import KafkaSettings
from core.topics import TELEMETRY
from tests.conftest import Kafka
from tests.kafka.renamed import renamed
from tests.kafka.topics import await_offsets, create, options, put

if TYPE_CHECKING:
    from tests.kafka.broker import Broker

SMALL_FETCHES = {
    "fetch.message.max.bytes": 1_000,
    "queued.min.messages": 1,
    "queued.max.messages.kbytes": 1,
}


@pytest.fixture
def topic(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[str]:
    """A topic of three partitions."""
    with renamed(kafka.servers, request.node.nodeid) as settings:
        create(kafka.servers, settings.topics[TELEMETRY], partitions=3)
        yield settings.topics[TELEMETRY]


def read(kafka: Kafka, topic: str, last: int | None = None) -> list[bytes]:
    reader = TopicReader(KafkaSettings(), kafka.servers, topic)
    return [message.value() or b"" for message in reader.read(last)]


def write(servers: str, topic: str, partition: int, count: int) -> None:
    producer = Producer(options(servers))
    for number in range(count):
        producer.produce(topic, b"%d-%03d" % (partition, number), partition=partition)
    assert producer.flush(10) == 0


def test_all_of_a_topic_is_read(kafka: Kafka, topic: str) -> None:
    """Every record of every partition comes once, in the order of its partition."""
    assert read(kafka, topic) == []
    write(kafka.servers, topic, 0, 250)
    write(kafka.servers, topic, 2, 5)
    found = read(kafka, topic)
    assert len(found) == 255
    for partition, count in ((0, 250), (2, 5)):
        mark = b"%d-" % partition
        assert [v for v in found if v.startswith(mark)] == [
            mark + b"%03d" % n for n in range(count)
        ]


def test_the_last_records_of_each_partition(kafka: Kafka, topic: str) -> None:
    """Only so many are read as asked for, of each partition."""
    write(kafka.servers, topic, 0, 50)
    write(kafka.servers, topic, 1, 2)
    assert sorted(read(kafka, topic, last=3)) == [b"0-047", b"0-048", b"0-049", b"1-000", b"1-001"]


def test_what_is_written_meanwhile_is_not_read(kafka: Kafka, topic: str) -> None:
    """Reading ends where the topic ended when it began."""
    write(kafka.servers, topic, 0, 150)
    messages = TopicReader(KafkaSettings(), kafka.servers, topic).read()
    next(messages)
    write(kafka.servers, topic, 0, 150)
    write(kafka.servers, topic, 1, 150)
    assert len(list(messages)) == 149


def test_what_was_not_committed_is_not_read(kafka: Kafka, topic: str) -> None:
    """Records of a transaction that was given up are left out, and reading ends where they were."""
    producer = Producer(options(kafka.servers) | {"transactional.id": topic})
    producer.init_transactions(10)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for number in range(3):
            producer.produce(topic, b"%d" % number, partition=0)
        producer.flush(10)  # an abortion takes along what was not sent
        end(10)
    await_offsets(kafka.servers, topic, 8)
    assert read(kafka, topic) == [b"0", b"1", b"2"]
    messages = TopicReader(KafkaSettings(), kafka.servers, topic).read()
    next(messages)
    write(kafka.servers, topic, 0, 3)
    assert [message.value() for message in messages] == [b"1", b"2"]


def test_a_topic_that_is_missing(kafka: Kafka) -> None:
    """The line says which, and what lists the topics there are."""
    with pytest.raises(UsageError) as caught:
        TopicReader(KafkaSettings(), kafka.servers, "missing-\x1b")
    line = str(caught.value)
    assert line.startswith(f"kafka://{kafka.servers}: no such topic: missing-\\U0000001b; penstock")
    assert line.isprintable()


def test_nobody_to_read_from() -> None:
    """Without a broker the line names the cause."""
    with pytest.raises(SourceError, match=r"\(Connection refused\); start one, or name another$"):
        TopicReader(KafkaSettings(connect_s=1), "127.0.0.1:1", "x")


@pytest.mark.slow
def test_brokers_that_fall_silent(own_broker: Callable[..., Broker]) -> None:
    """A broker that dies before or while it is read makes an error, never a short answer."""
    broker = own_broker()
    create(broker.servers, "x")
    put(broker.servers, "x", *[b"x" * 1000] * 2000)
    settings = msgspec.convert({"connect_s": 2, "options": SMALL_FETCHES}, KafkaSettings)
    messages = TopicReader(settings, broker.servers, "x").read()
    late = TopicReader(settings, broker.servers, "x").read()
    next(messages)
    broker.kill()
    for each in (messages, late):
        with pytest.raises(SourceError, match=r"topic x cannot be read \(.*\); .*") as caught:
            list(each)
        assert broker.servers in str(caught.value)
