"""Records put back on a real broker: the same again, or counted with the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError

from connectors import kafka_topics
from connectors.kafka_brokers import Layout
from connectors.kafka_topics import ensure
from connectors.put_back import Replayed, _Back, replay
from core.dead_letter import letter
from core.errors import SinkError, UsageError
from core.sections import KafkaSettings
from core.topics import FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from core.undeliverable import Undeliverable
from tests.conftest import Kafka
from tests.kafka.letters import MIXED, READING, packet, record, write
from tests.kafka.mock import INIT_PRODUCER_ID, mock_broker
from tests.kafka.renamed import renamed
from tests.kafka.topics import create, partitions, read

if TYPE_CHECKING:
    from tests.kafka.broker import Broker


@pytest.fixture
def settings(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[KafkaSettings]:
    """Settings under which the topics are this test's own; that of telemetry's letters exists."""
    with renamed(kafka.servers, request.node.nodeid) as found:
        ensure(found, kafka.servers, [TELEMETRY_DLQ], lambda _: None)
        yield found


def is_whole(done: Replayed) -> bool:
    """Whether every record read is counted once."""
    named = [done.replayed, done.failed, done.kept]
    rest = done.packets + done.skipped + done.unreadable
    return done.read == rest + sum(sum(counts.values()) for counts in named)


def test_records_are_put_back_as_they_were(kafka: Kafka, settings: KafkaSettings) -> None:
    """What is whole is delivered with its key, value, time and id; the rest is counted."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    said: list[str] = []
    done = replay(settings, kafka.servers, TELEMETRY_DLQ, notify=said.append)
    assert done == Replayed(
        topic=TELEMETRY_DLQ, dry_run=False, read=7, replayed={TELEMETRY: 2}, failed={},
        kept={"value_cut": 1, "other_topic": 1}, packets=1, skipped=0, unreadable=2,
    )  # fmt: skip
    assert is_whole(done)
    assert said == [f"created topic {settings.topics[TELEMETRY]}: 8 partitions"]
    found = read(kafka.servers, settings.topics[TELEMETRY])
    assert [(m.key, m.value) for m in found] == [(b"dev-1", READING)] * 2
    assert {dict(m.headers)["ce_time"] for m in found} == {b"2026-01-01T00:00:00.005937259Z"}
    assert sorted(dict(m.headers)["ce_id"] for m in found) == [
        b"telemetry.readings.v1:1", b"telemetry.readings.v1:2",
    ]  # fmt: skip
    assert {dict(m.headers)["seq"] for m in found} == {b"\0\0\0\7"}
    assert len(read(kafka.servers, settings.topics[TELEMETRY_DLQ])) == 7


def test_a_trial_writes_nothing(kafka: Kafka, settings: KafkaSettings) -> None:
    """A dry run counts the same and neither writes nor makes a topic."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    done = replay(settings, kafka.servers, TELEMETRY_DLQ, dry_run=True, to="127.0.0.1:1")
    assert (done.replayed, done.dry_run) == ({TELEMETRY: 2}, True)
    assert is_whole(done)
    assert settings.topics[TELEMETRY] not in partitions(kafka.servers)


def test_one_reason_is_put_back(kafka: Kafka, settings: KafkaSettings) -> None:
    """Asked for a reason, others are skipped, and counted."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    done = replay(settings, kafka.servers, TELEMETRY_DLQ, reason="record_invalid")
    assert (done.replayed, done.skipped, done.packets) == ({TELEMETRY: 1}, 4, 0)
    assert is_whole(done)


def test_many_are_put_back(kafka: Kafka, settings: KafkaSettings) -> None:
    """More than wait in the producer's queue are all delivered, each once."""
    count = 2500
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], [record(n) for n in range(count)])
    narrow = msgspec.structs.replace(settings, queue_len_max=1000, linger_ms=0)
    done = replay(narrow, kafka.servers, settings.topics[TELEMETRY_DLQ])
    assert done.replayed == {TELEMETRY: count}
    ids = {dict(m.headers)["ce_id"] for m in read(kafka.servers, settings.topics[TELEMETRY])}
    assert ids == {b"telemetry.readings.v1:%d" % n for n in range(count)}


def test_refused_again(kafka: Kafka, settings: KafkaSettings) -> None:
    """What brokers or client refuse again is counted by what they say; the rest arrives."""
    create(kafka.servers, settings.topics[TELEMETRY], max_message_bytes="5000")
    large = READING + b" " * 20_000
    write(
        kafka.servers, settings.topics[TELEMETRY_DLQ],
        [record(n, value=large if n % 10 == 0 else READING) for n in range(100)],
    )  # fmt: skip
    plain = msgspec.structs.replace(settings, compression="none")
    done = replay(plain, kafka.servers, TELEMETRY_DLQ)
    assert done.failed == {"Broker: Message size too large": 10}
    assert done.replayed == {TELEMETRY: 90}
    done = replay(
        msgspec.structs.replace(plain, message_bytes_max=10_000), kafka.servers, TELEMETRY_DLQ
    )
    assert (sum(done.failed.values()), done.replayed) == (10, {TELEMETRY: 90})


