"""Dead letters for tests: a topic of telemetry's with one of every kind."""

from __future__ import annotations

import base64

from confluent_kafka import Producer

from core.topics import FLOWS, TELEMETRY
from core.undeliverable import Refused, undeliverable
from tests.kafka.topics import PATIENCE_S, options

AT_NS = 1_767_225_600_005_937_259
READING = b'{"id":"dev-1","seq":7,"data":{"a":1},"ts":1767225600005937259}'
HOSTILE = b"\x1b[31m red \xc2\x9b31m \xff\n" + b"x" * 1000
"""What is no dead letter, and would paint a terminal."""


def packet(ordinal: int) -> bytes:
    """Return the dead letter of a packet that does not decode."""
    data = base64.b64encode(bytes(range(100))).decode()
    return (
        f'{{"reason":"body_not_json","source":"00000000000000ff","ordinal":{ordinal},"ts":{AT_NS},'
        f'"linktype":1,"wire_bytes":100,"packet":"{data}"}}'
    ).encode()


def record(
    ordinal: int,
    reason: Refused = "topic_unknown",
    topic: str = TELEMETRY,
    value: bytes = READING,
    error: str = "Broker: no \x1b[31m",
) -> bytes:
    """Return the dead letter of a record that brokers refused."""
    return undeliverable(topic, b"dev-1", value, AT_NS, 255, ordinal, reason, error)[1]


MIXED = [
    packet(0), record(1), record(2, "record_invalid"),
    record(3, "record_too_large", value=READING + b" " * 70_000), record(4, topic=FLOWS),
    HOSTILE, b"",
]  # fmt: skip
"""Of every kind one: a packet, two records that are whole, one that is not, one from elsewhere."""


def write(servers: str, topic: str, values: list[bytes]) -> None:
    """Write letters to one partition, each a ms after the one before."""
    producer = Producer(options(servers))
    for at, value in enumerate(values):
        producer.produce(topic, value, partition=0, timestamp=AT_NS // 1_000_000 + at)
    if left := producer.flush(PATIENCE_S):
        raise AssertionError(f"{topic}: {left} records were not taken")
