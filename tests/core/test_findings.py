"""Findings: OCSF records that keep their schema, and identities that depend on nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from core.findings import Evidence, Finding, encode, ocsf
from core.topics import FINDINGS
from tests.schemas import validator

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
EVIDENCE = st.builds(
    Evidence, feature=st.sampled_from(["rate", "peers"]), value=FLOATS, unit=st.just("bytes"),
    distance=FLOATS,
)  # fmt: skip
FOUND = st.builds(
    Finding,
    rule=st.sampled_from(["anomalous_key", "thundering_herd"]),
    title=st.text(min_size=1, max_size=30),
    key=st.text(max_size=16),
    is_device=st.booleans(),
    source=st.integers(0, 2**64 - 1),
    ordinal=st.integers(0, 2**62),
    first_ns=st.integers(0, 2**62),
    last_ns=st.integers(0, 2**62),
    packets=st.integers(1, 2**40),
    score=FLOATS.map(abs),
    tail=st.floats(0.0, 1.0),
    evidence=st.lists(EVIDENCE, min_size=1, max_size=3).map(tuple),
)
SCHEMA: Draft202012Validator = validator(FINDINGS)


def finding(**changes: Any) -> Finding:
    """Return a finding with some fields changed."""
    fields: dict[str, Any] = {
        "rule": "anomalous_key", "title": "t", "key": "pump", "is_device": True, "source": 1,
        "ordinal": 2, "first_ns": 3_000_000, "last_ns": 4_999_999, "packets": 5, "score": 6.0,
        "tail": 0.001, "evidence": (Evidence(feature="rate", value=1.0, unit="u", distance=9.0),),
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
            msgspec.to_builtins(e) for e in each.evidence
        ]


def test_nothing_found_is_no_batch() -> None:
    """Without findings there is nothing to encode."""
    assert encode([]) is None


@pytest.mark.parametrize(
    "changes", [{"rule": "other"}, {"key": "pump2"}, {"source": 2}, {"ordinal": 3}]
)
def test_identity_is_file_packet_rule_and_key(changes: dict[str, Any]) -> None:
    """Each of the four makes another finding; nothing else does."""
    assert finding(**changes).uid != finding().uid
    assert finding(score=1.0, title="x", last_ns=9).uid == finding().uid
    assert len(finding().uid) == 32


@pytest.mark.parametrize(
    ("distance", "severity"), [(9.9, "Low"), (-10.0, "Medium"), (29.9, "Medium"), (-30.0, "High")]
)
def test_severity_follows_the_strongest_evidence(distance: float, severity: str) -> None:
    """How far from normal decides, in either direction."""
    weak = Evidence(feature="peers", value=1.0, unit="hosts", distance=1.0)
    strong = Evidence(feature="rate", value=1.0, unit="packets/s", distance=distance)
    assert ocsf(finding(evidence=(weak, strong)))["severity"] == severity


def test_times_are_packet_times_in_milliseconds() -> None:
    """OCSF counts milliseconds; they are cut, not rounded, and never a clock's."""
    record = ocsf(finding())
    assert (record["time"], record["start_time"], record["end_time"]) == (4, 3, 4)
