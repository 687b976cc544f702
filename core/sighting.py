"""Sightings: what a detection saw of one key in one window, before anybody decides to tell it.

Law: a sighting is a function of packets alone, and of whatever the detection learnt from those
before it. What becomes of it is decided in `core.docket`.
"""

from __future__ import annotations

import msgspec


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feature that speaks for a finding.

    Attributes:
        feature: Its name.
        value: Its value in the window.
        unit: Unit of the value.
        distance: How far it is from the mean, in standard deviations of the detector's own scale;
            of rules that learn.
        threshold: Value from which it counts; of the other rules.
    """

    feature: str
    value: float
    unit: str
    distance: float | None = None
    threshold: float | None = None


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that should not be, of one key in one window.

    Attributes:
        rule: Name of the rule; one of `core.rules.RULES`.
        title: One sentence for a person.
        key: Device id or address; `*` for all of them together.
        is_device: Whether the key is a device id.
        source: Identity of the file (`uint64`).
        ordinal: Number, in it, of the first packet concerned.
        first_ns, last_ns: Packet times, ns since the epoch.
        packets: Packets concerned.
        window_ns: When the window began, ns since the epoch.
        key_hi, key_lo: The key, as packets bear it; 0 of all of them together.
        score: The detector's score, on a scale of its own; `None` of rules that do not learn.
        tail: Share of earlier scores at least as high as this one, which is counted too; 0 … 1.
        evidence: What drove it, the strongest first.
        opens: Whether it is worth a finding; else it only keeps one going.
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
    window_ns: int
    evidence: tuple[Evidence, ...]
    key_hi: int = 0
    key_lo: int = 0
    score: float | None = None
    tail: float | None = None
    opens: bool = True

    @property
    def strength(self) -> float:
        """How strong the strongest evidence is: its distance, or how often it is its threshold."""
        strongest = 0.0
        for each in self.evidence:
            if each.distance is not None:
                strongest = max(strongest, abs(each.distance))
            elif each.threshold:
                strongest = max(strongest, each.value / each.threshold)
        return strongest
