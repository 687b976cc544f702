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
from core.outgoing import json_messages
from core.topics import FINDINGS, FINDINGS_DLQ, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ, TOPICS
from tests.core.test_outgoing import read_time
from tests.frames import PORT, packet_batch, udp_packet
from tests.records import Row, records_of
from tests.schemas import SCHEMAS, schema, validator

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "topics.md").read_text()
DEAD = [TELEMETRY_DLQ, FLOWS_DLQ, TELEMETRY_DLQ, FINDINGS_DLQ]
"""The topics of the examples of dead letters."""


def lines() -> list[tuple[str, str]]:
    """Return topic and text of each record on the page."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        shown = "".join(blocks).splitlines()
        each = DEAD if title == "Dead letters" else [title] * len(shown)
        found += list(zip(each, shown, strict=True))
    return found


def examples() -> list[tuple[str, Any]]:
    """Return topic and record of each example on the page."""
    return [(topic, json.loads(line)) for topic, line in lines()]


def messages() -> list[dict[str, str]]:
    """Return the messages on the page, name by name."""
    blocks = re.findall(r"^```text\n(key .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [dict(line.split(maxsplit=1) for line in block.splitlines()) for block in blocks]


@pytest.mark.parametrize(("topic", "record"), examples())
def test_examples_are_records(topic: str, record: Any) -> None:
    """Every example on the page is valid by the schema of its topic."""
    validator(topic).validate(record)


def test_every_topic_has_a_schema_a_row_and_examples() -> None:
    """The code, the schemas and the page speak of the same topics."""
    constants = {v for k, v in vars(topics).items() if k.isupper() and isinstance(v, str)}
    assert constants == set(TOPICS)
    assert {path.name.removesuffix(".schema.json") for path in SCHEMAS.iterdir()} == set(TOPICS)
    assert {topic for topic, _ in examples()} == set(TOPICS)
    assert {message["ce_type"] for message in messages()} == set(TOPICS)
    assert all(f"| `{topic}` |" in PAGE for topic in TOPICS)


def test_topics_are_laid_out_alike() -> None:
    """Dead letters of a topic go to a topic of their own, which keeps them at least as long."""
    for name, topic in TOPICS.items():
        assert name == topic.name
        assert re.search(r"\.v[0-9]+(\.dlq)?$", name)
        assert topic.dead_letters == name.removesuffix(".dlq") + ".dlq"
        assert TOPICS[topic.dead_letters].retention_ms >= topic.retention_ms
        assert topic.partitions >= 1


@pytest.mark.parametrize("message", messages(), ids=lambda message: message["ce_type"])
def test_messages_on_the_page_are_what_is_sent(message: dict[str, str]) -> None:
    """Key, time and headers are those that the record shown above is sent with."""
    topic = message["ce_type"]
    head, _, tail = message["value"].partition("…")
    (value,) = (
        line for each, line in lines()
        if each == topic and line.startswith(head) and line.endswith(tail)
    )  # fmt: skip
    at_ns = read_time(message["ce_time"].encode())
    row = Row(
        key=message["key"].encode(),
        value=value.encode(),
        at_ns=at_ns,
        source=int(message["ce_source"][-16:], 16),
        ordinal=int(message["ce_id"].split(":")[1]),
        seq=int(message.get("seq", "0"), 16),
    )
    out = json_messages(records_of(topic, [row]), "cloudevents")
    shown = {
        name: "0x" + content.hex() if name == "seq" else content.decode()
        for name, content in out.headers[0].items()
    }
    record = json.loads(value)
    sent = {"key": message["key"]} | shown | {"value": message["value"]}
    assert list(sent.items()) == list(message.items())
    for name in {"ts", "last_ns"} & set(record):
        assert record[name] == at_ns
    if "ordinal" in record:
        assert (record["source"], record["ordinal"]) == (f"{row.source:016x}", row.ordinal)


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_schemas_describe_what_they_allow(topic: str) -> None:
    """Each names its topic; every field of a closed one has a description."""
    whole = schema(topic)
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (whole["title"], whole["$id"]) == (topic, f"urn:penstock:{topic}")
    assert whole["description"]
    if topic == FINDINGS:
        return
    kinds = whole.get("$defs", {"record": whole})
    used = [each["$ref"].removeprefix("#/$defs/") for each in whole.get("oneOf", [])]
    assert used == list(whole.get("$defs", {}))
    for kind in kinds.values():
        assert kind["description"]
        assert kind["additionalProperties"] is False
        assert all(field.get("description") for field in kind["properties"].values())
        assert set(kind["required"]) <= set(kind["properties"])


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
        (FINDINGS_DLQ, {"reason": "frame_short"}),
        (FINDINGS_DLQ, {"topic": TELEMETRY}),
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
