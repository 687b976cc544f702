"""Findings: what is told of a case, as OCSF Detection Finding records.

Laws:

1. The identity of a finding is a hash of the file, the packet and the rule that it began with, and
   stays the same as long as it is open; times are packet times. The same capture gives the same
   findings, byte for byte.
2. A finding names the features that drove it, with their distance from what is normal or the
   threshold they passed; a bare number convinces nobody.
3. Severity says how much of it there is, confidence how sure the rule is; both in words, too.

Not here: when something is told (`core.docket`).

Source: OCSF 1.5, class Detection Finding (`class_uid` 2004).
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from core.batches import RecordBatch
from core.rules import RULES, Rule
from core.sighting import Sighting
from core.topics import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "1.5.0"
"""Of OCSF."""
PRODUCT = {"name": "Penstock", "vendor_name": "Penstock"}

CREATE, UPDATE, CLOSE = 1, 2, 3
ACTIVITIES = {CREATE: "Create", UPDATE: "Update", CLOSE: "Close"}
_STATUS = {CREATE: (1, "New"), UPDATE: (2, "In Progress"), CLOSE: (4, "Resolved")}
_SEVERITY = {2: "Low", 3: "Medium", 4: "High"}
_CONFIDENCE = ((0, 1, "Low"), (50, 2, "Medium"), (80, 3, "High"))

DISTANCES = ((30.0, 4, 85), (10.0, 3, 70), (0.0, 2, 50))
"""Of rules that learn: from so many standard deviations on, severity and confidence."""
STRONG = 10.0
"""Of the others: so many times the threshold make a finding one step more severe."""
CONFIDENCE_MAX = 99
_MS = 1_000_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One message about a finding.

    Attributes:
        activity: `CREATE`, `UPDATE` or `CLOSE`.
        uid: Identity of the finding.
        number: Which message about it this is, from 0.
        at_ns: When it is told, in packet time, ns since the epoch.
        first_ns, last_ns: Times of the first and last packet concerned so far.
        packets: Packets concerned so far.
        sightings: Windows in which it was seen so far.
        strongest: The sighting with the strongest evidence so far.
        source, ordinal: File and number of the packet that the finding began with.
        ended: Why it was closed; empty while it is not.
    """

    activity: int
    uid: str
    number: int
    at_ns: int
    first_ns: int
    last_ns: int
    packets: int
    sightings: int
    strongest: Sighting
    source: int
    ordinal: int
    ended: str = ""

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.strongest.rule

    @property
    def key(self) -> str:
        """What it is about."""
        return self.strongest.key


def uid_of(sighting: Sighting) -> str:
    """Return the identity of the finding that a sighting opens: 32 hexadecimal digits."""
    text = f"{sighting.source:016x}/{sighting.ordinal}/{sighting.rule}/{sighting.key}"
    return _digest(text)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def encode(findings: Sequence[Finding], files: frozenset[str] = frozenset()) -> RecordBatch | None:
    """Encode findings, keyed by what they are about.

    Args:
        findings: In the order in which they are told.
        files: Identities of those whose packets are in a file of that name.

    Returns:
        One record for each finding, or `None` when there is none.
    """
    if not findings:
        return None
    values = [msgspec.json.encode(ocsf(f, has_file=f.uid in files)) for f in findings]
    keys = [f.key.encode() for f in findings]
    return RecordBatch(
        topic=FINDINGS,
        values=np.frombuffer(bytearray(b"".join(values)), np.uint8),
        value_end=np.cumsum([len(v) for v in values]).astype(np.int64),
        keys=np.frombuffer(bytearray(b"".join(keys)), np.uint8),
        key_end=np.cumsum([len(k) for k in keys]).astype(np.int64),
        at_ns=np.array([f.last_ns for f in findings], np.int64),
        source=np.array([f.source for f in findings], np.uint64),
        ordinal=np.array([f.ordinal for f in findings], np.int64),
        seq=np.zeros(len(findings), np.uint32),
    )


