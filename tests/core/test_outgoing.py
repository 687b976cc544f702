"""Messages as a consumer reads them: every part parses back to what the packet said."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.arrow_out import arrow_messages
from core.batches import RecordBatch
from core.findings import encode
from core.frame import device_frames
from core.headers import decode_headers
from core.outgoing import BY_KEY, Outgoing, Which, json_messages
from core.topics import FINDINGS, FLOWS, FLOWS_DLQ, TELEMETRY, TELEMETRY_DLQ
from tests.core.test_body import DOCUMENTS, TOKENS
from tests.core.test_body import oracle as is_strict_json
from tests.core.test_findings import FOUND
from tests.core.test_netflow import CUTS, PACKETS_SEEN, Packet, frames, table
from tests.frames import PORT, packet_batch, parts, udp_packet
from tests.plain import rest_passes
from tests.records import ROWS, Row, records_of
from tests.schemas import validator

CLOUDEVENTS = ["ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time", "content-type"]
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 3_000_000)


def read_time(text: bytes) -> int:
    """Return the ns since the epoch of a time in RFC 3339, which Python reads to the µs."""
    second, point, ns = text.decode().partition(".")
    assert (len(second), point, len(ns), ns[9]) == (19, ".", 10, "Z")
    since = datetime.fromisoformat(second + "Z") - datetime.fromisoformat("1970-01-01T00:00Z")
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int(ns[:9])


def checked(out: Outgoing, batch: RecordBatch) -> Outgoing:
    """Hold the columns of JSON messages to the rows of their batch."""
    n = len(batch)
    assert out.topic == batch.topic
    assert out.batch is batch
    assert len(out) == n
    assert (out.keys, out.values) == (batch.key_list(), batch.value_list())
    assert out.timestamps_ms == [max(at_ns // 1_000_000, 1) for at_ns in batch.at_ns.tolist()]
    assert (out.partitions, out.rows, out.first_row) == ([BY_KEY] * n, [1] * n, list(range(n)))
    has_seq = batch.topic == TELEMETRY
    for row, headers in enumerate(out.headers):
        assert headers["content-type"] == b"application/json"
        assert ("seq" in headers) == has_seq
        if has_seq:
            assert headers["seq"] == int(batch.seq[row]).to_bytes(4, "big")
    return out


def messages(batch: RecordBatch) -> Outgoing:
    """Return the messages of a batch after everything but their ids was held to its rows."""
    lean = checked(json_messages(batch, "seq"), batch)
    assert all(set(headers) <= {"content-type", "seq"} for headers in lean.headers)
    out = checked(json_messages(batch, "cloudevents"), batch)
    for row, headers in enumerate(out.headers):
        assert [name for name in headers if name != "seq"] == CLOUDEVENTS
        assert headers["ce_specversion"] == b"1.0"
        assert headers["ce_type"] == batch.topic.encode()
        assert headers["ce_source"] == b"urn:penstock:capture:%016x" % int(batch.source[row])
        assert headers["ce_id"].startswith(b"%s:%d" % (batch.topic.encode(), batch.ordinal[row]))
        assert read_time(headers["ce_time"]) == batch.at_ns[row]
    return out


def identities(out: Outgoing) -> list[tuple[bytes, bytes]]:
    """Return what names each message."""
    return [(headers["ce_source"], headers["ce_id"]) for headers in out.headers]


IDS = st.text(max_size=16).map(lambda text: text.encode()[:16]) | st.binary(max_size=16)
BODIES = st.just(b"") | DOCUMENTS | TOKENS | st.sampled_from([b" 1\n", b"\t{ }\r\n", b"[1]\x00"])
FRAMES = st.lists(st.tuples(IDS, st.integers(0, 2**32 - 1), BODIES, TIMES), max_size=6)


def is_text(raw: bytes) -> bool:
    """Tell whether bytes are UTF-8."""
    return raw == raw.decode(errors="ignore").encode()


@given(FRAMES)
def test_every_reading_is_what_its_frame_said(sent: list[tuple[bytes, int, bytes, int]]) -> None:
    """From datagram to message: any id, any body that is strict JSON, byte for byte; any time."""
    packets = packet_batch([
        udp_packet(b"\xaa\x55" + id_.ljust(16, b"\0") + seq.to_bytes(4, "big") + body)
        for id_, seq, body, _ in sent
    ])  # fmt: skip
    packets.at_ns[:] = [at_ns for *_, at_ns in sent]
    _, found = device_frames(packets, decode_headers(packets), PORT, 65_000)
    out = messages(records.telemetry(found))
    names = [id_.split(b"\0")[0] for id_, *_ in sent]
    whole = [
        i for i, (_, _, body, _) in enumerate(sent)
        if is_text(names[i]) and (body == b"" or is_strict_json(body))
    ]  # fmt: skip
    assert [headers["ce_id"] for headers in out.headers] == [
        b"telemetry.readings.v1:%d" % i for i in whole
    ]
    for key, value, i in zip(out.keys, out.values, whole, strict=True):
        _, seq, body, at_ns = sent[i]
        record = json.loads(value)
        assert msgspec.json.decode(value) == record
        validator(TELEMETRY).validate(record)
        assert key == names[i] == record["id"].encode()
        assert (record["seq"], record["ts"]) == (seq, at_ns)
        data = value.split(b',"data":', 1)[1].rsplit(b',"ts":', 1)[0]
        assert data == (body or b"null")
    assert len(set(identities(out))) == len(out)


@given(PACKETS_SEEN.filter(bool), CUTS, st.integers(1, 6))
def test_no_two_flows_of_a_run_have_one_packet(
    packets: list[Packet], cuts: list[int], flows_max: int
) -> None:
    """Ended by silence, by age or for want of room, each part begins with a packet of its own."""
    flows = table(flows_max)
    ended = [flows.observe(part) for part in parts(frames(packets), cuts)]
    batches = [records.flows(each) for each in [*ended, flows.finish()]]
    begun = [
        (source, ordinal)
        for each in batches
        for source, ordinal in zip(each.source.tolist(), each.ordinal.tolist(), strict=True)
    ]
    assert len(set(begun)) == len(begun)
    named = [name for each in batches for name in identities(messages(each))]
    assert len(set(named)) == len(named)


@given(st.lists(FOUND, min_size=1, max_size=5))
def test_findings_of_one_packet_are_told_apart(found: list[Any]) -> None:
    """Records are the same exactly where their identities are."""
    batch = encode(found)
    assert batch is not None
    out = messages(batch)
    content = list(zip(batch.source.tolist(), out.keys, out.values, strict=True))
    assert len(set(identities(out))) == len(set(content))


@given(st.lists(ROWS, max_size=8), st.sampled_from([TELEMETRY, FLOWS, FINDINGS, TELEMETRY_DLQ]))
def test_any_records_are_messages(rows: list[Row], topic: str) -> None:
    """Several files in one batch, empty keys and values, no rows at all, any times."""
    batch = records_of(topic, rows)
    for column in ("values", "keys", *RecordBatch.COLUMNS):
        getattr(batch, column).flags.writeable = False
    out = messages(batch)
    assert out.keys == [row.key for row in rows]
    alone = [messages(records_of(topic, [row])) for row in rows]
    assert out.headers == [each.headers[0] for each in alone]


@pytest.mark.parametrize("topic", [TELEMETRY, FLOWS_DLQ])
def test_nothing_is_no_message(topic: str) -> None:
    """An empty batch has no messages, with all headers or few."""
    assert len(messages(records_of(topic, []))) == 0


def test_headers_of_many_files_stay_with_their_rows() -> None:
    """As many files as rows, in no order; sequence numbers with zeros at either end."""
    rng = np.random.default_rng(3)
    sources = rng.permutation(np.arange(500, dtype=np.uint64) * 7).tolist()
    rows = [Row(b"k", b"1", source=s, seq=s << 8, ordinal=i) for i, s in enumerate(sources)]
    out = messages(records_of(TELEMETRY, rows))
    assert [int(h["ce_source"][-16:], 16) for h in out.headers] == sources
    assert [int.from_bytes(h["seq"], "big") for h in out.headers] == [s << 8 for s in sources]


@pytest.mark.parametrize("which", ["cloudevents", "seq"])
def test_what_has_no_sequence_number_has_no_header_of_it(which: Which) -> None:
    """Readings of other formats have none, whatever headers are asked for."""
    batch = records_of(TELEMETRY, [Row(b"k", b"1", seq=7)])
    [having] = json_messages(batch, which).headers
    [lacking] = json_messages(replace(batch, has_seq=False), which).headers
    assert having == lacking | {"seq": b"\0\0\0\7"}
    assert "seq" not in lacking


def test_messages_without_headers_are_the_same_messages() -> None:
    """Nothing but the headers is left out, of many records in one message neither."""
    batch = records_of(TELEMETRY, [Row(b"k%d" % i, b"1", seq=i) for i in range(9)])
    for bare, whole in (
        (json_messages(batch, "none"), json_messages(batch, "seq")),
        (arrow_messages(batch, "none", 4, 10_000), arrow_messages(batch, "seq", 4, 10_000)),
    ):
        assert bare.headers == []
        assert len(whole.headers) == len(bare) == len(whole)
        for column in ("values", "keys", "timestamps_ms", "partitions", "rows", "first_row"):
            assert getattr(bare, column) == getattr(whole, column)


def test_times_before_the_epoch_are_not_now() -> None:
    """0 ms would mean "now" to librdkafka; the exact time is in a header."""
    times = [-(2**63), -1, 0, 999_999, 1_000_000, 1_999_999, 2_000_000]
    out = messages(records_of(TELEMETRY, [Row(b"k", b"1", at_ns=at_ns) for at_ns in times]))
    assert out.timestamps_ms == [1, 1, 1, 1, 1, 1, 2]


def test_plain_python_makes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
