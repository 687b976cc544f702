"""Findings: OCSF records that keep their schema, and identities that depend on nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from core.findings import CREATE, Finding, encode, ocsf, uid_of
from core.rules import RULES
from core.sighting import Evidence, Sighting
from core.topics import FINDINGS
from tests.schemas import validator

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
EVIDENCE = st.builds(
    Evidence, feature=st.sampled_from(["rate", "peers"]), value=FLOATS, unit=st.just("bytes"),
    distance=FLOATS,
) | st.builds(
    Evidence, feature=st.just("attempts"), value=FLOATS, unit=st.just("contacts"),
    threshold=st.floats(0.5, 1e6),
)  # fmt: skip
SEEN = st.builds(
    Sighting,
    rule=st.sampled_from(sorted(RULES)),
    title=st.text(min_size=1, max_size=30),
    key=st.text(max_size=16),
    is_device=st.booleans(),
    source=st.integers(0, 2**64 - 1),
    ordinal=st.integers(0, 2**62),
    first_ns=st.integers(0, 2**62),
    last_ns=st.integers(0, 2**62),
    packets=st.integers(1, 2**40),
    window_ns=st.integers(0, 2**62),
    score=FLOATS.map(abs),
    tail=st.floats(0.0, 1.0),
    evidence=st.lists(EVIDENCE, min_size=1, max_size=3).map(tuple),
)
FOUND = st.builds(
    Finding,
    activity=st.sampled_from([1, 2, 3]),
    uid=SEEN.map(uid_of),
    number=st.integers(0, 99),
    at_ns=st.integers(0, 2**62),
    first_ns=st.integers(0, 2**62),
    last_ns=st.integers(0, 2**62),
    packets=st.integers(1, 2**40),
    sightings=st.integers(1, 2**40),
    strongest=SEEN,
    source=st.integers(0, 2**64 - 1),
    ordinal=st.integers(0, 2**62),
    ended=st.sampled_from(["", "quiet", "evicted", "input_end"]),
)
SCHEMA: Draft202012Validator = validator(FINDINGS)


def sighting(**changes: Any) -> Sighting:
    """Return a sighting with some fields changed."""
    fields: dict[str, Any] = {
        "rule": "anomalous_key", "title": "t", "key": "pump", "is_device": True, "source": 1,
        "ordinal": 2, "first_ns": 3_000_000, "last_ns": 4_999_999, "packets": 5, "score": 6.0,
        "tail": 0.001, "window_ns": 0,
        "evidence": (Evidence(feature="rate", value=1.0, unit="u", distance=9.0),),
    }  # fmt: skip
    return Sighting(**(fields | changes))


def finding(seen: Sighting, **changes: Any) -> Finding:
    """Return the finding that a sighting opens, with some fields changed."""
    fields: dict[str, Any] = {
        "activity": CREATE, "uid": uid_of(seen), "number": 0, "at_ns": seen.last_ns,
        "first_ns": seen.first_ns, "last_ns": seen.last_ns, "packets": seen.packets,
        "sightings": 1, "strongest": seen, "source": seen.source, "ordinal": seen.ordinal,
    }  # fmt: skip
    return Finding(**(fields | changes))


@given(st.lists(FOUND, min_size=1, max_size=4))
def test_every_finding_is_a_record_of_the_schema(found: list[Finding]) -> None:
    """Values parse, keep the schema, and stand beside their keys, times and positions."""
    batch = encode(found)
    assert batch is not None
    assert batch.topic == FINDINGS
    assert batch.key_list() == [f.key.encode() for f in found]
    assert batch.at_ns.tolist() == [f.last_ns for f in found]
    assert batch.source.tolist() == [f.source for f in found]
    assert batch.ordinal.tolist() == [f.ordinal for f in found]
    for value, each in zip(batch.value_list(), found, strict=True):
        record = json.loads(value)
        assert record == msgspec.json.decode(value) == json.loads(json.dumps(ocsf(each)))
        SCHEMA.validate(record)
        assert record["finding_info"]["uid"] == each.uid
        assert record["evidences"][0]["data"]["features"] == [
            msgspec.to_builtins(e) for e in each.strongest.evidence
        ]


def test_nothing_found_is_no_batch() -> None:
    """Without findings there is nothing to encode."""
    assert encode([]) is None


@pytest.mark.parametrize(
    "changes", [{"rule": "other"}, {"key": "pump2"}, {"source": 2}, {"ordinal": 3}]
)
def test_identity_is_file_packet_rule_and_key(changes: dict[str, Any]) -> None:
    """Each of the four makes another finding; nothing else does."""
    uid = uid_of(sighting())
    assert uid_of(sighting(**changes)) != uid
    assert uid_of(sighting(score=1.0, title="x", last_ns=9)) == uid
    assert len(uid) == 32


@pytest.mark.parametrize(
    ("distance", "severity"), [(9.9, "Low"), (-10.0, "Medium"), (29.9, "Medium"), (-30.0, "High")]
)
def test_severity_follows_the_strongest_evidence(distance: float, severity: str) -> None:
    """How far from normal decides, in either direction."""
    weak = Evidence(feature="peers", value=1.0, unit="hosts", distance=1.0)
    strong = Evidence(feature="rate", value=1.0, unit="packets/s", distance=distance)
    record = ocsf(finding(sighting(evidence=(weak, strong))))
    assert record["severity"] == severity
    assert f"Severity {severity}: the strongest feature lies {abs(distance)} σ" in str(
        record["risk_details"]
    )


@pytest.mark.parametrize(
    ("value", "severity", "confidence"), [(10.0, "Medium", 80), (20.0, "Medium", 85),
                                          (100.0, "High", 97)],
)  # fmt: skip
def test_severity_of_a_test_follows_how_far_its_threshold_was_passed(
    value: float, severity: str, confidence: int
) -> None:
    """At the threshold a rule has its own severity; ten times as much is one step more."""
    attempts = Evidence(feature="attempts", value=value, unit="contacts", threshold=10.0)
    record = ocsf(finding(sighting(rule="scan_vertical", evidence=(attempts,))))
    assert (record["severity"], record["confidence_score"]) == (severity, confidence)
    assert f"Confidence {confidence} of 100" in str(record["risk_details"])


def test_who_is_seen_again_and_again_is_surer_up_to_a_bound() -> None:
    """Each window adds a point to confidence, ten at most."""
    scores = [ocsf(finding(sighting(), sightings=n))["confidence_score"] for n in (1, 5, 11, 999)]
    assert scores == [50, 54, 60, 60]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_says_what_it_means_and_what_it_may_be_a_trace_of(rule: str) -> None:
    """Each names a technique of ATT&CK, but for the one that cannot know."""
    info: Any = ocsf(finding(sighting(rule=rule)))["finding_info"]
    assert info["desc"].endswith(".")
    techniques = [attack["technique"] for attack in info["attacks"]]
    assert len(techniques) == (rule != "anomalous_key")
    assert all(each["uid"].startswith("T") and each["name"] for each in techniques)


def test_messages_of_a_finding_share_its_identity_and_have_their_own() -> None:
    """What a consumer drops doubles by is of the message; what it joins them by, of the finding."""
    told: list[Any] = [ocsf(finding(sighting(), number=n)) for n in range(3)]
    assert len({each["finding_info"]["uid"] for each in told}) == 1
    assert len({each["metadata"]["uid"] for each in told}) == 3


def test_times_are_packet_times_in_milliseconds() -> None:
    """OCSF counts milliseconds; they are cut, not rounded, and never a clock's."""
    record = ocsf(finding(sighting()))
    assert (record["time"], record["start_time"], record["end_time"]) == (4, 3, 4)
