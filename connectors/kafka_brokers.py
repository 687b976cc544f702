"""The brokers as an administrator sees them: topics created, looked at and counted.

Laws:

1. Every request is bounded by `kafka.connect_s`, and a refusal is one line with its real cause.
2. What we are not allowed to see is left out; anything else that fails is an error.

Not here: which topics are created, and what is said of them (`connectors.kafka_topics`).

Source: Apache Kafka 4.1, "Topic Configs"; KIP-464 for replication as the brokers have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though its stubs hide it
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from connectors.clock import monotonic_ns
from connectors.kafka_client import Trouble, built, connect, properties, settled, topic_name
from core.errors import RunError
from core.plain import plain
from core.topics import TOPICS

if TYPE_CHECKING:
    from confluent_kafka.admin._metadata import ClusterMetadata, TopicMetadata

    from core.sections import KafkaSettings

T = TypeVar("T")

_NOT_FOR_US = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
)
_CURES = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant Create on it, or have it created",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant Create on it, or have it created",
    KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication to what the brokers can hold",
    KafkaError.INVALID_PARTITIONS: "set kafka.partitions to what the brokers can hold",
}
_POLL_S = 0.05
_NUMBER = re.compile(r"-?[0-9]{1,19}")

TIMESTAMPS = "LogAppendTime"
"""Whose time a message has in a topic that we create: the brokers'. By it they delete what
is older than `retention.ms`; by its own, a packet of an old capture is gone soon after it came."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How the brokers have a topic; what they do not tell is `None`.

    Attributes:
        topic: Its name here.
        name: Its name there.
        partitions: Its partitions; 0 when there is no such topic.
        replication: Replicas of each partition.
        retention_ms: How long records are kept, ms; -1 is for ever.
        cleanup: `delete`, `compact` or both.
        timestamps: Whose time a message has: `LogAppendTime`, that of the brokers, by which they
            keep it so long; or `CreateTime`, the time of its packet.
        message_bytes_max: Largest batch of records it takes, bytes, compressed.
    """

    topic: str
    name: str
    partitions: int = 0
    replication: int | None = None
    retention_ms: int | None = None
    cleanup: str | None = None
    timestamps: str | None = None
    message_bytes_max: int | None = None


class Brokers:
    """The brokers as an administrator sees them.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        failure: What to raise when they do not do what they are asked.
        cure: What the user may do when none answers.

    Raises:
        RunError: None answers; of the kind `failure`.
    """

    def __init__(
        self, settings: KafkaSettings, servers: str, failure: type[RunError], cure: str
    ) -> None:
        self._settings, self._servers = settings, servers
        self._failure, self._cure = failure, cure
        self._client, self._trouble, answer = asked(settings, servers, failure, cure)
        self._known: dict[str, TopicMetadata] = answer.topics

    def names(self) -> list[str]:
        """Return the names of all topics there are."""
        return list(self._known)

    def layout(self, topic: str) -> Layout:
        """Return what is known of a topic, without its configuration."""
        name = topic_name(self._settings, topic)
        found = self._known.get(name)
        if found is None or not found.partitions:
            return Layout(topic=topic, name=name)
        replicas = min(len(each.replicas) for each in found.partitions.values())
        return Layout(
            topic=topic, name=name, partitions=len(found.partitions), replication=replicas
        )

    def create(self, topics: Sequence[str]) -> set[str]:
        """Create topics; return those that we created, which have to settle."""
        made: set[str] = set()
        if not topics:
            return made
        wait_s = self._settings.connect_s
        asked = self._client.create_topics(
            [_new(self._settings, topic) for topic in topics],
            operation_timeout=wait_s,
            request_timeout=wait_s,
        )
        for topic in topics:
            name = topic_name(self._settings, topic)
            try:
                self._answer(asked[name])
                made.add(topic)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was faster
                    continue
                cure = _CURES.get(code, "have it created, or ask for what the brokers accept")
                raise self._failed(f"topic {name} cannot be created", error, cure) from None
        return made

    def settle(self, topics: Iterable[str]) -> str:
        """Wait until the leader of every partition answers, `kafka.connect_s` at most.

        Brokers name a leader before it has taken over, and refuse what comes meanwhile. One that
        says that we may not ask has answered.

        Returns:
            Why not all are settled, and which; empty when they are.
        """
        names = [topic_name(self._settings, topic) for topic in topics]
        end_ns = monotonic_ns() + self._settings.connect_s * 1_000_000_000
        while missing := self._unsettled(names):
            if monotonic_ns() >= end_ns:
                return missing
            self._client.poll(_POLL_S)
        return ""

    def configured(self, topics: Iterable[str]) -> dict[str, Layout]:
        """Return the layouts of topics with what their configuration says, if we may see it."""
        layouts = {topic: self.layout(topic) for topic in topics}
        there = {each.name: topic for topic, each in layouts.items() if each.partitions}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
        if not resources:
            return layouts
        asked = self._client.describe_configs(resources, request_timeout=self._settings.connect_s)
        for resource, future in asked.items():
            try:
                entries = self._answer(future)
            except KafkaException as error:
                if error.args[0].code() in _NOT_FOR_US:
                    continue
                what = f"topic {resource.name} cannot be described"
                raise self._failed(what, error, self._cure) from None
            topic = there[resource.name]
            layouts[topic] = msgspec.structs.replace(layouts[topic], **_seen(entries))
        return layouts

    def records(self, layouts: Iterable[Layout]) -> dict[str, int]:
        """Return the records of topics, by the names the brokers have for them."""
        parts = [
            TopicPartition(each.name, number)
            for each in layouts
            for number in range(each.partitions)
        ]
        if not parts:
            return {}
        wait_s = self._settings.connect_s
        try:
            return settled(self._client, wait_s, lambda: self._counted(parts))
        except KafkaException as error:
            raise self._failed("offsets cannot be read", error, self._cure) from None

    def _counted(self, parts: Sequence[TopicPartition]) -> dict[str, int]:
        """Return the records between the ends of partitions, by topic."""
        wait_s = self._settings.connect_s
        specs = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]  # its stubs are untyped
        ends = [
            self._client.list_offsets(dict.fromkeys(parts, spec), request_timeout=wait_s)
            for spec in specs
        ]
        total: dict[str, int] = {}
        dark: set[str] = set()
        for part in parts:
            try:
                low, high = (self._answer(end[part]).offset for end in ends)
            except KafkaException as error:
                if error.args[0].code() not in _NOT_FOR_US:
                    raise
                dark.add(part.topic)
            else:
                total[part.topic] = total.get(part.topic, 0) + max(0, high - low)
        return {name: count for name, count in total.items() if name not in dark}

    def _unsettled(self, names: Iterable[str]) -> str:
        """Ask partitions for their ends once; return which topic does not answer, and why."""
        name = ""
        try:
            self._known = self._client.list_topics(timeout=self._settings.connect_s).topics
            for name in names:
                parts = self._known[name].partitions if name in self._known else {}
                if not parts:
                    return f"topic {name}: is not known to all brokers yet"
                leaderless = [str(number) for number, part in parts.items() if part.leader < 0]
                if leaderless:
                    return f"topic {name}: no leader of partition {', '.join(leaderless)}"
                self._counted([TopicPartition(name, number) for number in parts])
        except KafkaException as error:  # whatever is said meanwhile
            self._client.poll(0)
            return f"topic {name}: a leader does not answer ({self._why(error)})"
        return ""

    def _answer(self, future: Future[T]) -> T:
        """Return what the brokers answer; librdkafka bounds the wait by its request timeout."""
        try:
            return future.result(timeout=2 * self._settings.connect_s)
        except FutureTimeoutError:
            self._client.poll(0)
            late = KafkaError(KafkaError._TIMED_OUT, "no answer")
            raise KafkaException(late) from None

    def _failed(self, what: str, error: KafkaException, cure: str) -> RunError:
        """Return the failure to be raised: what failed, why, and what helps."""
        self._client.poll(0)  # which calls `_trouble`
        first: KafkaError = error.args[0]
        cure = self._trouble.cure(cure) if first.code() < 0 else cure
        return self._failure(f"kafka://{self._servers}: {plain(what)} ({self._why(error)}); {cure}")

    def _why(self, error: KafkaException) -> str:
        """Return the cause of an error; librdkafka's own codes say that brokers were not heard."""
        first: KafkaError = error.args[0]
        return self._trouble.cause(first) if first.code() < 0 else self._trouble.text(first)


