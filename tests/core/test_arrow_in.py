"""Arrow messages read: what was written comes back; hostile bytes are refused, without harm."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import record_columns
from core.arrow_in import CONTINUATION, ArrowRows, arrow_rows
from core.arrow_out import arrow_messages
from core.topics import TELEMETRY
from tests.records import Row, records_of

TEXT = st.text(max_size=30).map(str.encode)
ROWS = st.lists(
    st.builds(
        Row, key=TEXT, value=TEXT, at_ns=st.integers(-(2**63), 2**63 - 1),
        source=st.integers(0, 2**64 - 1), ordinal=st.integers(0, 2**63 - 1),
        seq=st.integers(0, 2**32 - 1),
    ),
    max_size=12,
)  # fmt: skip


def said(rows: ArrowRows) -> list[Row]:
    """Return what rows say, but for keys and sequence numbers."""
    ends = np.cumsum(rows.lengths).tolist()
    whole = rows.values.tobytes()
    return [
        Row(b"", whole[end - size : end], at_ns, source, ordinal)
        for end, size, at_ns, source, ordinal in zip(
            ends, rows.lengths.tolist(), rows.at_ns.tolist(), rows.source.tolist(),
            rows.ordinal.tolist(), strict=True,
        )
    ]  # fmt: skip


def batch(rows: list[Row]) -> pa.RecordBatch:
    return record_columns.columns(records_of(TELEMETRY, rows))


def stream(*batches: pa.RecordBatch, schema: pa.Schema | None = None, **options: Any) -> bytes:
    """Write batches as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, schema or record_columns.schema(), options=pa.ipc.IpcWriteOptions(**options)
    ) as writer:
        for each in batches:
            writer.write_batch(each)
    found: bytes = sink.getvalue().to_pybytes()
    return found


@given(ROWS, st.integers(1, 3))
def test_what_was_written_comes_back(rows: list[Row], partitions: int) -> None:
    """Every record of every message that the sink would send, in the order of its partition."""
    out = arrow_messages(records_of(TELEMETRY, rows), "seq", partitions, 4_000)
    found = []
    for value in map(bytes, out.values):
        assert value.startswith(CONTINUATION)
        read = arrow_rows(value)
        assert read is not None
        found += said(read)
    assert sorted(found) == sorted(row._replace(key=b"", seq=0) for row in rows)


@given(st.lists(ROWS, max_size=3))
def test_streams_of_others_are_read(parts: list[list[Row]]) -> None:
    """A stream of several batches, and one of none, holds the records of all of them."""
    read = arrow_rows(stream(*map(batch, parts)))
    assert read is not None
    assert said(read) == [row._replace(key=b"", seq=0) for part in parts for row in part]


SOME = [Row(b"k%d" % i, b'{"v":%d}' % i, i, i, i, i) for i in range(50)]
MESSAGE = stream(batch(SOME))
NULLABLE = pa.schema([field.with_nullable(True) for field in record_columns.schema()])


def with_column(number: int, column: pa.Array) -> bytes:
    """Write records of which one column is another."""
    columns = batch(SOME).columns
    columns[number] = column
    schema = NULLABLE.set(number, pa.field(NULLABLE.names[number], column.type))
    return stream(pa.RecordBatch.from_arrays(columns, schema=schema), schema=schema)


def aliased() -> bytes:
    """Write a stream whose values are the very bytes of its keys, so that a few say a lot."""
    whole = bytearray(stream(batch([Row(b"x" * 4000, b"")])))
    # Buffers are told as pairs of offset and length: of the key its offsets and its bytes, then of
    # the value its validity, its offsets and its bytes.
    (key,) = [at for at in range(0, len(whole) - 16, 8)
              if struct.unpack_from("<q", whole, at + 8)[0] == 4000]  # fmt: skip
    whole[key + 32 : key + 64] = whole[key - 16 : key + 16]
    read = pa.ipc.open_stream(bytes(whole)).read_all()
    read.validate(full=True)
    assert len(read["value"][0].as_py()) == 4000
    return bytes(whole)


def many(count: int) -> bytes:
    """Write a stream that says, wherever it counts its rows, that there are so many."""
    whole = bytearray(MESSAGE)
    places = [at for at in range(0, len(whole) - 8, 4)
              if struct.unpack_from("<q", whole, at)[0] == len(SOME)]  # fmt: skip
    assert len(places) == 1 + len(record_columns.schema())  # of the batch, and of each column
    for at in places:
        struct.pack_into("<q", whole, at, count)
    return bytes(whole)


