"""Topics on a real broker: made as they are laid out, never changed, and described as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though its stubs hide it
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from connectors import kafka_brokers, kafka_topics
from connectors.kafka_brokers import Brokers, Layout
from connectors.kafka_topics import KEYS, batch_bytes, create, describe, ensure
from core.errors import SinkError, SourceError, UsageError
from core.sections import KafkaSettings
from core.topics import DAY_MS, FINDINGS, TELEMETRY, TELEMETRY_DLQ, TOPICS
from tests.conftest import Kafka
from tests.kafka import topics as seen
from tests.kafka.security import USER, Security

if TYPE_CHECKING:
    from tests.kafka.broker import Broker


def changed(settings: KafkaSettings, **changes: object) -> KafkaSettings:
    return msgspec.structs.replace(settings, **changes)


def test_every_topic_says_what_its_keys_are() -> None:
    """The keys of no topic are left out."""
    assert KEYS.keys() == TOPICS.keys()


def test_a_run_makes_the_topics_it_writes(kafka: Kafka, settings: KafkaSettings) -> None:
    """Missing topics are made as they are laid out, once, and said; others are not."""
    said: list[str] = []
    found = ensure(settings, kafka.servers, [TELEMETRY, TELEMETRY_DLQ], said.append)
    name = settings.topics[TELEMETRY]
    assert said == [
        f"created topic {name}: 8 partitions",
        f"created topic {settings.topics[TELEMETRY_DLQ]}: 2 partitions",
    ]
    assert found[TELEMETRY].name == name
    assert (found[TELEMETRY].partitions, found[TELEMETRY_DLQ].partitions) == (8, 2)
    assert found[TELEMETRY].message_bytes_max == 1_048_588
    there = seen.partitions(kafka.servers)
    assert there[name] == 8
    assert settings.topics[FINDINGS] not in there
    assert seen.setting(kafka.servers, name, "retention.ms") == str(7 * DAY_MS)
    assert seen.setting(kafka.servers, name, "cleanup.policy") == "delete"
    assert ensure(settings, kafka.servers, [TELEMETRY, TELEMETRY_DLQ], said.append) == found
    assert len(said) == 2


def test_topics_are_made_when_their_leaders_answer(kafka: Kafka, settings: KafkaSettings) -> None:
    """A leader is named before it has taken over, and batches sent to it meanwhile are lost."""
    many = msgspec.structs.replace(settings, partitions=30)
    brokers = Brokers(many, kafka.servers, SinkError, "")
    admin = AdminClient(seen.options(kafka.servers))
    admin.list_topics(timeout=seen.PATIENCE_S)  # so that it asks at once, when they are made
    parts = [TopicPartition(name, p) for name in settings.topics.values() for p in range(30)]
    assert brokers.create(list(settings.topics)) == set(settings.topics)
    assert brokers.settle(settings.topics) == ""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # its stubs are untyped
    for part, asked in admin.list_offsets(dict.fromkeys(parts, latest)).items():
        assert asked.result(seen.PATIENCE_S).offset == 0, part


def test_a_run_asks_every_leader_before_it_writes(
    kafka: Kafka, settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of topics that somebody else made; one that stays silent is a line, no more."""
    name = settings.topics[TELEMETRY]
    seen.create(kafka.servers, name, partitions=3)
    asked: list[TopicPartition] = []
    silent = KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))

    def counted(_: Brokers, parts: list[TopicPartition]) -> dict[str, int]:
        asked.extend(parts)
        if len(asked) < is_silent:
            raise silent
        return {}

    is_silent = 7
    monkeypatch.setattr(Brokers, "_counted", counted)
    said: list[str] = []
    ensure(settings, kafka.servers, [TELEMETRY], said.append)
    assert [(part.topic, part.partition) for part in asked] == [(name, p) for p in range(3)] * 3
    assert said == ["topic " + name + " keeps records 7 days from the time of their packets: "
                    "those of an older capture are soon deleted; set its message.timestamp.type "
                    "to LogAppendTime"]  # fmt: skip
    is_silent = 1_000_000_000
    found = ensure(changed(settings, connect_s=1), kafka.servers, [TELEMETRY], said.append)
    assert found[TELEMETRY].partitions == 3
    assert said[1].startswith(f"topic {name}: a leader does not answer (")
    assert said[1].endswith("): records wait for it, at most 120 s (kafka.delivery_s); "
                            "look after the brokers")  # fmt: skip
    with pytest.raises(SinkError, match="a leader does not answer"):
        create(changed(settings, connect_s=1), kafka.servers)


