"""Topics as the brokers have them: created as `core.topics` lays them out, and described.

Laws:

1. A topic that is there already is never changed: whoever owns the brokers decides. What differs
   from `core.topics` is said.
2. What the brokers do not let us see is `None`, never 0.
3. Messages are made to fit the topic they are for, whoever sends them.

Not here: what the topics are (`core.topics`), and how the brokers are asked
(`connectors.kafka_brokers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from connectors.kafka_brokers import TIMESTAMPS, Brokers, Layout
from connectors.kafka_client import CURE, SINK_CURE, canonical_name, topic_name
from core.errors import SinkError, SourceError, UsageError
from core.nearest import meant
from core.plain import plain
from core.topics import (
    DAY_MS,
    FINDINGS,
    FINDINGS_DLQ,
    FLOWS,
    FLOWS_DLQ,
    TELEMETRY,
    TELEMETRY_DLQ,
    TOPICS,
)

if TYPE_CHECKING:
    from core.batches import RecordBatch
    from core.outgoing import Outgoing
    from core.sections import KafkaSettings

KEYS = {
    TELEMETRY: "device id or sender",
    TELEMETRY_DLQ: "reason",
    FLOWS: "Community ID, else source",
    FLOWS_DLQ: "reason",
    FINDINGS: "device id or address, or *",
    FINDINGS_DLQ: "reason",
}
"""What the keys of each topic are."""


class Described(Layout, frozen=True, kw_only=True):
    """A layout, and what is in the topic.

    Attributes:
        records: Records between its first and last offsets; of a compacted topic at most.
        key: What its keys are.
    """

    records: int | None = None
    key: str = ""


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one topic that was to be created.

    Attributes:
        layout: How it is now.
        created: Whether it was not there before.
        differences: How it is otherwise than a new one would be.
    """

    layout: Layout
    created: bool
    differences: tuple[str, ...]


def ensure(
    settings: KafkaSettings,
    servers: str,
    topics: Iterable[str],
    notify: Callable[[str], None],
) -> dict[str, Layout]:
    """See to it that topics exist before a run writes to them.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        topics: Their names here.
        notify: Called with one line for each topic created, or that takes less than is written,
            and when not all leaders answer within `kafka.connect_s`.

    Returns:
        How each is laid out, by its name here.

    Raises:
        SinkError: No broker answers; or a topic is missing, and is not or cannot be created.
    """
    brokers = Brokers(settings, servers, SinkError, SINK_CURE)
    topics = list(topics)
    missing = [topic for topic in topics if not brokers.layout(topic).partitions]
    if missing and not settings.create_topics:
        names = ", ".join(topic_name(settings, topic) for topic in missing)
        raise SinkError(
            f"kafka://{servers}: no such topic: {names}; "
            f"penstock topics create kafka://{servers} makes them, or set kafka.create_topics"
        )
    made = brokers.create(missing)
    # Also those that are there: somebody else may just have made them.
    if unsettled := brokers.settle(topics):
        if not all(brokers.layout(topic).partitions for topic in topics):
            raise SinkError(f"kafka://{servers}: {unsettled}; look after the brokers")
        notify(
            f"{unsettled}: records wait for it, at most {settings.delivery_s} s "
            "(kafka.delivery_s); look after the brokers"
        )
    layouts = brokers.configured(topics)
    for topic, layout in layouts.items():
        if topic in made:
            notify(f"created topic {layout.name}: {layout.partitions} partitions")
        limit = layout.message_bytes_max
        if limit is not None and limit < settings.message_bytes_max:
            notify(
                f"topic {layout.name} takes records of at most {limit} bytes, "
                f"kafka.message_bytes_max is {settings.message_bytes_max}: "
                "what is larger becomes a dead letter"
            )
        kept_ms = -1 if layout.retention_ms is None else layout.retention_ms
        if layout.timestamps == "CreateTime" and kept_ms >= 0:
            notify(
                f"topic {layout.name} keeps records {kept_ms / DAY_MS:g} days from the time of "
                "their packets: those of an older capture are soon deleted; "
                f"set its message.timestamp.type to {TIMESTAMPS}"
            )
    return layouts


