"""What the brokers refuse: only what is wrong by itself is a dead letter, and all else arrives."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though its stubs hide it
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from connectors.account import Account
from connectors.parcel import ALONE, FEW, WHOLE, Failure, Parcel
from connectors.returns import Returns
from connectors.tally import Tally
from core.errors import SinkError
from core.outgoing import json_messages
from core.sections import KafkaSettings
from core.topics import FINDINGS, FINDINGS_DLQ, TELEMETRY, TELEMETRY_DLQ
from tests.conftest import Kafka
from tests.kafka import topics
from tests.outboxes import FATES, NOW_NS, SECOND, encode, opened, readings, rows
from tests.records import Row, records_of

IN_1000_YEARS_NS = NOW_NS + 7 * 365 * 86_400 * SECOND * 10
"""No topic takes a record of a time so far ahead."""


def change(servers: str, topic: str, name: str, value: str) -> None:
    """Set something of a topic while it is written to."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(topics.options(servers))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(timeout=topics.PATIENCE_S)


def values(servers: str, topic: str, format_: str = "json") -> list[bytes]:
    """Return the values of the records in a topic."""
    found = [message.value for message in topics.read(servers, topic)]
    if format_ == "json":
        return found
    tables = (pa.ipc.open_stream(value).read_all() for value in found)
    return [value.encode() for table in tables for value in table["value"].to_pylist()]


def letters(servers: str, topic: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for value in values(servers, topic)]


def fates(topic: str, **counts: int) -> dict[str, int]:
    return {f"{fate}.{topic}": count for fate, count in counts.items() if count}


def test_a_dead_letter_tells_of_its_record(kafka: Kafka, settings: KafkaSettings) -> None:
    """A record too large for the settings is refused by itself; its letter has all but its end."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name, dlq)
    large = Row(b"pump-7", b'"' + b"z" * 300_000 + b'"', NOW_NS + 5, 0xAB, 17, 3)
    with opened(kafka.servers, settings, message_bytes_max=200_000, recovers=True) as box:
        box.send(records_of(TELEMETRY, [*rows(5), large, *rows(5, first=5)]))
        box.outbox.flush(60)
        assert box.counts(*FATES) == fates(TELEMETRY, accepted=11, delivered=10, dead_lettered=1)
    assert values(kafka.servers, name) == [row.value for row in rows(10)]
    (message,) = topics.read(kafka.servers, dlq)
    letter = msgspec.json.decode(message.value)
    head = base64.b64decode(letter.pop("value"))
    assert (head, len(head)) == (large.value[: 64 << 10], 64 << 10)
    assert letter == {
        "reason": "record_too_large", "topic": TELEMETRY, "key": "pump-7",
        "source": f"{0xAB:016x}", "ordinal": 17, "ts": NOW_NS + 5, "value_bytes": 300_002,
        "error": "Broker: Message size too large",
    }  # fmt: skip
    headers = dict(message.headers)
    assert headers["ce_type"] == TELEMETRY_DLQ.encode()
    assert headers["ce_source"] == b"urn:penstock:capture:00000000000000ab"
    assert message.timestamp_ms > NOW_NS / 1e6  # when it was refused


@pytest.mark.parametrize("format_", ["json", "arrow"])
def test_neighbours_of_an_impossible_time_arrive(
    kafka: Kafka, settings: KafkaSettings, format_: str
) -> None:
    """A record whose time the brokers refuse is a dead letter; those of its batch are not."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name, dlq)
    good = rows(300)
    bad = [Row(b"k", b'{"bad":%d}' % i, IN_1000_YEARS_NS, 7, 1_000 + i) for i in range(2)]
    # The time of an Arrow message is that of its last record, and the brokers see no other.
    at = 100 if format_ == "json" else 300
    mixed = [*good[:at], bad[0], *good[at:], bad[1]]
    with opened(kafka.servers, settings, recovers=True, format=format_) as box:
        box.send(records_of(TELEMETRY, mixed))
        box.outbox.flush(60)
        want = fates(TELEMETRY, accepted=302, delivered=300, dead_lettered=2)
        assert box.counts(*FATES) == want
        box.send(readings(50, first=300))
        box.outbox.flush(60)
        box.outbox.close()
        want = fates(TELEMETRY, accepted=352, delivered=350, dead_lettered=2)
        assert box.counts(*FATES) == want
    assert sorted(values(kafka.servers, name, format_)) == sorted(r.value for r in rows(350))
    found = letters(kafka.servers, dlq)
    assert [each["reason"] for each in found] == ["record_invalid"] * 2
    assert sorted(each["ordinal"] for each in found) == [1_000, 1_001]
    assert {each["key"] for each in found} == {"k"}


