"""Dead-letter topics on a real broker: counted by reason, shown, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from connectors import dead_letters
from connectors.dead_letters import Listed, dead_letter_topics, listed, shown
from connectors.kafka_topics import ensure
from core.errors import UsageError
from core.sections import KafkaSettings
from core.topics import FINDINGS_DLQ, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from core.undeliverable import opened
from tests.conftest import Kafka
from tests.kafka.letters import AT_NS, HOSTILE, MIXED, READING, packet, record, write
from tests.kafka.renamed import renamed


@pytest.fixture
def settings(kafka: Kafka, request: pytest.FixtureRequest) -> Iterator[KafkaSettings]:
    """Settings under which the topics are this test's own; that of telemetry's letters exists."""
    with renamed(kafka.servers, request.node.nodeid) as found:
        ensure(found, kafka.servers, [TELEMETRY_DLQ], lambda _: None)
        yield found


def test_the_topics_of_dead_letters() -> None:
    """There is one for each topic, and none has one of its own."""
    assert sorted(dead_letter_topics()) == sorted([TELEMETRY_DLQ, FLOWS_DLQ, FINDINGS_DLQ])


def test_letters_are_counted_by_reason(kafka: Kafka, settings: KafkaSettings) -> None:
    """Every record is counted once, as unreadable if need be; a missing topic has none, not 0."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    assert listed(settings, kafka.servers)[0] == Listed(
        topic=TELEMETRY_DLQ,
        name=settings.topics[TELEMETRY_DLQ],
        records=7,
        reasons={
            "topic_unknown": 2,
            "body_not_json": 1,
            "record_invalid": 1,
            "record_too_large": 1,
        },
        unreadable=2,
    )
    for each in listed(settings, kafka.servers)[1:]:
        assert (each.records, each.reasons) == (None, {})


def test_reasons_are_bounded(
    kafka: Kafka, settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever invents reasons fills a table of so many, not more."""
    monkeypatch.setattr(dead_letters, "REASONS_MAX", 3)
    invented = [packet(n).replace(b"body_not_json", b"r%d" % (n % 5)) for n in range(20)]
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], invented)
    found = listed(settings, kafka.servers)[0]
    assert found.reasons == {"r0": 4, "r1": 4, "r2": 4}
    assert found.unreadable == 8


def test_the_last_letters_are_shown(kafka: Kafka, settings: KafkaSettings) -> None:
    """The last come in order of time, each with what is known of it, and no more than its head."""
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], MIXED)
    found = shown(settings, kafka.servers, TELEMETRY_DLQ, None, 10)
    assert [each.offset for each in found] == list(range(7))
    assert [each.reason for each in found] == [
        "body_not_json", "topic_unknown", "record_invalid", "record_too_large", "topic_unknown",
        None, None,
    ]  # fmt: skip
    first, second, _, cut, _, hostile, empty = found
    assert (first.size, first.head) == (100, bytes(range(64)))
    assert (first.topic, first.is_whole) == (None, None)
    assert (second.ts, second.source, second.ordinal) == (AT_NS, "00000000000000ff", 1)
    assert (second.topic, second.key, second.is_whole) == (TELEMETRY, b"dev-1", True)
    assert (second.size, second.head) == (len(READING), READING)
    assert (cut.size, cut.is_whole) == (len(READING) + 70_000, False)
    assert (hostile.size, hostile.head) == (len(HOSTILE), HOSTILE[:64])
    assert (empty.size, empty.head) == (0, b"")
    assert shown(settings, kafka.servers, settings.topics[TELEMETRY_DLQ], None, 2) == found[-2:]


def test_texts_of_a_letter_are_bounded(kafka: Kafka, settings: KafkaSettings) -> None:
    """Of what whoever writes a letter says in it the head is kept; no number is beyond an int64."""
    honest = opened(record(1))
    assert honest is not None
    long = "x" * 200_000
    letter = msgspec.structs.replace(honest, key=long, topic=long, error=long)
    beyond = msgspec.json.decode(record(1)) | {"value_bytes": 1 << 63}
    letters = [*map(msgspec.json.encode, (letter, beyond))]
    write(kafka.servers, settings.topics[TELEMETRY_DLQ], letters)
    found, other = shown(settings, kafka.servers, TELEMETRY_DLQ, None, 10)
    assert (found.key, found.topic, found.error) == (b"x" * 256, "x" * 256, "x" * 256)
    assert other.reason is None


def test_letters_of_one_reason_are_shown(kafka: Kafka, settings: KafkaSettings) -> None:
    """Asked for a reason, the last of it are found wherever they are."""
    write(
        kafka.servers, settings.topics[TELEMETRY_DLQ],
        [record(n) for n in range(5)] + [packet(n) for n in range(30)],
    )  # fmt: skip
    found = shown(settings, kafka.servers, TELEMETRY_DLQ, "topic_unknown", 2)
    assert [each.ordinal for each in found] == [3, 4]


def test_only_dead_letters_are_shown(kafka: Kafka, settings: KafkaSettings) -> None:
    """Another topic is refused, and those that would do are named."""
    with pytest.raises(UsageError) as caught:
        shown(settings, kafka.servers, TELEMETRY, None, 1)
    assert f"these are: {settings.topics[TELEMETRY_DLQ]}, " in str(caught.value)
