"""Arrow messages: read back, they are the records of their partition, each once and in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import record_columns
from core.arrow_out import ENVELOPE_BYTES, arrow_messages
from core.outgoing import Outgoing, json_messages
from core.topics import FINDINGS, FLOWS, TELEMETRY
from tests.core.test_partitioner import slow as murmur2
from tests.core.test_xxh64 import slow as xxh64
from tests.plain import rest_passes
from tests.records import Row, records_of

NAMES = ["time", "key", "value", "seq", "source", "ordinal"]
TOPICS = st.sampled_from([TELEMETRY, FLOWS, FINDINGS])
TEXT = st.text(max_size=20).map(str.encode)
ROWS = st.lists(
    st.builds(
        Row,
        key=TEXT | st.integers(0, 5).map(lambda i: b"dev-%d" % i),
        value=TEXT | st.integers(0, 3_000).map(lambda size: b'"' + b"x" * size + b'"'),
        at_ns=st.integers(-(2**63), 2**63 - 1),
        source=st.sampled_from([0, 2**64 - 1]),
        ordinal=st.integers(0, 2**63 - 1),
        seq=st.integers(0, 2**32 - 1),
    ),
    max_size=30,
)


def opened(value: bytes) -> list[Row]:
    """Return the rows of a stream."""
    table = pa.ipc.open_stream(value).read_all()
    table.validate(full=True)
    assert table.schema == record_columns.schema()
    assert table.column_names == NAMES
    times = table["time"].combine_chunks().view(pa.int64()).to_pylist()
    texts = [[text.encode() for text in table[name].to_pylist()] for name in ("key", "value")]
    numbers = [table[name].to_pylist() for name in ("source", "ordinal", "seq")]
    return [Row(*row) for row in zip(*texts, times, *numbers, strict=True)]


def rows_of(out: Outgoing) -> list[Row]:
    """Return the rows of the batch beside the messages, in their order."""
    batch = out.batch
    columns = (batch.at_ns, batch.source, batch.ordinal, batch.seq)
    texts = (batch.key_list(), batch.value_list())
    return [Row(*row) for row in zip(*texts, *(c.tolist() for c in columns), strict=True)]


def wire_bytes(out: Outgoing, i: int) -> int:
    """Return the bytes of a message, with what Kafka needs to frame it, at least."""
    return len(out.values[i]) + sum(len(k) + len(v) + 2 for k, v in out.headers[i].items()) + 90


@given(ROWS, TOPICS, st.integers(1, 12), st.sampled_from([1_000, 3_000, 5_000, 1_000_000]))
def test_every_record_is_in_one_message_of_its_partition(
    rows: list[Row], topic: str, partitions: int, bytes_max: int
) -> None:
    """The order within a partition is that of the batch, and no message is too large."""
    batch = records_of(topic, rows)
    batch.values.flags.writeable = batch.keys.flags.writeable = False
    out = arrow_messages(batch, "cloudevents", partitions, bytes_max)
    found: dict[int, list[Row]] = {}
    for i, (value, partition) in enumerate(zip(out.values, out.partitions, strict=True)):
        inside = opened(value)
        assert {(murmur2(row.key) & 0x7FFFFFFF) % partitions for row in inside} == {partition}
        assert len(inside) == out.rows[i] > 0
        first = out.first_row[i]
        assert rows_of(out)[first : first + len(inside)] == inside
        assert len(inside) == 1 or wire_bytes(out, i) <= bytes_max
        found.setdefault(partition, []).extend(inside)
    wanted: dict[int, list[Row]] = {}
    for row in rows:
        wanted.setdefault((murmur2(row.key) & 0x7FFFFFFF) % partitions, []).append(row)
    assert found == wanted
    assert out.partitions == sorted(out.partitions)


@given(ROWS, TOPICS, st.integers(1, 5), st.sampled_from([3_000, 1_000_000]))
def test_messages_say_what_is_in_them(
    rows: list[Row], topic: str, partitions: int, bytes_max: int
) -> None:
    """How many records, from which packet to which, when, and what a consumer needs to read it."""
    out = arrow_messages(records_of(topic, rows), "cloudevents", partitions, bytes_max)
    lean = arrow_messages(records_of(topic, rows), "seq", partitions, bytes_max)
    assert (lean.values, lean.timestamps_ms) == (out.values, out.timestamps_ms)
    assert out.keys == [None] * len(out)
    for i, value in enumerate(out.values):
        inside = opened(value)
        first, last = inside[0], inside[-1]
        # What is said of the first record is what its own message would say.
        alone = json_messages(records_of(topic, [first]), "cloudevents").headers[0]
        assert out.headers[i] == {
            "ce_specversion": b"1.0",
            "ce_type": topic.encode(),
            "ce_source": alone["ce_source"],
            "ce_id": b"%s:%d-%d:%016x"
            % (topic.encode(), first.ordinal, last.ordinal, xxh64(value, 0)),
            "ce_time": alone["ce_time"],
            "content-type": b"application/vnd.apache.arrow.stream",
            "rows": b"%d" % len(inside),
        }
        assert lean.headers[i] == {name: out.headers[i][name] for name in ("content-type", "rows")}
        assert out.timestamps_ms[i] == max(last.at_ns // 1_000_000, 1)


@given(ROWS.filter(bool))
def test_a_stream_is_what_arrows_own_writer_writes(rows: list[Row]) -> None:
    """Byte for byte: schema, one record batch, end of stream."""
    batch = records_of(TELEMETRY, rows)
    out = arrow_messages(batch, "seq", 1, 1_000_000)
    assert out.batch is batch
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_columns.schema()) as stream:
        stream.write_batch(record_columns.columns(batch))
    assert out.values == [sink.getvalue().to_pybytes()]


@pytest.mark.parametrize("partitions", [1, 8])
def test_nothing_is_no_message(partitions: int) -> None:
    """An empty batch has no messages."""
    out = arrow_messages(records_of(FLOWS, []), "cloudevents", partitions, 1_000_000)
    assert [len(column) for column in (out.values, out.headers, out.rows, out.partitions)] == [
        0
    ] * 4


def test_a_record_that_is_too_large_goes_alone() -> None:
    """Its neighbours are delivered: only it is in a message that will be refused."""
    values = [b"1", b"2", b'"' + b"x" * 10_000 + b'"', b"3", b"4"]
    rows = [Row(b"k", value, ordinal=i) for i, value in enumerate(values)]
    out = arrow_messages(records_of(TELEMETRY, rows), "seq", 1, 5_000)
    assert out.rows == [2, 1, 2]
    assert out.first_row == [0, 2, 3]
    assert [wire_bytes(out, i) <= 5_000 for i in range(3)] == [True, False, True]


@pytest.mark.parametrize("bytes_max", [10_000, 100_000])
def test_messages_are_filled(bytes_max: int) -> None:
    """A message ends where one more record would take it beyond its room, and not before."""
    rows = [Row(b"dev-%d" % (i % 50), b"x" * (i % 100), ordinal=i) for i in range(5_000)]
    out = arrow_messages(records_of(TELEMETRY, rows), "cloudevents", 3, bytes_max)
    sizes = [36 + len(row.key) + len(row.value) for row in rows_of(out)]
    room = bytes_max - ENVELOPE_BYTES
    ends = [first + count for first, count in zip(out.first_row, out.rows, strict=True)]
    for i, (first, end) in enumerate(zip(out.first_row, ends, strict=True)):
        assert sum(sizes[first:end]) <= room
        if out.partitions[i : i + 2] == [out.partitions[i]] * 2:
            assert sum(sizes[first : end + 1]) > room
    assert len(out) > 3


def test_the_envelope_holds_whatever_a_message_needs() -> None:
    """The longest topic, numbers and padding: what is not rows never exceeds its allowance."""
    for size in range(20):
        many: list[Any] = [
            Row(b"k" * size, b"v" * (size // 2), -1, 2**64 - 1, 2**63 - 1, 2**32 - 1)
            for _ in range(1 + size)
        ]
        out = arrow_messages(records_of(FINDINGS + ".dlq", many), "cloudevents", 1, 1_000_000)
        texts = sum(len(row.key) + len(row.value) for row in many)
        assert np.all(wire_bytes(out, 0) - texts - 36 * len(many) <= ENVELOPE_BYTES)


def test_plain_python_makes_the_same() -> None:
    """The rest of this file passes with compilation switched off."""
    rest_passes(__file__)