@pytest.mark.parametrize("format_", ["json", "arrow"])
def test_a_topic_that_takes_less_than_it_did(
    kafka: Kafka, settings: KafkaSettings, format_: str
) -> None:
    """When the limit of a topic falls, batches are refused; the records that fit arrive."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name, dlq)
    with opened(kafka.servers, settings, recovers=True, format=format_, compression="none") as box:
        box.send(readings(10))
        box.outbox.flush(60)
        change(kafka.servers, name, "max.message.bytes", "10000")
        # Together far more than the limit, each far less, but for one.
        box.send(readings(400, first=10, bytes_each=300))
        box.send(records_of(TELEMETRY, [Row(b"large", b'"' + b"z" * 20_000 + b'"', NOW_NS)]))
        box.outbox.flush(60)
        want = fates(TELEMETRY, accepted=411, delivered=410, dead_lettered=1)
        assert box.counts(*FATES) == want
    want_values = [row.value for row in [*rows(10), *rows(400, first=10, bytes_each=300)]]
    assert sorted(values(kafka.servers, name, format_)) == sorted(want_values)
    (letter,) = letters(kafka.servers, dlq)
    assert (letter["key"], letter["reason"]) == ("large", "record_too_large")
    assert letter["value_bytes"] == 20_002


def test_arrow_messages_of_all_sizes_are_refused_together(
    kafka: Kafka, settings: KafkaSettings
) -> None:
    """Of one batch, messages with many records are taken apart, and one with one is not."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name, partitions=8, max_message_bytes="4000")
    topics.create(kafka.servers, dlq)
    batch = records_of(TELEMETRY, [
        Row(b"large-1", b'"' + b"z" * 9_000 + b'"', NOW_NS), *rows(200, bytes_each=200)
    ])  # fmt: skip
    arrow = msgspec.structs.replace(settings, format="arrow", compression="none")
    assert 1 in encode(arrow, 8, batch).rows
    with opened(kafka.servers, arrow, recovers=True, partitions=8) as box:
        box.send(batch)
        box.outbox.flush(60)
        want = fates(TELEMETRY, accepted=201, delivered=200, dead_lettered=1)
        assert box.counts(*FATES) == want
    found = values(kafka.servers, name, "arrow")
    assert sorted(found) == sorted(row.value for row in rows(200, bytes_each=200))
    assert [each["key"] for each in letters(kafka.servers, dlq)] == ["large-1"]


def test_records_alike_are_told_apart(kafka: Kafka, settings: KafkaSettings) -> None:
    """Records with the same key and value have a dead letter each, with numbers of their own."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name, dlq)
    alike = [Row(b"k", b"{}", IN_1000_YEARS_NS, 7, ordinal) for ordinal in range(20)]
    with opened(kafka.servers, settings, recovers=True) as box:
        box.send(records_of(TELEMETRY, [*alike, *rows(3)]))
        box.outbox.flush(60)
        assert box.counts(*FATES) == fates(TELEMETRY, accepted=23, delivered=3, dead_lettered=20)
    assert [each["ordinal"] for each in letters(kafka.servers, dlq)] == list(range(20))


def test_rows_are_found_by_content_once() -> None:
    """Reports come at different times; a row that one was about is not another's."""
    batch = records_of(
        TELEMETRY, [Row(b"k", b"a"), Row(b"", b""), Row(b"k", b"a"), Row(b"j", b"a")]
    )
    returns, account = unsorted()
    parcel = Parcel(returns, account, batch, WHOLE, TELEMETRY)
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    assert parcel.rows_of([Failure(error, b"k", b"a"), Failure(error, b"j", b"a")]) == [0, 3]
    assert parcel.rows_of([Failure(error, None, None), Failure(error, b"k", b"a")]) == [1, 2]


def unsorted() -> tuple[Returns, Account]:
    """Returns that nothing came to yet, and an account."""
    returns = Returns(
        encode=lambda batch: json_messages(batch, "seq"), headers="seq", names=str,
        letter_bytes_max={}, recovers=False, tally=Tally(str),
    )  # fmt: skip
    return returns, Account("0000", lambda _page, _counts: None)


def test_what_comes_back_at_the_end_is_lost() -> None:
    """When no time is left nothing is tried again, neither what came back before nor since."""
    returns, account = unsorted()
    parcel = Parcel(returns, account, records_of(TELEMETRY, rows(3)), WHOLE, TELEMETRY)
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    parcel.refused(error, rows(3)[0].key, rows(3)[0].value)
    assert returns
    returns.give_up()
    assert not returns
    parcel.refused(error, rows(3)[1].key, rows(3)[1].value)
    assert not returns
    assert list(returns.sorted_out()) == []
    assert account.booked("lost") == {TELEMETRY: 2}
    assert (returns.undelivered, returns.lost_topic) == (2, TELEMETRY)