def _judged(rule: Rule, strength: float, sightings: int) -> tuple[int, int, str]:
    """Return severity, confidence, and why, in words."""
    if not rule.severity:
        least, severity, confidence = next(d for d in DISTANCES if strength >= d[0])
        measure = f"the strongest feature lies {strength:.1f} σ from normal ({least:g} or more)"
        confidence = max(confidence, rule.confidence)
    else:
        is_strong = strength >= STRONG
        severity = rule.severity + (is_strong and rule.severity < 4)
        measure = f"the strongest feature is {strength:.1f} times its threshold"
        measure += f" ({STRONG:g} or more)" if is_strong else ""
        confidence = rule.confidence + round(5.0 * math.log2(max(strength, 1.0)))
    # Who is seen again and again is no accident; ten more points are the most that can do.
    confidence = min(confidence + min(sightings - 1, 10), CONFIDENCE_MAX)
    why = (
        f"Severity {_SEVERITY[severity]}: {measure}. Confidence {confidence} of 100: "
        f"{'a model' if rule.learns else 'a test'} seen to hold in {sightings} "
        f"window{'s' if sightings > 1 else ''}."
    )
    return severity, confidence, why


def ocsf(finding: Finding, *, has_file: bool = False) -> dict[str, object]:
    """Return a finding as the fields of an OCSF Detection Finding.

    Args:
        finding: The finding.
        has_file: Whether its packets are in a file (`connectors.evidence`).
    """
    seen, rule = finding.strongest, RULES[finding.rule]
    severity, confidence, why = _judged(rule, seen.strength, finding.sightings)
    _, confidence_id, confidence_name = next(c for c in reversed(_CONFIDENCE) if confidence >= c[0])
    status_id, status = _STATUS[finding.activity]
    attacks = []
    if rule.attack is not None:
        attacks = [{"technique": {"uid": rule.attack.uid, "name": rule.attack.name}}]
    unmapped: dict[str, object] = {"sightings": finding.sightings}
    if seen.score is not None:
        unmapped |= {"score": seen.score, "tail_probability": seen.tail}
    unmapped |= {"source": f"{finding.source:016x}", "ordinal": finding.ordinal}
    evidence: dict[str, object] = {
        "data": {"features": [msgspec.to_builtins(e) for e in seen.evidence]}
    }
    if has_file:
        evidence["file"] = {"name": f"{finding.uid}.pcap", "type": "Regular File", "type_id": 1}
    kind = ("Learning (ML/DL)", 4) if rule.learns else ("Rule", 1)
    return {
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": finding.activity,
        "activity_name": ACTIVITIES[finding.activity],
        "type_uid": 200400 + finding.activity,
        "status_id": status_id,
        "status": status,
        **({"status_detail": finding.ended} if finding.ended else {}),
        "severity_id": severity,
        "severity": _SEVERITY[severity],
        "confidence_id": confidence_id,
        "confidence": confidence_name,
        "confidence_score": confidence,
        "risk_details": why,
        "time": finding.at_ns // _MS,
        "start_time": finding.first_ns // _MS,
        "end_time": finding.last_ns // _MS,
        "count": finding.packets,
        "message": seen.title,
        "metadata": {
            "version": VERSION,
            "product": PRODUCT,
            "uid": _digest(f"{finding.uid}/{finding.number}"),
            "sequence": finding.number,
        },
        "finding_info": {
            "uid": finding.uid,
            "title": seen.title,
            "desc": rule.meaning,
            "types": [finding.rule],
            "first_seen_time": finding.first_ns // _MS,
            "last_seen_time": finding.last_ns // _MS,
            "analytic": {"type": kind[0], "type_id": kind[1], "name": finding.rule},
            "attacks": attacks,
        },
        "resources": [{"type": "Device" if seen.is_device else "Host", "name": finding.key}],
        "evidences": [evidence],
        "unmapped": unmapped,
    }
