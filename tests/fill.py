"""Topics filled with records, for the tests of what reads them.

Records have the times of captures, which may lie years back: topics made here keep them for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from core.arrow_out import arrow_messages
from core.batches import RecordBatch
from core.outgoing import Outgoing, Which, json_messages
from tests.kafka.topics import PATIENCE_S, create, options

GLANCE_S = 0.05
MESSAGE_BYTES_MAX = 20_000
"""Of Arrow messages; small, so that there are several."""


def made(servers: str, name: str, partitions: int = 1, **settings: str) -> str:
    """Make a topic that keeps its records; return its name."""
    create(servers, name, partitions=partitions, **({"retention_ms": "-1"} | settings))
    admin = AdminClient(options(servers))
    for _ in range(int(PATIENCE_S / GLANCE_S)):
        # Made is not yet known to all: a broker tells of it a little later.
        found = admin.list_topics(timeout=PATIENCE_S).topics.get(name)
        if found and all(part.leader >= 0 for part in found.partitions.values()):
            return name
        admin.poll(GLANCE_S)
    raise AssertionError(f"{name}: was made, and is not there")


def send(servers: str, topic: str, messages: Outgoing, **more: Any) -> None:
    """Send messages to a topic, whatever topic they are meant for, in batches of a few."""
    # Idempotent, because batches that are sent again would else change places.
    as_sink = {"partitioner": "murmur2_random", "enable.idempotence": True}
    producer = Producer({**options(servers), **as_sink, "batch.num.messages": 50, **more})
    columns = (
        messages.values, messages.keys, messages.timestamps_ms, messages.headers,
        messages.partitions,
    )  # fmt: skip
    for value, key, timestamp, headers, partition in zip(*columns, strict=True):
        producer.produce(
            topic, value, key, partition=partition, timestamp=timestamp, headers=dict(headers)
        )
        producer.poll(0)
    if left := producer.flush(PATIENCE_S):
        raise AssertionError(f"{topic}: {left} records were not taken")


def fill(
    servers: str, topic: str, batches: Iterable[RecordBatch], *, partitions: int = 1,
    headers: Which = "cloudevents", arrow: bool = False,
) -> None:  # fmt: skip
    """Send records as the sink does, one by one or as Arrow streams."""
    for batch in batches:
        out = (
            arrow_messages(batch, headers, partitions, MESSAGE_BYTES_MAX)
            if arrow else json_messages(batch, headers)
        )  # fmt: skip
        send(servers, topic, out)
