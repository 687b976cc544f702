"""Topics: their names, and which records go where.

Law: a name ends in its version; a change that breaks a consumer is a new version, never a change
under the same name. What is rejected goes to the dead-letter topic of the topic it was meant for.
"""

from __future__ import annotations

TELEMETRY = "telemetry.readings.v1"
"""One record for each device frame delivered."""
FLOWS = "network.flows.v1"
"""One record for each network flow, in host mode."""
FINDINGS = "security.findings.v1"
"""OCSF Detection Findings."""
TELEMETRY_DLQ = TELEMETRY + ".dlq"
"""Packets that were meant to be frames and are malformed, with the reason."""
FLOWS_DLQ = FLOWS + ".dlq"
"""Packets whose headers do not decode, in host mode."""