def test_settings_say_how_topics_are_made(kafka: Kafka, settings: KafkaSettings) -> None:
    """Partitions and replicas are those of the settings, where these say any."""
    found = ensure(
        changed(settings, partitions=3, replication=1), kafka.servers, [TELEMETRY], lambda _: None
    )
    assert (found[TELEMETRY].partitions, found[TELEMETRY].replication) == (3, 1)
    with pytest.raises(SinkError, match=r"cannot be created \(.*\); set kafka.replication to what"):
        ensure(changed(settings, replication=3), kafka.servers, [FINDINGS], lambda _: None)


def test_a_run_that_may_not_make_topics(kafka: Kafka, settings: KafkaSettings) -> None:
    """Told not to, a run makes none; the line names them and the command that does."""
    careful = changed(settings, create_topics=False)
    with pytest.raises(SinkError) as caught:
        ensure(careful, kafka.servers, [TELEMETRY], lambda _: None)
    assert str(caught.value) == (
        f"kafka://{kafka.servers}: no such topic: {settings.topics[TELEMETRY]}; "
        f"penstock topics create kafka://{kafka.servers} makes them, or set kafka.create_topics"
    )
    create(settings, kafka.servers)
    assert ensure(careful, kafka.servers, list(TOPICS), lambda _: None).keys() == TOPICS.keys()


def test_a_topic_that_takes_less_than_is_written(kafka: Kafka, settings: KafkaSettings) -> None:
    """The limit of a topic is said, and batches are kept below it."""
    seen.create(
        kafka.servers, settings.topics[TELEMETRY], max_message_bytes="5000", retention_ms="-1"
    )
    said: list[str] = []
    found = ensure(settings, kafka.servers, [TELEMETRY, FINDINGS], said.append)
    assert said[0] == (
        f"topic {settings.topics[TELEMETRY]} takes records of at most 5000 bytes, "
        "kafka.message_bytes_max is 1000000: what is larger becomes a dead letter"
    )
    assert batch_bytes(settings, found) == 5000
    assert batch_bytes(changed(settings, batch_bytes=2000), found) == 2000
    assert batch_bytes(settings, {}) == settings.batch_bytes


def test_a_topic_that_keeps_by_the_time_of_packets(kafka: Kafka, settings: KafkaSettings) -> None:
    """Where old packets would be deleted once they are delivered, a run says so."""
    name = settings.topics[TELEMETRY]
    seen.create(kafka.servers, name, retention_ms=str(36 * 3_600_000))
    seen.create(kafka.servers, settings.topics[FINDINGS], retention_ms="-1")
    said: list[str] = []
    ensure(settings, kafka.servers, [TELEMETRY, FINDINGS], said.append)
    (line,) = said
    assert line == (
        f"topic {name} keeps records 1.5 days from the time of their packets: those of an older "
        "capture are soon deleted; set its message.timestamp.type to LogAppendTime"
    )


def test_what_is_there_is_not_changed(kafka: Kafka, settings: KafkaSettings) -> None:
    """Of a topic that exists, what differs is said, and stays."""
    name = settings.topics[TELEMETRY]
    seen.create(kafka.servers, name, partitions=2, retention_ms="1000", cleanup_policy="compact")
    made = {each.layout.topic: each for each in create(settings, kafka.servers)}
    assert made.keys() == TOPICS.keys()
    there = made.pop(TELEMETRY)
    assert not there.created
    assert there.differences == (
        "partitions 2, not 8",
        "retention.ms 1000, not 604800000",
        "cleanup.policy compact, not delete",
        "message.timestamp.type CreateTime, not LogAppendTime",
    )
    assert all(each.created and not each.differences for each in made.values())
    assert seen.partitions(kafka.servers)[name] == 2
    again = create(settings, kafka.servers)
    assert not any(each.created for each in again)