def batch_bytes(settings: KafkaSettings, layouts: Mapping[str, Layout]) -> int:
    """Return the largest batch that every topic takes, for `batch.size`.

    A batch that is too large is refused with all its records; one that is not, with the record
    alone that is larger than it.
    """
    limits = [each.message_bytes_max for each in layouts.values() if each.message_bytes_max]
    return min([settings.batch_bytes, *limits])


def message_bytes(settings: KafkaSettings, layout: Layout) -> int:
    """Return the largest message that a topic takes from us, bytes."""
    return min(settings.message_bytes_max, layout.message_bytes_max or settings.message_bytes_max)


def encoder(settings: KafkaSettings) -> Callable[[Layout, RecordBatch], Outgoing]:
    """Return what makes messages of records for a topic, the same whenever it is called.

    What that takes is imported now: those who only ask about topics need not wait for it, nor does
    the first record.

    Args:
        settings: Section `kafka` of the settings.
    """
    if settings.format == "json":
        from core.outgoing import json_messages

        return lambda _, batch: json_messages(batch, settings.headers)
    from core.arrow_out import arrow_messages
    from core.record_columns import schema

    schema()  # imports pyarrow

    def encode(layout: Layout, batch: RecordBatch) -> Outgoing:
        largest = message_bytes(settings, layout)
        return arrow_messages(batch, settings.headers, layout.partitions, largest)

    return encode


def create(settings: KafkaSettings, servers: str) -> list[Created]:
    """Create every topic of Penstock that is missing.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.

    Returns:
        What became of each.

    Raises:
        SinkError: No broker answers, or a topic cannot be created.
    """
    brokers = Brokers(settings, servers, SinkError, CURE)
    missing = [topic for topic in TOPICS if not brokers.layout(topic).partitions]
    made = brokers.create(missing)
    if unsettled := brokers.settle(missing):
        raise SinkError(f"kafka://{servers}: {unsettled}; look after the brokers")
    return [
        Created(
            layout=layout,
            created=topic in made,
            differences=tuple(_differences(settings, layout)),
        )
        for topic, layout in brokers.configured(TOPICS).items()
    ]


def describe(settings: KafkaSettings, servers: str, topic: str | None = None) -> list[Described]:
    """Describe topics: those of Penstock, or one of whatever name.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        topic: Its name here or there; `None` for all of Penstock's, also those that are missing.

    Returns:
        How each is, and what is in it.

    Raises:
        UsageError: There is no topic of that name.
        SourceError: No broker answers.
    """
    brokers = Brokers(settings, servers, SourceError, CURE)
    topic = None if topic is None else canonical_name(settings, topic)
    if topic is not None and not brokers.layout(topic).partitions:
        name = topic_name(settings, topic)
        hint = meant(name, brokers.names(), "leave it out to see Penstock's")
        raise UsageError(f"kafka://{servers}: no such topic: {plain(name)}; {hint}")
    layouts = brokers.configured(TOPICS if topic is None else [topic])
    records = brokers.records([each for each in layouts.values() if each.partitions])
    return [
        Described(
            **msgspec.structs.asdict(layout),
            records=records.get(layout.name),
            key=KEYS.get(layout.topic, ""),
        )
        for layout in layouts.values()
    ]


def _differences(settings: KafkaSettings, layout: Layout) -> Iterable[str]:
    """Yield how a topic is otherwise than a new one would be, as far as can be seen."""
    want = TOPICS[layout.topic]
    pairs = (
        ("partitions", layout.partitions, settings.partitions or want.partitions),
        ("retention.ms", layout.retention_ms, want.retention_ms),
        ("cleanup.policy", layout.cleanup, want.cleanup),
        ("message.timestamp.type", layout.timestamps, TIMESTAMPS),
        ("replication", layout.replication, settings.replication),
    )
    for name, have, new in pairs:
        if have is not None and new not in (-1, have):
            yield f"{name} {have}, not {new}"