def asked(
    settings: KafkaSettings, servers: str, failure: type[RunError], cure: str
) -> tuple[AdminClient, Trouble, ClusterMetadata]:
    """Return an administrator that was answered, what it complains of, and the answer.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        failure: What to raise when none answers.
        cure: What the user may do then.
    """
    config = properties(settings, servers)
    client = built(AdminClient, config)
    answer = connect(client, config, settings.connect_s, failure=failure, cure=cure)
    return client, config["error_cb"], answer


def _new(settings: KafkaSettings, topic: str) -> NewTopic:
    laid_out = TOPICS[topic]
    return NewTopic(
        topic_name(settings, topic),
        num_partitions=settings.partitions or laid_out.partitions,
        replication_factor=settings.replication,
        config={
            "retention.ms": str(laid_out.retention_ms),
            "cleanup.policy": laid_out.cleanup,
            "message.timestamp.type": TIMESTAMPS,
        },
    )


def _seen(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a layout that a topic's configuration tells."""
    found = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    fields: dict[str, Any] = {}
    for field, name in (
        ("retention_ms", "retention.ms"),
        ("message_bytes_max", "max.message.bytes"),
    ):
        if _NUMBER.fullmatch(found.get(name, "")):
            fields[field] = int(found[name])
    for field, name in (("cleanup", "cleanup.policy"), ("timestamps", "message.timestamp.type")):
        if name in found:
            fields[field] = found[name]
    return fields
