"""Reading back: everything is read once, in order, and what is missing is said."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from connectors.embedded import Broker
from connectors.read_back import Message, ReadBack
from core.errors import SinkError
from core.outgoing import ARROW
from core.sections import KafkaSettings
from core.topics import FINDINGS, TELEMETRY

SETTINGS = KafkaSettings(topics={FINDINGS: "alarms"})


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Start a broker with two topics, one of them under another name."""
    started = Broker([TELEMETRY, "alarms"])
    yield started
    started.close()


@pytest.fixture
def producer(broker: Broker) -> Iterator[Producer]:
    """Return an ordinary producer to it."""
    config = {"bootstrap.servers": broker.servers, "log_level": 0, "compression.type": "none"}
    client = Producer(config)
    yield client
    client.close()


def test_what_was_written_meanwhile_is_read(broker: Broker, producer: Producer) -> None:
    """Each call reads what came since the one before, every message of it once and in order."""
    seen: list[Message] = []
    reader = ReadBack(SETTINGS, broker.servers, broker.partitions, seen.append)
    for written in (0, 1, 2_500, 0, 3):
        for number in range(written):
            producer.produce(TELEMETRY, b"%d" % number, b"k%d" % (number % 7), timestamp=5)
        producer.flush()
        before = len(seen)
        reader.read()
        fresh = seen[before:]
        assert sorted(int(m.value) for m in fresh) == list(range(written))
        for key in {m.key for m in fresh}:
            of_key = [m for m in fresh if m.key == key]
            assert [m.value for m in of_key] == sorted((m.value for m in of_key), key=int)
    assert reader.records == {TELEMETRY: 2_504}
    reader.close()


def test_a_message_is_shown_as_it_was_sent(broker: Broker, producer: Producer) -> None:
    """Name of the topic here, partition, offset, time, key, headers and value are all there."""
    seen: list[Message] = []
    reader = ReadBack(SETTINGS, broker.servers, broker.partitions, seen.append)
    for value in (b"{}", b""):
        producer.produce("alarms", value, None, 2, timestamp=1_700, headers={"a": b"\0", "b": b""})
    producer.flush()
    reader.read()
    headers = {"a": b"\0", "b": b""}
    assert seen == [
        Message(FINDINGS, 2, 0, 1_700, None, headers, b"{}"),
        Message(FINDINGS, 2, 1, 1_700, None, headers, b""),
    ]
    reader.close()


def test_records_within_arrow_messages_are_counted(broker: Broker, producer: Producer) -> None:
    """An Arrow stream counts as the records in it, whatever a header claims."""
    reader = ReadBack(KafkaSettings(format="arrow"), broker.servers, broker.partitions)
    table = pa.table({"n": range(70)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=30)
    value = sink.getvalue().to_pybytes()
    producer.produce(TELEMETRY, value, headers={"content-type": ARROW, "rows": b"71"})
    producer.produce(TELEMETRY, b"{}", headers={"content-type": b"application/json"})
    producer.flush()
    reader.read()
    assert reader.records == {TELEMETRY: 71}
    reader.close()


def test_what_the_broker_dropped_is_said(broker: Broker, producer: Producer) -> None:
    """A mock cluster keeps 5 MiB of a partition: what it dropped is an error, not a small count."""
    reader = ReadBack(SETTINGS, broker.servers, broker.partitions)
    for _ in range(8):
        producer.produce(TELEMETRY, bytes(900_000), partition=1)
        producer.flush()
    with pytest.raises(SinkError, match=r"telemetry.readings.v1 \[1\] .*3 messages were dropped"):
        reader.read()
    reader.close()


def test_a_broker_that_is_gone_is_said(broker: Broker) -> None:
    """When the broker does not answer, that is an error within bounds, and says what to do."""
    reader = ReadBack(SETTINGS, broker.servers, broker.partitions, patience_s=0.1)
    broker.close()
    with pytest.raises(SinkError, match=r"cannot be read back .*use kafka://"):
        reader.read()
    reader.close()
