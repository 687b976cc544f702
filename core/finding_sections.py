"""Settings of what is a finding, and of what becomes of it.

Law: that of `core.sections`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from core.section import choice, num, text

_PORT = r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])\Z"


class DetectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What else is a finding: tests with a threshold, beside the model."""

    enabled: Annotated[bool, choice("Whether to look for the kinds of finding below.")] = True
    device_flood_hz: Annotated[
        float, num("Frames of a device that may be a flood.", 1.0, 1e9, "frames/s")
    ] = 100.0
    host_flood_hz: Annotated[
        float, num("Packets of a host, but those of TCP connections, likewise.", 1.0, 1e9,
                    "packets/s")
    ] = 500.0  # fmt: skip
    flood_factor: Annotated[
        float, num("How many times what is usual for the key it must be.", 1.0, 1e6, "times")
    ] = 10.0
    scan_calls: Annotated[
        int, num("First contacts that fail, less those that succeed, of a scan.", 2, 10_000,
                  "contacts")
    ] = 20  # fmt: skip
    login_ports: Annotated[
        tuple[Annotated[str, Meta(pattern=_PORT)], ...],
        Meta(
            description="TCP ports of services that ask for a password.",
            max_length=256,
            extra={"bounds": "numbers of ports in quotes, at most 256"},
        ),
    ] = (
        "21", "22", "23", "110", "139", "143", "389", "445", "465", "587", "636", "993", "995",
        "1433", "2222", "2323", "3306", "3389", "5432", "5900", "5985", "6379", "8291",
    )  # fmt: skip
    login_tries: Annotated[
        int, num("Connections to one of them that are brute force.", 2, 10_000, "connections")
    ] = 20
    login_forgiven_s: Annotated[
        float, num("Time in which one connection is forgiven.", 0.1, 3_600.0, "s")
    ] = 10.0
    beacon_calls: Annotated[
        int, num("Even intervals between calls that are a beacon.", 5, 10_000, "intervals")
    ] = 20
    beacon_s: Annotated[float, num("Shortest such interval.", 0.1, 86_400.0, "s")] = 5.0
    beacon_jitter: Annotated[
        float, num("Largest deviation of even intervals, of their mean.", 0.001, 1.0)
    ] = 0.05
    replay_frames: Annotated[
        int, num("Frames that come again, or numbers that go back, of a replay.", 2, 10_000,
                  "frames")
    ] = 5  # fmt: skip
    sender_turns: Annotated[
        int, num("Turns of two senders of one device id.", 2, 10_000, "turns")
    ] = 5
    silent_s: Annotated[float, num("Silence of a device at least.", 1.0, 86_400.0, "s")] = 30.0
    silent_gaps: Annotated[
        float, num("Silence in usual gaps between its reports, at least.", 2.0, 1e6, "gaps")
    ] = 10.0
    shift: Annotated[
        float, num("Sum of deviations, beyond one each, that is a shift.", 4.0, 1e6, "deviations")
    ] = 30.0
    key_idle_s: Annotated[
        int, num("Silence before a key or a contact is forgotten.", 1, 86_400, "s")
    ] = 3_600
    contacts_max: Annotated[
        int, num("Contacts of hosts remembered.", 16, 4_194_304, "contacts")
    ] = 65_536


class FindingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a finding lasts, and how often it is told."""

    quiet_s: Annotated[
        int, num("Packet time without a sighting that closes a finding.", 1, 86_400, "s")
    ] = 60
    update_s: Annotated[
        int, num("Shortest packet time between two messages of one finding.", 1, 86_400, "s")
    ] = 60
    open_max: Annotated[
        int, num("Findings open at once; then the one not seen for longest is closed.", 1, 65_536,
                  "findings")
    ] = 1_024  # fmt: skip
    suppress: Annotated[
        str, text("TOML file of findings not to be told; empty = none.", "path or empty")
    ] = ""
    evidence_packets: Annotated[
        int, num("Packets kept as evidence of one finding.", 1, 1_000_000, "packets")
    ] = 1_000
    evidence_bytes: Annotated[int, num("Bytes of that file.", 1_000, 1 << 30, "bytes")] = 1 << 20
    evidence_total_bytes: Annotated[
        int, num("Bytes of all such files.", 1_000, 1 << 38, "bytes")
    ] = 1 << 30
    evidence_ring_bytes: Annotated[
        int, num("Bytes of packets kept in case a finding is about them.", 1_000, 1 << 30, "bytes")
    ] = 32 << 20
