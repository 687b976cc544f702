"""Dead-letter topics: what is in them, by reason, and one by one.

Laws:

1. Whatever a topic holds is counted: a value that is no dead letter is `unreadable`, not an error.
2. Of a record no more is kept than is shown.

Not here: what a letter says (`core.dead_letter`); how what is in it is put back
(`connectors.put_back`) or, if it is a packet, read again (`connectors.kafka_source`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from connectors import kafka_topics
from connectors.kafka_client import canonical_name, topic_name
from connectors.kafka_reader import TopicReader
from core.dead_letter import Malformed, letter
from core.errors import UsageError
from core.plain import plain
from core.topics import TOPICS

if TYPE_CHECKING:
    from confluent_kafka import Message

    from core.sections import KafkaSettings

REASONS_MAX = 100
"""Reasons counted by name; there are few, but anybody can write to a topic."""
HEAD_BYTES = 64
"""Of a packet or a value, shown."""
TEXT_MAX = 256
"""Of a key, bytes, and of a topic or an error, characters, shown: anybody can write a letter."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What one dead-letter topic holds.

    Attributes:
        topic: Its name here.
        name: Its name there.
        records: Records in it; `None` when there is no such topic.
        reasons: Letters by reason.
        unreadable: Records that are no dead letters.
    """

    topic: str
    name: str
    records: int | None
    reasons: dict[str, int]
    unreadable: int = 0


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a dead-letter topic, as far as it is shown.

    Attributes:
        partition: Where it is.
        offset: Its place there.
        reason: Why it is there; `None` when it is no dead letter.
        ts: Time of its packet, ns since the epoch.
        source: Identity of the packet's file.
        ordinal: Number of the packet in that file.
        size: Bytes of the packet on the wire, or of the value.
        head: The first bytes of the packet, or of the value.
        topic: Where a record was meant for; `None` for a packet.
        key: The record's key.
        error: What the brokers said of it.
        is_whole: Whether all of its value is there.
    """

    partition: int | None
    offset: int | None
    reason: str | None = None
    ts: int | None = None
    source: str | None = None
    ordinal: int | None = None
    size: int
    head: bytes
    topic: str | None = None
    key: bytes | None = None
    error: str | None = None
    is_whole: bool | None = None


def dead_letter_topics() -> list[str]:
    """Return the names of the dead-letter topics, as `core.topics` has them."""
    return [name for name, topic in TOPICS.items() if topic.dead_letters == name]


def listed(settings: KafkaSettings, servers: str) -> list[Listed]:
    """Count what every dead-letter topic holds.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.

    Raises:
        SourceError: The brokers do not give it.
    """
    there = {each.topic: each for each in kafka_topics.describe(settings, servers)}
    found = []
    for topic in dead_letter_topics():
        name = topic_name(settings, topic)
        if not there[topic].partitions:
            found.append(Listed(topic=topic, name=name, records=None, reasons={}))
            continue
        reasons: Counter[str] = Counter()
        unreadable = count = 0
        for message in TopicReader(settings, servers, name).read():
            count += 1
            opened = letter(message.value() or b"")
            reason = opened.reason if opened else ""
            if opened is None or (len(reasons) >= REASONS_MAX and reason not in reasons):
                unreadable += 1
            else:
                reasons[reason] += 1
        found.append(
            Listed(
                topic=topic,
                name=name,
                records=count,
                unreadable=unreadable,
                reasons=dict(reasons.most_common()),
            )
        )
    return found


def shown(
    settings: KafkaSettings, servers: str, name: str, reason: str | None, limit: int
) -> list[Shown]:
    """Return the last records of a dead-letter topic, in the order of their time.

    Args:
        settings: Section `kafka` of the settings.
        servers: `host:port`, separated by commas.
        name: The topic, by its name here or there.
        reason: Only letters of this reason; `None` for all records.
        limit: Most records returned, at least 1.

    Raises:
        UsageError: It is no dead-letter topic.
        SourceError: The brokers do not give them.
    """
    name = topic_name(settings, checked(settings, name))
    last = limit if reason is None else None
    found = (
        (message.timestamp()[1], each.partition, each.offset, each)
        for message in TopicReader(settings, servers, name).read(last)
        if (each := _shown(message)).reason == reason or reason is None
    )
    latest = heapq.nlargest(limit, found, key=lambda timed: timed[:3])
    return [each for *_, each in reversed(latest)]


def checked(settings: KafkaSettings, name: str) -> str:
    """Return the name of a dead-letter topic as `core.topics` has it.

    Args:
        settings: Section `kafka` of the settings.
        name: Its name here or there.

    Raises:
        UsageError: It is none.
    """
    topic = canonical_name(settings, name)
    if topic not in dead_letter_topics():
        known = ", ".join(topic_name(settings, each) for each in dead_letter_topics())
        raise UsageError(f"{plain(name)}: not a dead-letter topic; these are: {known}")
    return topic


def _shown(message: Message) -> Shown:
    """Return what is shown of a record."""
    value = message.value() or b""
    opened = letter(value)
    place = Shown(
        partition=message.partition(), offset=message.offset(), size=len(value),
        head=value[:HEAD_BYTES],
    )  # fmt: skip
    if opened is None:
        return place
    about = replace(
        place, reason=opened.reason, ts=opened.ts, source=opened.source, ordinal=opened.ordinal
    )
    if isinstance(opened, Malformed):
        return replace(about, size=opened.wire_bytes, head=opened.packet[:HEAD_BYTES])
    key = opened.key_bytes
    return replace(
        about, size=opened.value_bytes, head=opened.value[:HEAD_BYTES],
        topic=opened.topic[:TEXT_MAX], key=None if key is None else key[:TEXT_MAX],
        error=opened.error[:TEXT_MAX], is_whole=opened.is_whole,
    )  # fmt: skip
