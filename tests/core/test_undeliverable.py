"""Dead letters of refused records: valid whatever the record holds, and nothing of it is lost."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import records
from core.reasons import MALFORMED, Reason
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ, TOPICS
from core.undeliverable import (
    ERROR_CHARACTERS_MAX,
    LETTER_BYTES_MAX,
    VALUE_BYTES_MAX,
    Refused,
    opened,
    undeliverable,
)
from tests.frames import packet_batch
from tests.schemas import schema, validator

REASONS: list[Refused] = list(get_args(Refused))
KEYS = st.none() | st.binary(max_size=20) | st.text(max_size=8).map(str.encode)
ERRORS = st.text(st.characters(codec=None), max_size=40)


def letter(**changes: Any) -> tuple[bytes, bytes]:
    """Return a dead letter with some of its arguments changed."""
    given: dict[str, Any] = {
        "topic": TELEMETRY, "key": b"pump-7", "value": b'{"id":"pump-7"}', "at_ns": 1, "source": 2,
        "ordinal": 3, "reason": "record_invalid", "error": "Broker: Message is invalid",
    }  # fmt: skip
    return undeliverable(**(given | changes))


@given(
    st.sampled_from([TELEMETRY, FLOWS, FINDINGS]), KEYS, st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1),
    st.sampled_from(REASONS), ERRORS,
)  # fmt: skip
def test_a_refused_record_comes_back_from_its_letter(
    topic: str, key: bytes | None, value: bytes, at_ns: int, source: int, ordinal: int,
    reason: Refused, error: str,
) -> None:  # fmt: skip
    """Any key and value; the letter is of its schema, and two libraries read it alike."""
    name, text = undeliverable(topic, key, value, at_ns, source, ordinal, reason, error)
    assert name == reason.encode()
    record = json.loads(text)
    assert msgspec.json.decode(text) == record
    validator(TOPICS[topic].dead_letters).validate(record)
    assert b64decode(record["value"], validate=True) == value
    assert record["error"].isprintable()
    found = opened(text)
    assert found is not None
    assert found.is_whole
    assert (found.topic, found.reason, found.ts) == (topic, reason, at_ns)
    assert (found.key_bytes, found.value) == (key, value)
    assert (int(found.source, 16), found.ordinal) == (source, ordinal)
    assert ("key_base64" in record) == (key is not None and found.key is None)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (None, {"key": None}),
        (b"", {"key": ""}),
        ("é".encode(), {"key": "é"}),
        (b"\xff", {"key": None, "key_base64": "/w=="}),
    ],
)
def test_a_key_is_shown_as_text_where_it_is_one(
    key: bytes | None, shown: dict[str, str | None]
) -> None:
    """No key, an empty one, a text, and bytes that are none are four different letters."""
    record = json.loads(letter(key=key)[1])
    assert {name: record[name] for name in record if name.startswith("key")} == shown


@given(st.integers(0, 2_000), st.integers(0, 1_500))
@example(0, 0)
def test_a_letter_fits_where_its_record_did_not(size: int, letter_bytes_max: int) -> None:
    """The head of the value is as long as there is room for it, and the letter says what it was."""
    value = bytes(i & 255 for i in range(size))
    text = letter(value=value, letter_bytes_max=letter_bytes_max)[1]
    least = len(letter(value=value, letter_bytes_max=0)[1])
    assert len(text) <= max(letter_bytes_max, least)
    found = opened(text)
    assert found is not None
    assert found.value_bytes == size
    assert found.value == value[: len(found.value)]
    assert found.is_whole or len(text) > letter_bytes_max - 4 or letter_bytes_max < least


def test_of_a_long_value_the_letter_holds_the_head() -> None:
    """At most 64 KiB, and errors are cut, too: a letter is far below what a topic takes."""
    for size in (VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1, 10 * VALUE_BYTES_MAX):
        value = b"0123456789abcdef" * (size // 16 + 1)
        text = letter(value=value[:size], error="\0" * 10_000)[1]
        validator(TELEMETRY_DLQ).validate(json.loads(text))
        found = opened(text)
        assert found is not None
        assert found.value == value[:VALUE_BYTES_MAX]
        assert found.is_whole == (size == VALUE_BYTES_MAX)
        assert len(found.error) == 10 * ERROR_CHARACTERS_MAX
        assert len(text) < LETTER_BYTES_MAX // 8


@given(st.binary(max_size=60), st.sampled_from(list(MALFORMED)))
def test_malformed_packets_are_no_refused_records(packet: bytes, reason: Reason) -> None:
    """The other kind of letter is told from this one, by code and by schema."""
    batch = records.rejects(packet_batch([packet]), np.array([reason], np.uint8), TELEMETRY_DLQ)
    assert batch is not None
    (value,) = batch.value_list()
    assert opened(value) is None
    validator(TELEMETRY_DLQ).validate(json.loads(value))


@given(st.binary(max_size=60) | st.text(max_size=20).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"reason":"record_invalid","topic":"t","key":null,"source":"","ordinal":9e99}')
@example(letter()[1].replace(b'"value":"', b'"value":"?'))
@example(letter()[1][:-1] + b',"extra":1}')
@example(letter()[1].replace(b'"ordinal":3', b'"ordinal":9223372036854775808'))
@example(letter()[1].replace(b'"ts":1', b'"ts":-9223372036854775809'))
@example(letter()[1].replace(b'"source":"0', b'"source":"G'))
def test_any_bytes_are_a_letter_or_none(value: bytes) -> None:
    """Whoever wrote to the topic, what is no letter of ours is told apart, and nothing fails."""
    assert opened(value) is None


def kinds(topic: str) -> dict[str, Any]:
    """Return the schema of each kind of dead letter, without the other."""
    whole = schema(topic)
    return {name: whole | {"oneOf": [{"$ref": f"#/$defs/{name}"}]} for name in whole["$defs"]}


@pytest.mark.parametrize("topic", [TELEMETRY_DLQ, FLOWS_DLQ])
def test_schemas_tell_the_two_kinds_apart(topic: str) -> None:
    """A letter is of one kind; mixed from both it is of none; no reason is of both."""
    keeps = validator(topic)
    defined = schema(topic)["$defs"]
    reasons = [set(defined[kind]["properties"]["reason"]["enum"]) for kind in defined]
    assert set(defined) == {"malformed_packet", "refused_record"}
    assert not reasons[0] & reasons[1]
    assert set(REASONS) in reasons
    refused = json.loads(letter(topic=topic.removesuffix(".dlq"))[1])
    batch = records.rejects(packet_batch([b""]), np.array([Reason.LINK_HEADER], np.uint8), topic)
    assert batch is not None
    malformed = json.loads(batch.value_list()[0])
    for record, kind in ((refused, "refused_record"), (malformed, "malformed_packet")):
        keeps.validate(record)
        valid = [
            name
            for name, only in kinds(topic).items()
            if keeps.evolve(schema=only).is_valid(record)
        ]
        assert valid == [kind]
    for mixed in (refused | malformed, malformed | refused, refused | {"packet": ""}):
        assert not keeps.is_valid(mixed)
    assert not keeps.is_valid(refused | {"reason": malformed["reason"]})
    assert not keeps.is_valid(malformed | {"reason": refused["reason"]})


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "odd"}, {"topic": "iot"}, {"key": 1}, {"value_bytes": -1}, {"value": "*"},
        {"value": "A" * 87_388}, {"source": "2"}, {"key": "k", "key_base64": "aw=="}, {"extra": 1},
    ],
)  # fmt: skip
def test_schemas_refuse_what_is_no_letter(change: dict[str, Any]) -> None:
    """Each topic with dead letters refuses what a letter never says."""
    for topic in (TELEMETRY, FLOWS, FINDINGS):
        record = json.loads(letter(topic=topic)[1])
        validator(f"{topic}.dlq").validate(record)
        assert not validator(f"{topic}.dlq").is_valid(record | change)