def test_topics_are_described_as_they_are(kafka: Kafka, settings: KafkaSettings) -> None:
    """Records are counted over all partitions; a topic that is missing has none, not zero."""
    ensure(settings, kafka.servers, [TELEMETRY], lambda _: None)
    seen.put(kafka.servers, settings.topics[TELEMETRY], *[b"x"] * 23)
    found = {each.topic: each for each in describe(settings, kafka.servers)}
    assert found.keys() == TOPICS.keys()
    assert msgspec.to_builtins(found[TELEMETRY]) == {
        "topic": TELEMETRY,
        "name": settings.topics[TELEMETRY],
        "partitions": 8,
        "replication": 1,
        "retention_ms": 7 * DAY_MS,
        "cleanup": "delete",
        "timestamps": "LogAppendTime",
        "message_bytes_max": 1_048_588,
        "records": 23,
        "key": "device id or sender",
    }
    assert found[FINDINGS].partitions == 0
    assert found[FINDINGS].records is None


def test_what_the_brokers_say_oddly_is_unknown() -> None:
    """A number of theirs that is none is not known, and no error."""
    said = {"retention.ms": "-1", "max.message.bytes": "many", "cleanup.policy": "compact"}
    entries = {name: SimpleNamespace(value=value) for name, value in said.items()}
    assert kafka_brokers._seen(entries) == {"retention_ms": -1, "cleanup": "compact"}


def test_one_topic_is_described_by_either_name(kafka: Kafka, settings: KafkaSettings) -> None:
    """A topic is found by its name here and there, and another's topic by its own."""
    ensure(settings, kafka.servers, [TELEMETRY], lambda _: None)
    name = settings.topics[TELEMETRY]
    [here] = describe(settings, kafka.servers, TELEMETRY)
    [there] = describe(settings, kafka.servers, name)
    assert here == there
    [other] = describe(KafkaSettings(), kafka.servers, name)
    assert (other.name, other.partitions, other.key) == (name, 8, "")
    with pytest.raises(UsageError) as caught:
        describe(settings, kafka.servers, name[:-1] + "\x1b")
    assert str(caught.value).endswith(f"\\U0000001b; did you mean {name}?")
    assert "\x1b" not in str(caught.value)


def test_somebody_else_was_faster(kafka: Kafka, settings: KafkaSettings) -> None:
    """A topic that exists by the time it is to be made is as good as made, by somebody else."""
    brokers = Brokers(settings, kafka.servers, SinkError, "")
    seen.create(kafka.servers, settings.topics[TELEMETRY], partitions=3)
    assert brokers.create([TELEMETRY, FINDINGS]) == {FINDINGS}
    assert brokers.settle([TELEMETRY, FINDINGS]) == ""
    assert brokers.layout(TELEMETRY).partitions == 3


@pytest.mark.slow
def test_what_we_may_not_see_is_unknown(own_broker: Callable[..., Broker], tmp_path: Path) -> None:
    """Allowed to write and no more, a run writes; what is hidden from it is unknown, not 0."""
    security = Security(tmp_path / "tls")
    broker = own_broker(
        security,
        authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        super_users="User:ANONYMOUS",
    )
    seen.create(broker.inside, TELEMETRY, partitions=3)
    allow(broker.inside, TELEMETRY, AclOperation.WRITE)
    user = msgspec.convert({"options": security.options()}, KafkaSettings)
    assert ensure(user, broker.servers, [TELEMETRY], lambda _: None) == {
        TELEMETRY: Layout(topic=TELEMETRY, name=TELEMETRY, partitions=3, replication=1)
    }
    with pytest.raises(SinkError, match=rf"topic {FINDINGS} cannot be created .*; grant Create on"):
        ensure(user, broker.servers, [FINDINGS], lambda _: None)


def allow(servers: str, topic: str, operation: AclOperation) -> None:
    """Let the user of the tests do something with a topic."""
    rule = AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{USER}", "*", operation,
        AclPermissionType.ALLOW,
    )  # fmt: skip
    admin = AdminClient(seen.options(servers))
    for future in admin.create_acls([rule]).values():
        future.result(timeout=seen.PATIENCE_S)


def test_nobody_to_ask() -> None:
    """Without a broker each command fails as what it is, a sink or a source."""
    settings, nobody = KafkaSettings(connect_s=1), "127.0.0.1:1"
    with pytest.raises(SinkError, match=r"\(Connection refused\); start one, or name another --s"):
        ensure(settings, nobody, [TELEMETRY], lambda _: None)
    with pytest.raises(SinkError, match=r"start one, or name another$"):
        create(settings, nobody)
    with pytest.raises(SourceError, match=r"start one, or name another$"):
        kafka_topics.describe(settings, nobody)
