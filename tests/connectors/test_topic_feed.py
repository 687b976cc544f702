"""The messages of a topic as they come: what is too large, cannot be unpacked, or is none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from confluent_kafka import KafkaError, Producer

from connectors import topic_feed
from core import records
from core.errors import SourceError
from core.readings import Readings, joined
from core.reasons import Reason
from tests.conftest import Kafka
from tests.kafka.topics import PATIENCE_S, options
from tests.topic_replays import Replay, frames, refused


def test_a_value_larger_than_any_record_is_not_decoded(
    kafka: Kafka, topics: Callable[..., str]
) -> None:
    """A few kB that unpack to many MB are a rejection without bytes, unless we may write such."""
    topic = topics()
    value, *_ = records.telemetry(frames(1)).value_list()
    producer = Producer({**options(kafka.servers), "compression.type": "gzip",
                         "message.max.bytes": 64 << 20})  # fmt: skip
    for size in (topic_feed.VALUE_BYTES_MAX, topic_feed.VALUE_BYTES_MAX + 1, 0):
        producer.produce(topic, value.ljust(size))
        assert producer.flush(PATIENCE_S) == 0
    for allowed, lengths in ((1_000_000, [1 << 24, 0, len(value)]),
                             (20_000_000, [1 << 24, (1 << 24) + 1, len(value)])):  # fmt: skip
        replay = Replay(kafka.servers, topic, kafka={"message_bytes_max": allowed})
        batches: list[Readings] = []
        while (some := replay.batches()) is not None:
            batches += some
        batch = joined(batches)
        assert batch.wirelen.tolist() == lengths
        assert batch.reason.tolist() == [0 if size else Reason.RECORD for size in lengths]


def test_what_cannot_be_unpacked_is_an_error(kafka: Kafka, topics: Callable[..., str]) -> None:
    """A batch that unpacks to more than a client takes ends the replay, which would never end."""
    topic = topics()
    producer = Producer({**options(kafka.servers), "compression.type": "zstd",
                         "message.max.bytes": 64 << 20})  # fmt: skip
    producer.produce(topic, bytes(8 << 20))
    assert producer.flush(PATIENCE_S) == 0
    small = {"options": {"receive.message.max.bytes": 1_100_000}}
    replay = Replay(kafka.servers, topic, kafka=small)
    line = refused(SourceError, replay.rest)
    replay.part.close()
    assert "partition 0 cannot be unpacked at offset 0 (" in line
    assert line.endswith("or raise receive.message.max.bytes under kafka.options if they are "
                         "larger than that")  # fmt: skip


def test_complaints_are_no_news(kafka: Kafka, topics: Callable[..., str]) -> None:
    """Whoever only ever complains is given up like one who is silent."""

    class Complaint:
        def partition(self) -> int:
            return 0

        def offset(self) -> int:
            return -1

        def error(self) -> KafkaError:
            return KafkaError(KafkaError._TRANSPORT, "they say no")

        def __len__(self) -> int:
            return 0

    feed = Replay(kafka.servers, topics()).part._feed
    feed.close()
    feed._consumer = SimpleNamespace(consume=lambda count, wait_s: [Complaint()] * (wait_s > 0))  # type: ignore[assignment]  # a client that does nothing else
    feed._patience_ns = 10**6
    line = refused(SourceError, lambda: [feed.poll(1, 1) for _ in range(100_000)])
    assert "nothing came for 0 s (they say no)" in line
