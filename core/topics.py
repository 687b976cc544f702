"""Topics: their names, and which records go where.

Law: a name ends in its version; a change that breaks a consumer is a new version, never a change
under the same name. What is rejected goes to the dead-letter topic of the topic it was meant for.
"""

from __future__ import annotations

import msgspec

TELEMETRY = "telemetry.readings.v1"
"""One record for each device frame, or datagram of another format, delivered."""
FLOWS = "network.flows.v1"
"""One record for each network flow, in host mode."""
FINDINGS = "security.findings.v1"
"""OCSF Detection Findings."""
FINDINGS_DLQ = FINDINGS + ".dlq"
"""Findings that the brokers refused, with the reason."""
TELEMETRY_DLQ = TELEMETRY + ".dlq"
"""Packets that were meant to be frames and are malformed, with the reason."""
FLOWS_DLQ = FLOWS + ".dlq"
"""Packets whose headers do not decode, in host mode."""


DAY_MS = 86_400_000


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """How a topic is laid out when it is created.

    Attributes:
        name: Its name, version included.
        partitions: Its partitions; records of one key are in one of them.
        retention_ms: How long records are kept, ms.
        cleanup: `delete` old records, or `compact` to the last record of each key.
        dead_letters: Where records of it go that the brokers refuse; its own name when it is a
            dead-letter topic.
        one_per_packet: Whether at most one record of it can ever speak of one packet, so that the
            packet names the record. A flow is named by the packet that begins it, but how much of
            it is in one record depends on settings, and on where a run was stopped.
    """

    name: str
    partitions: int
    retention_ms: int
    cleanup: str = "delete"
    dead_letters: str
    one_per_packet: bool = True


TOPICS = {
    topic.name: topic
    for topic in (
        Topic(name=TELEMETRY, partitions=8, retention_ms=7 * DAY_MS, dead_letters=TELEMETRY_DLQ),
        Topic(name=TELEMETRY_DLQ, partitions=2, retention_ms=30 * DAY_MS,
              dead_letters=TELEMETRY_DLQ, one_per_packet=False),
        Topic(name=FLOWS, partitions=8, retention_ms=7 * DAY_MS, dead_letters=FLOWS_DLQ,
              one_per_packet=False),
        Topic(name=FLOWS_DLQ, partitions=2, retention_ms=30 * DAY_MS, dead_letters=FLOWS_DLQ,
              one_per_packet=False),
        Topic(name=FINDINGS, partitions=2, retention_ms=90 * DAY_MS, dead_letters=FINDINGS_DLQ,
              one_per_packet=False),
        Topic(name=FINDINGS_DLQ, partitions=2, retention_ms=90 * DAY_MS,
              dead_letters=FINDINGS_DLQ, one_per_packet=False),
    )
}  # fmt: skip
"""Every topic Penstock writes, by name."""
