"""The records of the whole corpus: valid JSON, valid by their schemas, and none too many or few."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from core import topics
from tests.corpus.runs import COMPOSITE, MODES, Replayed, replayed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus

Records = dict[str, list[dict[str, Any]]]


def refuse(word: str) -> None:
    """Refuse what Python's JSON takes and the standard does not: NaN and infinities."""
    raise ValueError(word)


def records(folder: Path) -> Records:
    """Parse every line of every file below a folder, by topic."""
    found: Records = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        data = path.read_bytes()
        assert data.endswith(b"\n")
        rows = [json.loads(line, parse_constant=refuse) for line in data.splitlines()]
        found.setdefault(path.parent.name, []).extend(rows)
    return found


@pytest.fixture(scope="module")
def parsed(
    corpus: Path, together: dict[str, tuple[Replayed, Path]], tmp_path_factory: Any
) -> dict[str, tuple[Replayed, Records]]:
    """Return the records of the corpus in both modes, and of the composite, which has findings."""
    found = {by: (run, records(folder)) for by, (run, folder) in together.items()}
    folder = tmp_path_factory.mktemp("composite")
    run = replayed(corpus / "captures" / COMPOSITE, by="host", sink=f"files:{folder}")
    return found | {"composite": (run, records(folder))}


@pytest.mark.parametrize("which", [*MODES, "composite"])
def test_every_record_delivered_is_a_line(
    parsed: dict[str, tuple[Replayed, Records]], which: str
) -> None:
    """The files hold as many JSON values, topic by topic, as the summary says were delivered."""
    (summary, _), found = parsed[which]
    assert {topic: len(rows) for topic, rows in found.items()} == summary.delivered


def test_every_record_is_valid_by_the_schema_of_its_topic(
    parsed: dict[str, tuple[Replayed, Records]], pytestconfig: pytest.Config
) -> None:
    """Each record of each topic is what `docs/schemas` promises consumers."""
    folder = pytestconfig.rootpath / "docs" / "schemas"
    if not folder.is_dir():
        pytest.skip("docs/schemas is missing: no schemas to hold records to")
    checked: Counter[str] = Counter()
    for _, found in parsed.values():
        for topic, rows in found.items():
            schema = json.loads((folder / f"{topic}.schema.json").read_bytes())
            Draft202012Validator.check_schema(schema)
            validator = Draft202012Validator(schema)
            for row in rows:
                problem = next(validator.iter_errors(row), None)
                assert problem is None, (topic, row, problem)
            checked[topic] += len(rows)
    assert set(checked) == {
        topics.FLOWS, topics.FLOWS_DLQ, topics.FINDINGS, topics.TELEMETRY_DLQ
    }  # fmt: skip
    assert checked[topics.FLOWS] > 10_000


@pytest.mark.parametrize("which", ["host", "composite"])
def test_the_packets_of_all_flows_are_the_packets_passed(
    parsed: dict[str, tuple[Replayed, Records]], which: str
) -> None:
    """No packet is in two flows or in none, and a flow's own numbers agree."""
    (summary, _), found = parsed[which]
    flows = found[topics.FLOWS]
    assert sum(flow["packets"] for flow in flows) == summary.passed
    for flow in flows:
        assert 0 <= flow["packets_back"] <= flow["packets"]
        assert 0 <= flow["bytes_back"] <= flow["bytes"]
        assert flow["first_ns"] <= flow["last_ns"]


@pytest.mark.parametrize("by", MODES)
def test_dead_letters_tell_reason_and_packet(
    parsed: dict[str, tuple[Replayed, Records]], by: str
) -> None:
    """Dead letters count as the summary does, and hold the bytes that were captured."""
    (summary, _), found = parsed[by]
    letters = found[topics.FLOWS_DLQ if by == "host" else topics.TELEMETRY_DLQ]
    assert Counter(letter["reason"] for letter in letters) == summary.malformed
    held = [len(b64decode(letter["packet"], validate=True)) for letter in letters]
    assert min(held) == 0
    assert max(held) > 1000


def test_ids_of_findings_are_unique(parsed: dict[str, tuple[Replayed, Records]]) -> None:
    """No two messages share an identity; those of a finding share its own, and end with it."""
    findings = parsed["composite"][1][topics.FINDINGS]
    assert len({finding["metadata"]["uid"] for finding in findings}) == len(findings) > 0
    told: dict[str, list[int]] = {}
    for finding in findings:
        told.setdefault(finding["finding_info"]["uid"], []).append(finding["activity_id"])
    assert all((each[0], each[-1]) == (1, 3) for each in told.values())
    assert all(set(each[1:-1]) <= {2} for each in told.values())
