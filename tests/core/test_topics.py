"""Topics: the page that describes them shows records that are what their schemas promise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core import topics
from core.frame import device_frames, encode_frame
from core.headers import decode_headers
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from tests.frames import PORT, packet_batch, udp_packet
from tests.schemas import SCHEMAS, validator

TOPICS = {v for k, v in vars(topics).items() if k.isupper() and isinstance(v, str)}
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "topics.md").read_text()
BLOCK = re.compile(r"^## ([\w. ]+)$(?:(?!^## ).)*?^```json\n(.*?)^```", re.DOTALL | re.MULTILINE)


def examples() -> list[tuple[str, Any]]:
    """Return topic and record of each example on the page."""
    found = []
    for title, block in BLOCK.findall(PAGE):
        for number, line in enumerate(block.splitlines()):
            dead = [TELEMETRY_DLQ, FLOWS_DLQ][number] if title == "Dead letters" else title
            found.append((dead, json.loads(line)))
    return found


@pytest.mark.parametrize(("topic", "record"), examples())
def test_examples_are_records(topic: str, record: Any) -> None:
    """Every example on the page is valid by the schema of its topic."""
    validator(topic).validate(record)


def test_every_topic_has_a_schema_a_row_and_an_example() -> None:
    """Nothing is written that is not described, and nothing described that is not written."""
    assert {TELEMETRY, TELEMETRY_DLQ, FLOWS, FLOWS_DLQ, FINDINGS} == TOPICS
    assert {path.name.removesuffix(".schema.json") for path in SCHEMAS.iterdir()} == TOPICS
    assert {topic for topic, _ in examples()} == TOPICS
    assert all(f"| `{topic}` |" in PAGE for topic in TOPICS)


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_schemas_describe_what_they_allow(topic: str) -> None:
    """Each names its topic; every field of a closed one has a description."""
    schema: Any = validator(topic).schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == topic
    if topic == FINDINGS:
        return
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())
    assert set(schema["required"]) <= set(schema["properties"])


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        (TELEMETRY, {"extra": 1}),
        (TELEMETRY, {"seq": 2**32}),
        (FLOWS, {"proto": 17}),
        (FLOWS, {"community_id": None}),
        (FLOWS, {"end": "over"}),
        (FINDINGS, {"class_uid": 2001}),
        (TELEMETRY_DLQ, {"reason": "odd"}),
        (FLOWS_DLQ, {"reason": "frame_short"}),
    ],
)
def test_schemas_refuse_what_is_no_record(topic: str, change: dict[str, Any]) -> None:
    """A wrong or unknown field is noticed."""
    record = next(r for t, r in examples() if t == topic)
    assert not validator(topic).is_valid(record | change)


def test_the_frame_on_the_page_is_one() -> None:
    """The bytes shown decode to the device, number and body the page says."""
    shown = re.search(r"```text\n(aa55[0-9a-f ]+)\n```", PAGE)
    assert shown is not None
    frame = bytes.fromhex(shown[1])
    assert frame == encode_frame("pump-7", 7, b'{"flow":1.5}')
    packets = packet_batch([udp_packet(frame)])
    reason, frames = device_frames(packets, decode_headers(packets), PORT, 100)
    assert reason.tolist() == [0]
    assert frames.seq.tolist() == [7]
