"""JSON lines and Parquet: what is read back is what was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from connectors import formats
from connectors.formats import LineWriter, TableWriter, join_lines
from core.batches import RecordBatch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def records(values: list[bytes], first: int = 0) -> RecordBatch:
    n = len(values)
    keys = [f"dev-é-{first + i}".encode() for i in range(n)]
    return RecordBatch(
        topic="t",
        values=np.frombuffer(b"".join(values), np.uint8).copy(),
        value_end=np.cumsum([len(v) for v in values], dtype=np.int64),
        keys=np.frombuffer(b"".join(keys), np.uint8).copy(),
        key_end=np.cumsum([len(k) for k in keys], dtype=np.int64),
        at_ns=np.arange(first, first + n, dtype=np.int64) + 1_700_000_000_123_456_789,
        source=np.full(n, 2**64 - 1, np.uint64),
        ordinal=np.arange(first, first + n, dtype=np.int64),
        seq=np.full(n, 2**32 - 1, np.uint32),
    )


def joined(values: list[bytes]) -> bytes:
    batch = records(values)
    out = np.zeros(batch.values.size + len(values), np.uint8)
    assert join_lines(batch.values, batch.value_end, out) == out.size
    return out.tobytes()


@given(st.lists(JSON, max_size=6), st.sampled_from([None, 1, "\r\n", "\n\t"]))
def test_every_value_becomes_one_line_that_means_the_same(
    values: list[Any], indent: int | str | None
) -> None:
    """JSON printed over several lines comes back from one line as the same value."""
    texts = [json.dumps(v, indent=indent, ensure_ascii=False) for v in values]
    lines = joined([t.encode() for t in texts]).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == values
    assert all(b"\r" not in line for line in lines)


def test_line_breaks_outside_strings_become_spaces() -> None:
    """Nothing but the bytes LF and CR is changed, and escapes within strings are left alone."""
    assert joined([b'{"a":\r\n"\\n"}', b"", b"[\n]"]) == b'{"a":  "\\n"}\n\n[ ]\n'


@given(
    st.binary(max_size=24),
    st.lists(st.integers(-(2**62), 2**62), max_size=6),
    st.integers(0, 40),
)
def test_no_offsets_lead_outside_the_arrays(arena: bytes, ends: list[int], room: int) -> None:
    """Whatever the ends say, each ends a line, and nothing outside is read or written."""
    guarded = np.full(room + 8, 0x7E, np.uint8)
    values = np.frombuffer(arena, np.uint8).copy()
    size = join_lines(values, np.array(ends, np.int64), guarded[:room])
    if room < len(arena) + len(ends):
        assert size == -1
    else:
        assert len(ends) <= size <= len(arena) + len(ends)
    assert guarded[max(size, 0) :].tobytes() == b"\x7e" * (room + 8 - max(size, 0))


def test_the_kernel_agrees_with_plain_python() -> None:
    """The compiled kernel and its Python source give the same bytes."""
    rng = np.random.default_rng(5)
    values = rng.integers(0, 16, 500).astype(np.uint8)
    ends = np.sort(rng.integers(0, 501, 40)).astype(np.int64)
    compiled, plain = np.zeros(540, np.uint8), np.zeros(540, np.uint8)
    python = getattr(join_lines, "py_func", join_lines)
    assert join_lines(values, ends, compiled) == python(values, ends, plain)
    assert compiled.tobytes() == plain.tobytes()


def test_lines_of_several_batches_follow_one_another(tmp_path: Path) -> None:
    """A line writer appends each batch; a read-only batch is as good as any."""
    writer = LineWriter(tmp_path / "x")
    batch = records([b"3"])
    batch.values.flags.writeable = False
    batch.value_end.flags.writeable = False
    for part in (records([b"1", b"2"]), records([]), batch):
        writer.write(part)
    writer.close()
    assert (tmp_path / "x").read_bytes() == b"1\n2\n3\n"


def test_parquet_keeps_every_column_to_the_last_bit(tmp_path: Path) -> None:
    """Times in ns with their zone, text, and the largest integers come back as they went in."""
    writer = TableWriter(tmp_path / "x")
    writer.write(records([b'{"a":1}', b"null"]))
    writer.write(records([], 2))
    writer.write(records(['"ü"'.encode()], 2))
    writer.close()
    table = pq.read_table(tmp_path / "x")
    assert table.schema == pa.schema(
        [
            pa.field("time", pa.timestamp("ns", "UTC"), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("value", pa.string(), nullable=False),
            pa.field("seq", pa.uint32(), nullable=False),
            pa.field("source", pa.uint64(), nullable=False),
            pa.field("ordinal", pa.int64(), nullable=False),
        ]
    )
    table.validate(full=True)
    at_ns = table["time"].combine_chunks().view(pa.int64()).to_pylist()
    assert at_ns == [1_700_000_000_123_456_789 + i for i in range(3)]
    assert table["key"].to_pylist() == ["dev-é-0", "dev-é-1", "dev-é-2"]
    assert table["value"].to_pylist() == ['{"a":1}', "null", '"ü"']
    assert table["seq"].to_pylist() == [2**32 - 1] * 3
    assert table["source"].to_pylist() == [2**64 - 1] * 3
    assert table["ordinal"].to_pylist() == [0, 1, 2]


def test_small_batches_share_a_row_group(tmp_path: Path) -> None:
    """Row groups have at least 65,536 rows, except the last."""
    writer = TableWriter(tmp_path / "x")
    for first in range(0, 70_000, 1000):
        writer.write(records([b"1"] * 1000, first))
    writer.close()
    with pq.ParquetFile(tmp_path / "x") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        codec = file.metadata.row_group(0).column(2).compression
    assert sizes == [66_000, 4_000]
    assert codec == "ZSTD"


def test_large_values_end_a_row_group_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes held back are bounded, whatever the size of the values."""
    monkeypatch.setattr(formats, "ROW_GROUP_BYTES_MAX", 1000)
    writer = TableWriter(tmp_path / "x")
    for first in range(4):
        writer.write(records([b'"' + b"x" * 600 + b'"'], first))
    writer.close()
    with pq.ParquetFile(tmp_path / "x") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2]


def test_an_abandoned_table_has_no_footer(tmp_path: Path) -> None:
    """Giving up a table adds nothing to its file, so that no reader takes it for whole."""
    writer = TableWriter(tmp_path / "x")
    writer.write(records([b"1"]))
    writer.abandon()
    del writer
    assert (tmp_path / "x").read_bytes() == b"PAR1"
