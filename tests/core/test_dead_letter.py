"""Dead letters read: both kinds, anything else, and what is put back of a record."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.dead_letter import Malformed, has_seq, letter, records, why_not
from core.outgoing import json_messages
from core.topics import FINDINGS, FINDINGS_DLQ, FLOWS, TELEMETRY, TELEMETRY_DLQ, TOPICS
from core.undeliverable import Undeliverable, undeliverable
from tests.records import ROWS, Row, records_of

PACKET: dict[str, Any] = {
    "reason": "body_not_json", "source": "00000000000000ff", "ordinal": 3, "ts": 5,
    "linktype": 1, "wire_bytes": 100, "packet": base64.b64encode(b"\0\xff").decode(),
}  # fmt: skip
READING = b'{"id":"d","seq":7,"data":[],"ts":5}'


def refused(**changes: Any) -> Undeliverable:
    """A record that was refused, as it is read again."""
    given: dict[str, Any] = {
        "topic": TELEMETRY, "key": b"d", "value": READING, "at_ns": 5, "source": 255, "ordinal": 9,
        "reason": "topic_unknown", "error": "no",
    }  # fmt: skip
    found = letter(undeliverable(**given | changes)[1])
    assert isinstance(found, Undeliverable)
    return found


def test_both_kinds_are_told_apart() -> None:
    """A packet and a record are read as what they are, with all they hold."""
    found = letter(msgspec.json.encode(PACKET))
    assert found == Malformed(
        reason="body_not_json", source="00000000000000ff", ordinal=3, ts=5, linktype=1,
        wire_bytes=100, packet=b"\0\xff",
    )  # fmt: skip
    assert refused().value == READING


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "NO"}, {"reason": "x" * 33}, {"source": "ff"}, {"source": "0x00000000000000"},
        {"ordinal": -1}, {"ordinal": 1 << 63}, {"ts": 1 << 63}, {"ts": -(1 << 63) - 1},
        {"packet": "!"}, {"more": 1}, {"wire_bytes": "1"},
    ],
)  # fmt: skip
def test_packets_out_of_bounds(changes: dict[str, Any]) -> None:
    """A field of another kind, out of bounds, or one too many makes it no letter."""
    assert letter(msgspec.json.encode(PACKET | changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "zz"}, {"ordinal": -1}, {"ordinal": 1 << 64}, {"ts": 1 << 70},
        {"value_bytes": 1}, {"value_bytes": -1}, {"reason": "body_not_json"},
    ],
)  # fmt: skip
def test_records_out_of_bounds(changes: dict[str, Any]) -> None:
    """What cannot be a record of ours is no letter."""
    whole = msgspec.to_builtins(refused())
    assert letter(msgspec.json.encode(whole)) is not None
    assert letter(msgspec.json.encode(whole | changes)) is None


@given(
    st.one_of(st.binary(), st.sampled_from([b"[" * 100_000, b'{"reason":"\xff"}', b'{"a":' * 9]))
)
def test_any_bytes_are_a_letter_or_none(value: bytes) -> None:
    """Nothing is raised, whatever the bytes are."""
    assert letter(value) is None or value.startswith(b"{")


def test_what_is_put_back_and_what_is_not() -> None:
    """Only what is whole, and meant for a topic of these dead letters."""
    assert why_not(refused(), TELEMETRY_DLQ) == ""
    assert why_not(refused(topic=TELEMETRY_DLQ, value=b"x"), TELEMETRY_DLQ) == ""
    assert why_not(refused(topic=FLOWS), TELEMETRY_DLQ) == "other_topic"
    assert why_not(refused(topic="someone.elses"), TELEMETRY_DLQ) == "other_topic"
    assert why_not(refused(value=READING + b" " * 70_000), TELEMETRY_DLQ) == "value_cut"
    for value in (
        b"",
        b"{}",
        b'{"seq":-1}',
        b'{"seq":4294967296}',
        b"\xff",
        b'{"x":' + b"[" * 9999,
    ):
        assert why_not(refused(value=value), TELEMETRY_DLQ) == "no_seq"
        assert why_not(refused(topic=FINDINGS, value=value), FINDINGS_DLQ) == ""


@given(st.sampled_from([TELEMETRY, FLOWS, FINDINGS]), st.lists(ROWS, min_size=1, max_size=5))
def test_a_record_is_put_back_as_it_was(topic: str, rows: list[Row]) -> None:
    """Key, value, time and every header are those the record was first sent with."""
    if topic == TELEMETRY:
        rows = [row._replace(value=b'{"seq":%d}' % row.seq) for row in rows]
    sent = json_messages(records_of(topic, rows), "cloudevents")
    letters = [
        refused(
            topic=topic, key=row.key, value=row.value, at_ns=row.at_ns, source=row.source,
            ordinal=row.ordinal,
        )
        for row in rows
    ]  # fmt: skip
    assert not any(why_not(each, TOPICS[topic].dead_letters) for each in letters)
    again = json_messages(records(letters), "cloudevents")
    for field in ("topic", "values", "keys", "timestamps_ms", "headers"):
        assert getattr(again, field) == getattr(sent, field)


def test_a_reading_without_a_number_is_put_back_without() -> None:
    """What has an id and no `seq` is a datagram of another format, and no frame."""
    value = b'{"id":"a","data_base64":"AA==","ts":1}'
    one = refused(value=value, key=b"a")
    assert why_not(one, TELEMETRY_DLQ) == ""
    assert not has_seq(one)
    [headers] = json_messages(records([one]), "cloudevents").headers
    assert "seq" not in headers
    assert has_seq(refused())
    assert not has_seq(refused(topic=FINDINGS))
