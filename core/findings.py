"""Findings: what a model flagged, as OCSF Detection Finding records.

Laws:

1. Identities are hashes of the file, the packet and the rule a finding rests on; times are packet
   times. The same capture gives the same findings, byte for byte.
2. A finding names the features that drove it, with their distance from what is normal; a bare
   number convinces nobody.

Source: OCSF 1.5, class Detection Finding (`class_uid` 2004).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from core.batches import RecordBatch
from core.topics import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "1.5.0"
"""Of OCSF."""
PRODUCT = {"name": "Penstock", "vendor_name": "Penstock"}
_SEVERITIES = ((0.0, 2, "Low"), (10.0, 3, "Medium"), (30.0, 4, "High"))
_MS = 1_000_000


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that speaks for a finding.

    Attributes:
        feature: Its name.
        value: Its value in the window.
        unit: Unit of the value.
        distance: How far it is from the mean, in standard deviations of the detector's own scale.
    """

    feature: str
    value: float
    unit: str
    distance: float


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that should not be, for one key.

    Attributes:
        rule: Name of the rule.
        title: One sentence for a person.
        key: Device id or address; `*` for all of them together.
        is_device: Whether the key is a device id.
        source: Identity of the file (`uint64`).
        ordinal: Number, in it, of the first packet concerned.
        first_ns, last_ns: Packet times, ns since the epoch.
        packets: Packets concerned.
        score: The detector's score; its scale is the detector's own.
        tail: Share of earlier scores at least as high as this one, which is counted too; 0 … 1.
        evidence: What drove it, the strongest first.
    """

    rule: str
    title: str
    key: str
    is_device: bool
    source: int
    ordinal: int
    first_ns: int
    last_ns: int
    packets: int
    score: float
    tail: float
    evidence: tuple[Evidence, ...]

    @property
    def uid(self) -> str:
        """Identity: 32 hexadecimal digits, derived from file, packet, rule and key."""
        text = f"{self.source:016x}/{self.ordinal}/{self.rule}/{self.key}"
        return blake2b(text.encode(), digest_size=16).hexdigest()


def encode(findings: Sequence[Finding]) -> RecordBatch | None:
    """Encode findings, keyed by what they are about.

    Args:
        findings: In the order in which they were found.

    Returns:
        One record for each finding, or `None` when there is none.
    """
    if not findings:
        return None
    values = [msgspec.json.encode(ocsf(f)) for f in findings]
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


def ocsf(finding: Finding) -> dict[str, object]:
    """Return a finding as the fields of an OCSF Detection Finding."""
    strongest = max((abs(e.distance) for e in finding.evidence), default=0.0)
    severity_id, severity = next(
        (n, name) for least, n, name in reversed(_SEVERITIES) if strongest >= least
    )
    return {
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": 1,
        "activity_name": "Create",
        "type_uid": 200401,
        "status_id": 1,
        "status": "New",
        "severity_id": severity_id,
        "severity": severity,
        "time": finding.last_ns // _MS,
        "start_time": finding.first_ns // _MS,
        "end_time": finding.last_ns // _MS,
        "count": finding.packets,
        "message": finding.title,
        "metadata": {"version": VERSION, "product": PRODUCT},
        "finding_info": {
            "uid": finding.uid,
            "title": finding.title,
            "types": [finding.rule],
            "first_seen_time": finding.first_ns // _MS,
            "last_seen_time": finding.last_ns // _MS,
            "analytic": {"type": "Learning (ML/DL)", "type_id": 4, "name": finding.rule},
        },
        "resources": [{"type": "Device" if finding.is_device else "Host", "name": finding.key}],
        "evidences": [{"data": {"features": [msgspec.to_builtins(e) for e in finding.evidence]}}],
        "unmapped": {
            "score": finding.score,
            "tail_probability": finding.tail,
            "source": f"{finding.source:016x}",
            "ordinal": finding.ordinal,
        },
    }