def compressed_as_before() -> bytes:
    """Write a compressed stream that says so the way streams did before Arrow 1.0."""
    options = pa.ipc.IpcWriteOptions(compression="zstd", metadata_version=pa.MetadataVersion.V4)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_columns.schema(), options=options) as writer:
        writer.write_batch(batch(SOME), custom_metadata={"ARROW:experimental_compression": "zstd"})
    whole = bytearray(sink.getvalue().to_pybytes())
    begin = 8 + struct.unpack_from("<i", whole, 4)[0] + 8  # of the metadata of the batch
    (message,) = struct.unpack_from("<I", whole, begin)
    header = begin + message - struct.unpack_from("<i", whole, begin + message)[0] + 4 + 2 * 2
    header = begin + message + struct.unpack_from("<H", whole, header)[0]
    table = header + struct.unpack_from("<I", whole, header)[0]
    fields = table - struct.unpack_from("<i", whole, table)[0] + 4
    struct.pack_into("<H", whole, fields + 2 * 3, 0)  # leaves out the field of today
    read = pa.ipc.open_stream(bytes(whole)).read_all()
    assert read["value"].to_pylist() == [row.value.decode() for row in SOME]
    return bytes(whole)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a beginning": lambda: CONTINUATION,
    "an end only": lambda: CONTINUATION + b"\0\0\0\0",
    "half": lambda: MESSAGE[: len(MESSAGE) // 2],
    "no batches' end": lambda: MESSAGE[:-20],
    "zstd": lambda: stream(batch(SOME), compression="zstd"),
    "lz4": lambda: stream(batch(SOME), compression="lz4"),
    "a null": lambda: with_column(2, pa.array([None] * 50, pa.string())),
    "one null": lambda: with_column(5, pa.array([*range(49), None], pa.int64())),
    "other names": lambda: stream(schema=pa.schema([("a", pa.int64())])),
    "fewer columns": lambda: stream(schema=pa.schema(list(record_columns.schema())[:5])),
    "other types": lambda: with_column(3, pa.array(range(50), pa.int64())),
    "dictionaries": lambda: with_column(2, pa.array(["a", "b"] * 25).dictionary_encode()),
    "large texts": lambda: with_column(2, pa.array(["a"] * 50, pa.large_string())),
    "views": lambda: with_column(2, pa.array(["a" * 40] * 50, pa.string_view())),
    "no UTF-8": lambda: MESSAGE.replace(b'{"v":7}', b'{"\xff":7}'),
    "a file": lambda: b"ARROW1\0\0" + MESSAGE,
    "a huge length": lambda: CONTINUATION + struct.pack("<i", 2**31 - 1) + MESSAGE[8:],
    "a negative length": lambda: CONTINUATION + struct.pack("<i", -8) + MESSAGE[8:],
    "shared bytes": aliased,
    "more rows than offsets": lambda: many(1 << 20),
    "rows beyond all memory": lambda: many(1 << 60),
    "compression of old": compressed_as_before,
    "a negative number": lambda: with_column(5, pa.array([*range(49), -1], pa.int64())),
}


def test_nullable_columns_without_nulls_are_read() -> None:
    """Writers that call every column nullable are read as long as nothing is null."""
    read = arrow_rows(stream(batch(SOME).cast(NULLABLE), schema=NULLABLE))
    assert read is not None
    assert said(read) == [row._replace(key=b"", seq=0) for row in SOME]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_stream_of_records_is_refused(name: str) -> None:
    """Other schemas, compression, nulls, damage and tricks are refused whole."""
    assert arrow_rows(MESSAGE) is not None
    assert arrow_rows(HOSTILE[name]()) is None


@given(st.lists(st.tuples(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255)), max_size=4),
       st.integers(0, len(MESSAGE)))  # fmt: skip
def test_any_damage_is_refused_or_read(changes: list[tuple[int, int]], end: int) -> None:
    """Whatever bytes are changed or missing, the answer is rows of one length, or nothing."""
    damaged = bytearray(MESSAGE)
    for at, byte in changes:
        damaged[at] = byte
    for message in (bytes(damaged), bytes(damaged[:end])):
        read = arrow_rows(message)
        if read is not None:
            assert len({read.lengths.size, read.at_ns.size, read.source.size}) == 1
            assert int(read.lengths.sum()) == read.values.size
            assert (read.lengths >= 0).all()


@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_read(tail: bytes) -> None:
    """Bytes that only begin like a stream are refused without harm."""
    assert arrow_rows(CONTINUATION + tail) is None or tail[:4] == b"\0\0\0\0"
