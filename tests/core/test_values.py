"""Values of messages: one row for each record, where it was, and the packet it speaks of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.arrow_out import arrow_messages
from core.outgoing import json_messages
from core.record_columns import schema
from core.topics import TELEMETRY
from core.values import Headers, Messages, named_packet, place_source, unpacked
from tests.readings import messages
from tests.records import Row, records_of

TOPIC = TELEMETRY.encode()
ROWS = [Row(b"dev", b'{"v":%d}' % i, 10**9 + i, 7, 100 + i, i) for i in range(5)]


def packed(rows: list[Row]) -> bytes:
    """Return records as one Arrow message."""
    (value,) = arrow_messages(records_of(TELEMETRY, rows), "seq", 1, 1_000_000).values
    return bytes(value)


def test_a_message_is_a_record() -> None:
    """Its bytes, its time, its place, the place after it, and what it is known by."""
    found = unpacked(messages(b"a", b"", b"ccc", partition=2, first=10))
    assert found.value_list() == [b"a", b"", b"ccc"]
    assert found.at_ns.tolist() == [1_000_000_000, 1_001_000_000, 1_002_000_000]
    assert found.partition.tolist() == [2, 2, 2]
    assert found.next_offset.tolist() == [11, 12, 13]
    assert found.next_row.tolist() == [0, 0, 0]
    assert found.source.tolist() == [0xABCD] * 3
    assert found.ordinal.tolist() == [10, 11, 12]


def test_no_messages_are_no_records() -> None:
    """Nothing comes of nothing."""
    assert len(unpacked(Messages())) == 0
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema()).close()
    empty = sink.getvalue().to_pybytes()
    assert len(unpacked(messages(empty))) == 0
    assert unpacked(messages(empty, b"a", empty)).value_list() == [b"a"]


def test_an_arrow_message_is_its_records() -> None:
    """Each with the packet it speaks of, and a place within its message."""
    found = unpacked(messages(b"a", packed(ROWS), b"b", packed(ROWS[:1]), first=4))
    assert found.value_list() == [
        b"a", *(row.value for row in ROWS), b"b", ROWS[0].value
    ]  # fmt: skip
    assert found.next_offset.tolist() == [5, 5, 5, 5, 5, 6, 7, 8]
    assert found.next_row.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert found.source.tolist() == [0xABCD, *[7] * 5, 0xABCD, 7]
    assert found.ordinal.tolist() == [4, *range(100, 105), 6, 100]
    assert found.at_ns.tolist()[1:6] == [row.at_ns for row in ROWS]


def test_a_damaged_arrow_message_is_a_record() -> None:
    """What cannot be taken apart stays whole, and is there to be rejected."""
    damaged = packed(ROWS)[:-30]
    found = unpacked(messages(damaged, packed(ROWS[:2])))
    assert found.value_list() == [damaged, ROWS[0].value, ROWS[1].value]
    assert found.next_offset.tolist() == [1, 1, 2]


@pytest.mark.parametrize("ms", [-1, -(2**63), 2**63 - 1])
def test_odd_times_are_held_within_bounds(ms: int) -> None:
    """A message without a time, or with one beyond `int64` in ns, has one that can be counted."""
    held = messages(b"a")
    held.timestamps_ms[0] = ms
    assert 0 <= int(unpacked(held).at_ns[0]) < 2**63
    early = packed([ROWS[0]._replace(at_ns=-5)])
    assert unpacked(messages(early)).at_ns.tolist() == [0]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.booleans())
def test_packets_are_known_by_headers(source: int, ordinal: int, sorted_: bool) -> None:
    """The headers our sink writes name file and number, in whatever order they come."""
    row = Row(b"k", b"{}", 1, source, ordinal, 3)
    headers: Headers = list(
        json_messages(records_of(TELEMETRY, [row]), "cloudevents").headers[0].items()
    )
    assert len(headers) == 7
    found = named_packet(sorted(headers) if sorted_ else headers, TOPIC)
    assert found == (source, ordinal)


GOOD: dict[str, bytes | None] = {
    "ce_source": b"urn:penstock:capture:00000000000000ff", "ce_id": TOPIC + b":12",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"ce_source": None}, {"ce_id": None}, {"ce_source": b"urn:other:00000000000000ff"},
     {"ce_source": b"urn:penstock:capture:00000000000000FF"},
     {"ce_source": b"urn:penstock:capture:ff"}, {"ce_source": b"00000000000000ff"},
     {"ce_source": b"urn:penstock:capture:00000000000000ff0"}, {"ce_id": b"12"},
     {"ce_id": b"network.flows.v1:12"}, {"ce_id": TOPIC + b":"}, {"ce_id": TOPIC + b":-1"},
     {"ce_id": TOPIC + b":1_0"}, {"ce_id": TOPIC + b": 1"}, {"ce_id": TOPIC + b":12:ab"},
     {"ce_id": TOPIC + b":9223372036854775808"}, {"ce_id": TOPIC + b":" + b"1" * 20}],
)  # fmt: skip
def test_headers_that_name_no_packet(change: dict[str, bytes | None]) -> None:
    """A name that is not one of ours names nothing: the record is known by its place."""
    assert named_packet(list(GOOD.items()), TOPIC) == (255, 12)
    assert named_packet(list((GOOD | change).items()), TOPIC) is None
    assert named_packet([], TOPIC) is None
    assert named_packet(None, TOPIC) is None


def test_places_differ() -> None:
    """Cluster, topic and partition each make another place, and the same one stays the same."""
    places = [("a", "t", 0), ("b", "t", 0), ("a", "u", 0), ("a", "t", 1)]
    found = [place_source(*each) for each in places]
    assert len(set(found)) == 4
    assert found == [place_source(*each) for each in places]
    assert np.array(found, np.uint64).tolist() == found