def test_arrow_is_put_back_as_arrow(kafka: Kafka, settings: KafkaSettings) -> None:
    """Where messages are Arrow streams, those put back are too, and rows are what is counted."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], [record(n) for n in range(30)])
    arrow = msgspec.structs.replace(settings, format="arrow")
    done = replay(arrow, kafka.servers, TELEMETRY_DLQ)
    assert done.replayed == {TELEMETRY: 30}
    found = read(kafka.servers, settings.topics[TELEMETRY])
    tables = [pa.ipc.open_stream(message.value).read_all() for message in found]
    assert sorted(n for table in tables for n in table["ordinal"].to_pylist()) == list(range(30))


def altered(ordinal: int, **changes: Any) -> bytes:
    """Return the dead letter of a record, with other things in it."""
    return msgspec.json.encode(msgspec.json.decode(record(ordinal)) | changes)


def test_one_that_is_refused_again_keeps_no_other_back(
    kafka: Kafka, settings: KafkaSettings
) -> None:
    """A letter that anybody wrote, of an impossible time, is refused alone."""
    create(
        kafka.servers, settings.topics[TELEMETRY],
        message_timestamp_type="CreateTime", message_timestamp_after_max_ms="1000",
    )  # fmt: skip
    letters = [record(n) for n in range(30)] + [altered(30, ts=(1 << 63) - 1)]
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], letters)
    done = replay(settings, kafka.servers, TELEMETRY_DLQ)
    assert done.failed == {"Broker: Invalid timestamp": 1}
    assert done.replayed == {TELEMETRY: 30}


def test_what_is_no_text_spoils_no_arrow(kafka: Kafka, settings: KafkaSettings) -> None:
    """Beside a key that no Arrow stream may hold, records are put back one by one."""
    letters = [record(n) for n in range(9)] + [altered(9, key=None, key_base64="//4=")]
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], letters)
    arrow = msgspec.structs.replace(settings, format="arrow")
    assert replay(arrow, kafka.servers, TELEMETRY_DLQ).replayed == {TELEMETRY: 10}
    found = read(kafka.servers, settings.topics[TELEMETRY])
    assert sorted((m.key, m.value) for m in found) == [(b"dev-1", READING)] * 9 + [
        (b"\xff\xfe", READING)
    ]


@pytest.mark.slow
def test_other_brokers_take_them(
    kafka: Kafka, settings: KafkaSettings, own_broker: Callable[..., Broker]
) -> None:
    """Records go where they are told to; where nobody is, nothing is read in vain."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    other = own_broker().servers
    done = replay(settings, kafka.servers, TELEMETRY_DLQ, to=other)
    assert done.replayed == {TELEMETRY: 2}
    assert len(read(other, settings.topics[TELEMETRY])) == 2
    assert settings.topics[TELEMETRY] not in partitions(kafka.servers)
    hasty = msgspec.structs.replace(settings, connect_s=1)
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:1: no broker answered"):
        replay(hasty, kafka.servers, TELEMETRY_DLQ, to="127.0.0.1:1")


def test_what_cannot_be_asked(kafka: Kafka, settings: KafkaSettings) -> None:
    """Another topic, and one that is missing, are refused before anything is written."""
    with pytest.raises(UsageError, match="not a dead-letter topic"):
        replay(settings, kafka.servers, TELEMETRY)
    with pytest.raises(UsageError, match="no such topic"):
        replay(settings, kafka.servers, FLOWS_DLQ)
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], [packet(1)])
    careful = msgspec.structs.replace(settings, create_topics=False)
    with pytest.raises(SinkError, match="penstock topics create"):
        replay(careful, kafka.servers, TELEMETRY_DLQ)


def test_who_may_not_write_at_all_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after which a producer does nothing more is counted like any other."""
    with mock_broker() as broker:
        broker.create(TELEMETRY)
        broker.fail(INIT_PRODUCER_ID, *[KafkaError.CLUSTER_AUTHORIZATION_FAILED] * 50)
        layout = Layout(topic=TELEMETRY, name=TELEMETRY, partitions=1)
        monkeypatch.setattr(kafka_topics, "ensure", lambda *_: {TELEMETRY: layout})
        back = _Back(KafkaSettings(), broker.servers, TELEMETRY_DLQ, lambda _: None)
        letters = [letter(record(ordinal)) for ordinal in range(3)]
        for each in letters:
            assert isinstance(each, Undeliverable)
            back.put([each])
        back.finish()
        assert back.delivered == {}
        assert sum(back.failed.values()) == 3
        assert any("Cluster authorization failed" in why for why in back.failed)