def test_a_partition_that_was_let_go_is_tried_again() -> None:
    """What librdkafka does not know the fate of is sent again, and in the end left."""
    returns, account = unsorted()
    batch = records_of(TELEMETRY, rows(3))
    error = KafkaError(KafkaError._DESTROY)
    for lane in (WHOLE, FEW):
        Parcel(returns, account, batch, lane, TELEMETRY, first=1).refused(error, None, b"")
        ((narrower, load),) = returns.sorted_out()
        assert (narrower, load.topic, load.rows) == (lane + 1, TELEMETRY, 1)
        assert [message[1] for message in load.messages] == [rows(3)[1].value]
    assert account.booked("lost") == {}
    Parcel(returns, account, batch, ALONE, TELEMETRY, first=1).refused(error, None, b"")
    assert account.booked("lost") == {TELEMETRY: 1}


def test_a_topic_that_is_gone(kafka: Kafka, settings: KafkaSettings) -> None:
    """Records of a topic that was deleted are dead letters, and other topics go on."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    other = settings.topics[FINDINGS]
    topics.create(kafka.servers, name, dlq, other)
    config = {"topic.metadata.propagation.max.ms": 3_000, "topic.metadata.refresh.interval.ms": 500}
    with opened(kafka.servers, settings, recovers=True, config=config) as box:
        box.send(readings(10))
        box.outbox.flush(60)
        topics.delete(kafka.servers, name)
        box.send(readings(90, first=10))
        box.send(records_of(FINDINGS, rows(5)))
        box.outbox.flush(60)
        want = fates(TELEMETRY, accepted=100, delivered=10, dead_lettered=90)
        assert box.counts(*FATES) == want | fates(FINDINGS, accepted=5, delivered=5)
    found = letters(kafka.servers, dlq)
    assert {each["reason"] for each in found} == {"topic_unknown"}
    assert sorted(each["ordinal"] for each in found) == list(range(10, 100))
    assert all(base64.b64decode(each["value"]) == rows(1, first=each["ordinal"])[0].value
               for each in found)  # fmt: skip
    assert len(values(kafka.servers, other)) == 5


@pytest.mark.parametrize("recovers", [True, False])
def test_a_dead_letter_nobody_takes(
    kafka: Kafka, settings: KafkaSettings, *, recovers: bool
) -> None:
    """Where the dead-letter topic is missing, a refused record ends the epoch, or is lost."""
    name = settings.topics[FINDINGS]
    topics.create(kafka.servers, name)
    config = {"topic.metadata.propagation.max.ms": 3_000}
    large = Row(b"k", b'"' + b"z" * 3_000 + b'"', NOW_NS)
    with opened(kafka.servers, settings, recovers=recovers, message_bytes_max=2_000,
                config=config) as box:  # fmt: skip
        box.send(records_of(FINDINGS, [*rows(5), large, large]))
        if recovers:
            with pytest.raises(SinkError, match="records were not acknowledged") as caught:
                box.outbox.flush(60)
            assert f"({settings.topics[FINDINGS_DLQ]}: " in str(caught.value)
            while box.outbox.occupancy:
                box.outbox.relieve(0.2)
            assert box.lost == []
        else:
            box.outbox.close()
            assert len(box.lost) == 1
            assert f"records of {name} could not be delivered" in box.lost[0]
        lost = {} if recovers else {"lost": 2}
        assert box.counts(*FATES) == fates(FINDINGS, accepted=7, delivered=5, **lost)
    assert settings.topics[FINDINGS_DLQ] not in topics.partitions(kafka.servers)


def test_a_dead_letter_too_large_for_its_topic_is_refused_alone(
    kafka: Kafka, settings: KafkaSettings
) -> None:
    """Dead letters are batches too: one that is refused does not take others along."""
    name, dlq = settings.topics[TELEMETRY], settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, name)
    topics.create(kafka.servers, dlq, max_message_bytes="5000")
    bad = [Row(b"k", b'"' + b"z" * size + b'"', IN_1000_YEARS_NS, 7, size)
           for size in (10, 9_000, 20)]  # fmt: skip
    with opened(kafka.servers, settings, compression="none") as box:
        box.send(records_of(TELEMETRY, [*bad, *rows(4)]))
        box.outbox.close()
        want = fates(TELEMETRY, accepted=7, delivered=4, dead_lettered=2, lost=1)
        assert box.counts(*FATES) == want
    # In whichever order: one that was refused among others comes later.
    assert sorted(each["ordinal"] for each in letters(kafka.servers, dlq)) == [10, 20]


def test_a_dead_letter_fits_into_the_smallest_message(
    kafka: Kafka, settings: KafkaSettings
) -> None:
    """The value gives way where messages may not be large."""
    dlq = settings.topics[TELEMETRY_DLQ]
    topics.create(kafka.servers, settings.topics[TELEMETRY], dlq)
    with opened(kafka.servers, settings, recovers=True, message_bytes_max=1_000) as box:
        box.send(readings(3, bytes_each=5_000))
        box.outbox.flush(60)
        assert box.counts(*FATES) == fates(TELEMETRY, accepted=3, dead_lettered=3)
    assert [each["value_bytes"] for each in letters(kafka.servers, dlq)] == [
        len(row.value) for row in rows(3, bytes_each=5_000)
    ]
