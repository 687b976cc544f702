"""Rules: what kinds of finding there are, and what each means to whoever has to act on it.

Law: a rule is one entry of `RULES`; records, their schema and the documentation name no other.

Source: MITRE ATT&CK, the matrices for enterprises (`T1046`) and for industrial control (`T0856`).
"""

from __future__ import annotations

import msgspec


class Attack(msgspec.Struct, frozen=True):
    """A technique of ATT&CK: its identity and its name."""

    uid: str
    name: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of finding.

    Attributes:
        meaning: What it says, in one sentence.
        attack: What it may be a trace of; `None` where the rule itself cannot know.
        severity: 2 low … 4 high, at the strength that it takes to be told; 0 follows the distance
            of its evidence from normal.
        confidence: How sure the rule is of itself at that strength, 0 … 100.
        learns: Whether a model decides, rather than a test with a threshold.
    """

    meaning: str
    attack: Attack | None
    severity: int
    confidence: int
    learns: bool = False


_FLOOD = Attack("T1498.001", "Network Denial of Service: Direct Network Flood")
_SCAN = Attack("T1046", "Network Service Discovery")
_SPOOF = Attack("T0856", "Spoof Reporting Message")

ANOMALOUS_KEY, THUNDERING_HERD = "anomalous_key", "thundering_herd"
FLOOD, SCAN_HORIZONTAL, SCAN_VERTICAL = "flood", "scan_horizontal", "scan_vertical"
BRUTE_FORCE, BEACONING = "brute_force", "beaconing"
SEQUENCE_REPLAY, TWO_SENDERS, DEVICE_SILENT = "sequence_replay", "two_senders", "device_silent"
SIZE_SHIFT, ENTROPY_SHIFT = "size_shift", "entropy_shift"

RULES: dict[str, Rule] = {
    ANOMALOUS_KEY: Rule(
        meaning="A window of this key is unlike what the model learnt of all keys.",
        attack=None, severity=0, confidence=50, learns=True,
    ),
    THUNDERING_HERD: Rule(
        meaning="Far more keys than ever before were met for the first time.",
        attack=Attack("T1498", "Network Denial of Service"), severity=0, confidence=60, learns=True,
    ),
    FLOOD: Rule(
        meaning="It sends many times what it used to, of a kind that waits for no answer.",
        attack=_FLOOD, severity=3, confidence=70,
    ),
    SCAN_HORIZONTAL: Rule(
        meaning="It calls on many hosts it never called before, and few of them answer.",
        attack=Attack("T1018", "Remote System Discovery"), severity=3, confidence=80,
    ),
    SCAN_VERTICAL: Rule(
        meaning="It calls on many ports it never called before, and few of them answer.",
        attack=_SCAN, severity=3, confidence=80,
    ),
    BRUTE_FORCE: Rule(
        meaning="It begins connection after connection to one login service of one host.",
        attack=Attack("T1110", "Brute Force"), severity=3, confidence=70,
    ),
    BEACONING: Rule(
        meaning="It calls one service of one host at intervals as even as those of a timer.",
        attack=Attack("T1071", "Application Layer Protocol"), severity=2, confidence=40,
    ),
    SEQUENCE_REPLAY: Rule(
        meaning="Frames of this device come again, or its sequence numbers go back and forth.",
        attack=_SPOOF, severity=3, confidence=80,
    ),
    TWO_SENDERS: Rule(
        meaning="Two addresses take turns in sending under the id of this device.",
        attack=_SPOOF, severity=3, confidence=70,
    ),
    DEVICE_SILENT: Rule(
        meaning="A device that reported regularly says nothing, while others do.",
        attack=Attack("T0804", "Block Reporting Message"), severity=2, confidence=60,
    ),
    SIZE_SHIFT: Rule(
        meaning="The bodies of this device have another size than they used to, and stay so.",
        attack=Attack("T1048", "Exfiltration Over Alternative Protocol"), severity=2, confidence=60,
    ),
    ENTROPY_SHIFT: Rule(
        meaning="The bodies of this device are more, or less, random than they used to be.",
        attack=Attack("T1573", "Encrypted Channel"), severity=2, confidence=60,
    ),
}  # fmt: skip
"""Rules by name."""
